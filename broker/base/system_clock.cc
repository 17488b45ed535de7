#include "broker/base/system_clock.h"

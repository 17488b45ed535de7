#include "broker/base/status.h"

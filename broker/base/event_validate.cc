#include "broker/base/event.h"

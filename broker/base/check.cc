#include "broker/base/check.h"

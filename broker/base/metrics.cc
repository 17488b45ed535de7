#include "broker/base/metrics.h"

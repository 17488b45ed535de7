#include "broker/base/random.h"

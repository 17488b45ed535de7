#include "broker/base/hash.h"

#include "broker/base/wire.h"

#include "broker/base/crc32c.h"

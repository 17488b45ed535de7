#include "broker/base/system_file_system.h"

#include "broker/base/time_text.h"

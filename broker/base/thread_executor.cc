#include "broker/base/thread_executor.h"

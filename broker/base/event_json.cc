#include "broker/base/event_json.h"

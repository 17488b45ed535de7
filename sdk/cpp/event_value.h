// The canonical string form of an attribute's value, as the CloudEvents type system has it.

#pragma once

#include <string>

#include "io/cloudevents/v1/cloudevents.pb.h"

namespace tocsin::sdk::internal {

std::string CanonicalText(const ::io::cloudevents::v1::CloudEvent_CloudEventAttributeValue& value);

}  // namespace tocsin::sdk::internal

// Which filters Knative Eventing accepts, from its own tests.

#include <gtest/gtest.h>

#include "broker/base/status.h"
#include "broker/routing/filter.h"
#include "tests/support/vectors.h"

namespace tocsin {
namespace {

using nlohmann::json;

// `"all": null` is an empty Go slice there; here an operator names its operands.
bool HasNull(const json& value) {
  if (value.is_null()) return true;
  if (!value.is_structured()) return false;
  for (const json& part : value) {
    if (HasNull(part)) return true;
  }
  return false;
}

TEST(KnativeVectorsTest, FiltersAreAcceptedAndRefusedAlike) {
  std::size_t count = 0;
  for (const json& entry : ReadVectors("knative/validation_cases.json")) {
    if (!entry.contains("filters")) continue;
    const json& filters = entry["filters"];
    if (HasNull(filters) && !filters.is_null()) continue;
    const absl::StatusOr<FilterPtr> filter = FilterFromJson(filters.dump());
    EXPECT_EQ(filter.ok(), entry["valid"].get<bool>())
        << entry["name"] << " " << filters << " " << filter.status();
    ++count;
  }
  EXPECT_EQ(count, 20u);
}

}  // namespace
}  // namespace tocsin

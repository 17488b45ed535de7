// Whether one JSON value is a part of another: objects member by member, so that those not named
// may be there too; arrays element by element and of one length; numbers by their values.

#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tocsin {

// nullopt: `part` is in `whole`. Else where it differs, `data.total: expected 5, was 6`. Both are
// well-formed JSON.
std::optional<std::string> JsonDifference(std::string_view part, std::string_view whole);

}  // namespace tocsin

#include "connectors/zeromq/zeromq_spec.h"

#include <fmt/format.h>

#include <algorithm>

namespace tocsin {
namespace {

bool IsZ85Key(std::string_view key) {
  constexpr std::string_view kOthers = ".-:+=^!/*?&<>()[]{}@%$#";
  return key.size() == 40 && std::all_of(key.begin(), key.end(), [&](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                  kOthers.find(c) != std::string_view::npos;
         });
}

bool IsEndpoint(std::string_view text) {
  for (const std::string_view scheme : {"tcp://", "ipc://", "inproc://"}) {
    if (text.starts_with(scheme) && text.size() > scheme.size()) return true;
  }
  return false;
}

}  // namespace

absl::Status ValidateZeromqSpec(const ZeromqSpec& spec) {
  for (const auto* endpoints : {&spec.bind, &spec.connect}) {
    for (const std::string& endpoint : *endpoints) {
      if (IsEndpoint(endpoint)) continue;
      return absl::InvalidArgumentError(
          fmt::format("'{}' is no endpoint; write tcp://address:port or ipc:///path", endpoint));
    }
  }
  // The secret one is not shown.
  if (!spec.curve_secret.empty() && !IsZ85Key(spec.curve_secret)) {
    return absl::InvalidArgumentError("`secret` is no key in Z85: it has 40 characters");
  }
  for (const auto& [name, key] :
       {std::pair("public", &spec.curve_public), std::pair("server", &spec.curve_server)}) {
    if (!key->empty() && !IsZ85Key(*key)) {
      return absl::InvalidArgumentError(
          fmt::format("`{}` is no key in Z85: it has 40 characters", name));
    }
  }
  for (const std::string& key : spec.curve_clients) {
    if (!IsZ85Key(key)) {
      return absl::InvalidArgumentError(
          fmt::format("'{}' of `clients` is no key in Z85: it has 40 characters", key));
    }
  }
  if (std::count(spec.parts.begin(), spec.parts.end(), ZeromqPart::kData) > 1) {
    return absl::InvalidArgumentError("`parts` has `data` more than once");
  }
  return absl::OkStatus();
}

std::vector<std::string_view> ZeromqTemplateNames() { return {"topic"}; }

}  // namespace tocsin

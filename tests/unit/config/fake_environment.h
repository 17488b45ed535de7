// FakeEnvironment: variables and files from maps.

#pragma once

#include <map>
#include <string>

#include "broker/config/environment.h"

namespace tocsin {

class FakeEnvironment final : public ConfigEnvironment {
 public:
  std::optional<std::string> Variable(const std::string& name) const override {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  }

  absl::StatusOr<std::string> ReadFile(const std::string& path,
                                       std::size_t bytes_max) const override {
    const auto found = files.find(path);
    if (found == files.end()) return absl::NotFoundError("cannot read " + path + ": no such file");
    if (found->second.size() > bytes_max) return absl::OutOfRangeError(path + " is too large");
    return found->second;
  }

  std::map<std::string, std::string> variables;
  std::map<std::string, std::string> files;
};

}  // namespace tocsin

// ConfigEnvironment: what a configuration may take from outside: variables and files.

#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace tocsin {

class ConfigEnvironment {
 public:
  virtual ~ConfigEnvironment() = default;

  virtual std::optional<std::string> Variable(const std::string& name) const = 0;

  // The whole file.
  //   kNotFound, kPermissionDenied  as the system says
  //   kOutOfRange                   it has more than `bytes_max`
  virtual absl::StatusOr<std::string> ReadFile(const std::string& path,
                                               std::size_t bytes_max) const = 0;
};

// The process's variables and the machine's files. Thread-safe while nobody sets variables.
class SystemConfigEnvironment final : public ConfigEnvironment {
 public:
  std::optional<std::string> Variable(const std::string& name) const override;
  absl::StatusOr<std::string> ReadFile(const std::string& path,
                                       std::size_t bytes_max) const override;
};

}  // namespace tocsin

// JsonOfYaml: a node of the configuration as JSON, remembering where each value of the text came
// from. Words in quotes are strings; others are what JSON takes them for (numbers, true, false,
// null), else strings.
//
// Threading: one thread. Lifetime: the reader outlives it.

#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "broker/config/section.h"

namespace tocsin {

class JsonOfYaml {
 public:
  // Beyond `bytes_max` nothing more is appended: whoever reads the text says that it is too long.
  JsonOfYaml(ConfigReader& reader, std::size_t bytes_max)
      : reader_(reader), bytes_max_(bytes_max) {}

  // False after an error.
  bool Append(YamlNode node);

  const std::string& json() const { return json_; }

  // Of the innermost value round the byte.
  YamlLocation At(std::size_t offset) const;

 private:
  struct Place {
    std::size_t offset;
    YamlLocation location;
  };

  bool Scalar(YamlNode node);
  bool List(YamlNode node);
  bool Map(YamlNode node);

  ConfigReader& reader_;
  const std::size_t bytes_max_;
  std::string json_;
  std::vector<Place> places_;
};

}  // namespace tocsin

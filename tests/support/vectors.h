// Files of the vector folder (cmake/TocsinVectors.cmake) as JSON.

#pragma once

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "broker/base/check.h"

namespace tocsin {

inline std::string ReadTestFile(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  TOCSIN_CHECK(file != nullptr, "cannot open {}", path);
  std::string text;
  char buffer[65536];
  while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, file)) {
    text.append(buffer, count);
  }
  std::fclose(file);
  return text;
}

// `path` beneath the vector folder.
inline nlohmann::json ReadVectors(const std::string& path) {
  const char* folder = std::getenv("TOCSIN_VECTORS");
  TOCSIN_CHECK(folder != nullptr, "run this test by ctest, or set TOCSIN_VECTORS");
  return nlohmann::json::parse(ReadTestFile(std::string(folder) + "/" + path));
}

}  // namespace tocsin

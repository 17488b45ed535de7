// Writes one JSON document piece by piece, with commas and indentation where they belong. Pure.
//
// Compact inside elements of an array: one element a line, so that output of any length can be
// streamed, searched by line and cut. TOCSIN_CHECKs that what was opened is closed.
//
//   JsonWriter json;
//   json.Object().Field("name", name).Key("ages").Array().Value(1).End().End();
//   std::string text = json.Take();

#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tocsin::cli {

class JsonWriter {
 public:
  // kLine: the whole document on one line.
  enum class Layout { kLines, kLine };

  explicit JsonWriter(Layout layout = Layout::kLines) : layout_(layout) {}

  JsonWriter& Object();
  JsonWriter& Array();
  JsonWriter& End();  // of the innermost object or array

  JsonWriter& Key(std::string_view name);
  JsonWriter& Value(std::string_view text);
  JsonWriter& Value(const char* text) { return Value(std::string_view(text)); }
  JsonWriter& Value(bool value);
  JsonWriter& Value(double value);  // null if not finite
  template <std::integral T>
  JsonWriter& Value(T value) {
    return Number(std::to_string(value));
  }
  JsonWriter& Null();
  JsonWriter& Raw(std::string_view json);  // well-formed JSON, written as it is

  template <typename T>
  JsonWriter& Field(std::string_view name, const T& value) {
    return Key(name).Value(value);
  }

  // What was written since the last Take(). The document ends with a newline.
  std::string Take();

 private:
  struct Level {
    char close;
    bool empty = true;
    bool lines = false;  // its elements are on lines of their own
  };

  JsonWriter& Number(std::string_view digits);
  void Begin();  // of a value: the comma and the line before it
  void Open(char open, char close);

  Layout layout_;
  std::string out_;
  std::vector<Level> levels_;
  bool after_key_ = false;
};

}  // namespace tocsin::cli

// A strict JSON (RFC 8259) reader that copies nothing it need not, and the writing of strings.
//
// Strict: duplicate names (unless the caller takes them), lone surrogates, numbers beyond a double,
// nesting deeper than the limit, malformed UTF-8 and anything after the value are errors, so that
// no two readers of one text can disagree on what it says. Time is linear, the stack bounded by the
// depth.
//
// Threading: an object is used by one thread. Lifetime: the text outlives the scanner.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace tocsin {

inline constexpr std::size_t kJsonDepthMax = 128;

enum class JsonKind : std::uint8_t { kNull, kBoolean, kNumber, kString, kArray, kObject };

// One value: its kind and its text as it was written, without white space round it.
struct JsonValue {
  JsonKind kind = JsonKind::kNull;
  std::string_view raw;
};

struct JsonMember {
  std::string name;  // unescaped
  JsonValue value;
};

// Whether an object may have two members of one name.
enum class JsonNames : std::uint8_t { kOnce, kMayRepeat };

class JsonScanner {
 public:
  explicit JsonScanner(std::string_view text, std::size_t depth_max = kJsonDepthMax,
                       JsonNames names = JsonNames::kOnce)
      : text_(text), depth_max_(depth_max), names_(names) {}

  // The whole text is one value.
  //   kInvalidArgument  `line L, column C: what is wrong`, columns in bytes from 1
  absl::Status ReadDocument(JsonValue& value);

 private:
  bool Value(JsonValue& value, std::size_t depth);
  bool Object(std::size_t depth);
  bool Array(std::size_t depth);
  bool String(bool& escaped);
  bool Escape();
  bool Hex4(std::uint32_t& unit);
  bool Number();
  bool Literal(std::string_view word);
  void SkipSpace();
  bool Fail(const char* what);

  std::string_view text_;
  std::size_t depth_max_;
  JsonNames names_;
  std::size_t position_ = 0;
  const char* error_ = nullptr;
};

// The parts of a value that ReadDocument found well-formed; TOCSIN_CHECKs its kind. The parts'
// texts point into `value.raw`.
std::vector<JsonMember> JsonMembers(const JsonValue& value);
std::vector<JsonValue> JsonElements(const JsonValue& value);
std::string JsonString(const JsonValue& value);

// Appends `text` as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD.
void AppendJsonString(std::string& out, std::string_view text);

// Appends well-formed JSON without the white space between its tokens.
void AppendJsonCompact(std::string& out, std::string_view json);

}  // namespace tocsin

#include "broker/base/json_scan.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <charconv>
#include <cmath>
#include <memory>

#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/charconv.h"
#include "broker/base/check.h"

namespace tocsin {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

void AppendUtf8(std::string& out, std::uint32_t point) {
  const auto put = [&](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xC0 | point >> 6);
    put(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    put(0xE0 | point >> 12);
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  } else {
    put(0xF0 | point >> 18);
    put(0x80 | (point >> 12 & 0x3F));
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  }
}

std::uint32_t HexUnit(std::string_view text) {
  std::uint32_t unit = 0;
  std::from_chars(text.data(), text.data() + 4, unit, 16);
  return unit;
}

// Of the inside of a string that was found well-formed.
std::string Unescape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out.push_back(text[i]);
      continue;
    }
    switch (text[++i]) {
      case 'b':
        out.push_back('\b');
        break;
      case 'f':
        out.push_back('\f');
        break;
      case 'n':
        out.push_back('\n');
        break;
      case 'r':
        out.push_back('\r');
        break;
      case 't':
        out.push_back('\t');
        break;
      case 'u': {
        std::uint32_t point = HexUnit(text.substr(i + 1, 4));
        i += 4;
        if (point >= 0xD800 && point < 0xDC00) {
          const std::uint32_t low = HexUnit(text.substr(i + 3, 4));
          point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
          i += 6;
        }
        AppendUtf8(out, point);
        break;
      }
      default:
        out.push_back(text[i]);
    }
  }
  return out;
}

// The names of one object; a handful is compared one by one.
class NameSet {
 public:
  bool Insert(std::string_view name) {
    if (!many_.empty()) return many_.insert(name).second;
    for (const std::string_view other : few_) {
      if (other == name) return false;
    }
    few_.push_back(name);
    if (few_.size() > 16) many_.insert(few_.begin(), few_.end());
    return true;
  }

 private:
  absl::InlinedVector<std::string_view, 8> few_;
  absl::flat_hash_set<std::string_view> many_;
};

}  // namespace

bool JsonScanner::Fail(const char* what) {
  error_ = what;
  return false;
}

void JsonScanner::SkipSpace() {
  while (position_ < text_.size() && IsSpace(text_[position_])) ++position_;
}

bool JsonScanner::Literal(std::string_view word) {
  if (text_.substr(position_, word.size()) != word) return Fail("expected a JSON value");
  position_ += word.size();
  return true;
}

bool JsonScanner::Hex4(std::uint32_t& unit) {
  unit = 0;
  if (text_.size() - position_ < 4) return Fail("bad \\u escape");
  for (int i = 0; i < 4; ++i) {
    const char c = text_[position_];
    std::uint32_t digit = 0;
    if (IsDigit(c)) {
      digit = static_cast<std::uint32_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<std::uint32_t>(c - 'a' + 10);
    } else if (c >= 'A' && c <= 'F') {
      digit = static_cast<std::uint32_t>(c - 'A' + 10);
    } else {
      return Fail("bad \\u escape");
    }
    unit = unit << 4 | digit;
    ++position_;
  }
  return true;
}

bool JsonScanner::Escape() {
  ++position_;  // the backslash
  if (position_ >= text_.size()) return Fail("string without end");
  const char c = text_[position_++];
  if (c != 'u') {
    return std::string_view("\"\\/bfnrt").find(c) != std::string_view::npos
               ? true
               : Fail("unknown escape");
  }
  std::uint32_t unit = 0;
  if (!Hex4(unit)) return false;
  if (unit >= 0xDC00 && unit <= 0xDFFF) return Fail("lone surrogate");
  if (unit < 0xD800 || unit > 0xDBFF) return true;
  if (text_.substr(position_, 2) != "\\u") return Fail("lone surrogate");
  position_ += 2;
  if (!Hex4(unit)) return false;
  return unit >= 0xDC00 && unit <= 0xDFFF ? true : Fail("lone surrogate");
}

bool JsonScanner::String(bool& escaped) {
  escaped = false;
  ++position_;  // the quote
  while (position_ < text_.size()) {
    const auto c = static_cast<unsigned char>(text_[position_]);
    if (c == '"') {
      ++position_;
      return true;
    }
    if (c < 0x20) return Fail("control character in a string");
    if (c == '\\') {
      escaped = true;
      if (!Escape()) return false;
    } else {
      ++position_;
    }
  }
  return Fail("string without end");
}

bool JsonScanner::Number() {
  const std::size_t start = position_;
  const auto digits = [&] {
    const std::size_t first = position_;
    while (position_ < text_.size() && IsDigit(text_[position_])) ++position_;
    return position_ - first;
  };
  if (text_[position_] == '-') ++position_;
  const std::size_t whole = position_;
  const std::size_t whole_digits = digits();
  if (whole_digits == 0) return Fail("expected a JSON value");
  if (text_[whole] == '0' && whole_digits > 1) return Fail("number with a leading zero");
  bool may_overflow = whole_digits > 300;
  if (position_ < text_.size() && text_[position_] == '.') {
    ++position_;
    if (digits() == 0) return Fail("number without digits after the point");
  }
  if (position_ < text_.size() && (text_[position_] == 'e' || text_[position_] == 'E')) {
    ++position_;
    if (position_ < text_.size() && (text_[position_] == '+' || text_[position_] == '-')) {
      ++position_;
    }
    if (digits() == 0) return Fail("number without an exponent");
    may_overflow = true;
  }
  if (may_overflow) {
    double value = 0;
    const absl::from_chars_result result =
        absl::from_chars(text_.data() + start, text_.data() + position_, value);
    // Too small is zero to everybody; too large is infinity to some and an error to others.
    if (result.ec == std::errc::result_out_of_range && std::fabs(value) > 1) {
      return Fail("number out of the range of a double");
    }
  }
  return true;
}

bool JsonScanner::Array(std::size_t depth) {
  if (depth > depth_max_) return Fail("nested too deeply");
  ++position_;
  SkipSpace();
  if (position_ < text_.size() && text_[position_] == ']') {
    ++position_;
    return true;
  }
  while (true) {
    JsonValue value;
    if (!Value(value, depth)) return false;
    SkipSpace();
    if (position_ >= text_.size()) return Fail("array without end");
    const char c = text_[position_++];
    if (c == ']') return true;
    if (c != ',') {
      --position_;
      return Fail("expected `,` or `]`");
    }
  }
}

bool JsonScanner::Object(std::size_t depth) {
  if (depth > depth_max_) return Fail("nested too deeply");
  ++position_;
  SkipSpace();
  if (position_ < text_.size() && text_[position_] == '}') {
    ++position_;
    return true;
  }
  NameSet names;
  std::vector<std::unique_ptr<std::string>> unescaped;
  while (true) {
    SkipSpace();
    if (position_ >= text_.size()) return Fail("object without end");
    if (text_[position_] != '"') return Fail("expected a name in quotes");
    const std::size_t start = position_;
    bool escaped = false;
    if (!String(escaped)) return false;
    std::string_view name = text_.substr(start + 1, position_ - start - 2);
    if (escaped) {
      name = *unescaped.emplace_back(std::make_unique<std::string>(Unescape(name)));
    }
    if (names_ == JsonNames::kOnce && !names.Insert(name)) {
      position_ = start;
      return Fail("duplicate name");
    }
    SkipSpace();
    if (position_ >= text_.size() || text_[position_] != ':') return Fail("expected `:`");
    ++position_;
    JsonValue value;
    if (!Value(value, depth)) return false;
    SkipSpace();
    if (position_ >= text_.size()) return Fail("object without end");
    const char c = text_[position_++];
    if (c == '}') return true;
    if (c != ',') {
      --position_;
      return Fail("expected `,` or `}`");
    }
  }
}

bool JsonScanner::Value(JsonValue& value, std::size_t depth) {
  SkipSpace();
  if (position_ >= text_.size()) return Fail("expected a JSON value");
  const std::size_t start = position_;
  bool ok = false;
  bool escaped = false;
  switch (text_[position_]) {
    case '{':
      value.kind = JsonKind::kObject;
      ok = Object(depth + 1);
      break;
    case '[':
      value.kind = JsonKind::kArray;
      ok = Array(depth + 1);
      break;
    case '"':
      value.kind = JsonKind::kString;
      ok = String(escaped);
      break;
    case 't':
      value.kind = JsonKind::kBoolean;
      ok = Literal("true");
      break;
    case 'f':
      value.kind = JsonKind::kBoolean;
      ok = Literal("false");
      break;
    case 'n':
      value.kind = JsonKind::kNull;
      ok = Literal("null");
      break;
    default:
      value.kind = JsonKind::kNumber;
      ok = Number();
  }
  if (ok) value.raw = text_.substr(start, position_ - start);
  return ok;
}

absl::Status JsonScanner::ReadDocument(JsonValue& value) {
  position_ = 0;
  bool ok = simdjson::validate_utf8(text_.data(), text_.size()) || Fail("not valid UTF-8");
  ok = ok && Value(value, 0);
  if (ok) {
    SkipSpace();
    ok = position_ == text_.size() || Fail("something follows the value");
  }
  if (ok) return absl::OkStatus();
  std::size_t line = 1;
  std::size_t column = 1;
  for (const char c : text_.substr(0, position_)) {
    ++column;
    if (c == '\n') {
      ++line;
      column = 1;
    }
  }
  return absl::InvalidArgumentError(fmt::format("line {}, column {}: {}", line, column, error_));
}

namespace {

// Where a value that was found well-formed ends, and its kind.
JsonValue TakeValue(std::string_view text, std::size_t& position) {
  const std::size_t start = position;
  JsonValue value;
  std::size_t depth = 0;
  const auto skip_string = [&] {
    for (++position; text[position] != '"'; ++position) {
      if (text[position] == '\\') ++position;
    }
    ++position;
  };
  switch (text[position]) {
    case '"':
      value.kind = JsonKind::kString;
      skip_string();
      break;
    case '{':
    case '[':
      value.kind = text[position] == '{' ? JsonKind::kObject : JsonKind::kArray;
      do {
        const char c = text[position];
        if (c == '"') {
          skip_string();
          continue;
        }
        if (c == '{' || c == '[') ++depth;
        if (c == '}' || c == ']') --depth;
        ++position;
      } while (depth > 0);
      break;
    default: {
      const char c = text[position];
      value.kind = c == 'n'               ? JsonKind::kNull
                   : c == 't' || c == 'f' ? JsonKind::kBoolean
                                          : JsonKind::kNumber;
      while (position < text.size() && !IsSpace(text[position]) && text[position] != ',' &&
             text[position] != ']' && text[position] != '}') {
        ++position;
      }
    }
  }
  value.raw = text.substr(start, position - start);
  return value;
}

void SkipSeparators(std::string_view text, std::size_t& position) {
  while (IsSpace(text[position]) || text[position] == ',' || text[position] == ':') ++position;
}

}  // namespace

std::vector<JsonMember> JsonMembers(const JsonValue& value) {
  TOCSIN_CHECK(value.kind == JsonKind::kObject);
  std::vector<JsonMember> members;
  std::size_t position = 1;
  while (true) {
    SkipSeparators(value.raw, position);
    if (value.raw[position] == '}') return members;
    JsonMember& member = members.emplace_back();
    member.name = JsonString(TakeValue(value.raw, position));
    SkipSeparators(value.raw, position);
    member.value = TakeValue(value.raw, position);
  }
}

std::vector<JsonValue> JsonElements(const JsonValue& value) {
  TOCSIN_CHECK(value.kind == JsonKind::kArray);
  std::vector<JsonValue> elements;
  std::size_t position = 1;
  while (true) {
    SkipSeparators(value.raw, position);
    if (value.raw[position] == ']') return elements;
    elements.push_back(TakeValue(value.raw, position));
  }
}

std::string JsonString(const JsonValue& value) {
  TOCSIN_CHECK(value.kind == JsonKind::kString);
  return Unescape(value.raw.substr(1, value.raw.size() - 2));
}

void AppendJsonString(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  const bool utf8 = simdjson::validate_utf8(text.data(), text.size());
  out.push_back('"');
  std::size_t copied = 0;  // what needs no escape is copied in runs
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x20 && byte != 0x7F && c != '"' && c != '\\';
    if (plain && (utf8 || byte < 0x80)) continue;
    out.append(text, copied, i - copied);
    copied = i + 1;
    if (plain) {
      out += "\xEF\xBF\xBD";
    } else if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else {
      out += "\\u00";
      out.push_back(kHex[byte >> 4]);
      out.push_back(kHex[byte & 15]);
    }
  }
  out.append(text, copied);
  out.push_back('"');
}

void AppendJsonCompact(std::string& out, std::string_view json) {
  bool in_string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (!in_string && IsSpace(c)) continue;
    out.push_back(c);
    if (in_string && c == '\\' && i + 1 < json.size()) {
      out.push_back(json[++i]);
    } else if (c == '"') {
      in_string = !in_string;
    }
  }
}

}  // namespace tocsin

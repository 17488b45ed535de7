#include "broker/routing/json_tokens.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "broker/base/check.h"
#include "broker/base/json_scan.h"
#include "broker/routing/number.h"

namespace tocsin {
namespace {

// What is kept between texts; a larger text's memory is given back.
constexpr std::size_t kKeptBytesMax = 256 * 1024;
// A number of so few digits and so small an exponent is within a double's range.
constexpr std::ptrdiff_t kPlainDigitsMax = 200;

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool IsDigit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

// Eight at a time; there are eight bytes to read behind every text.
const char* PassDigits(const char* at) {
  while (true) {
    std::uint64_t bytes = 0;
    std::memcpy(&bytes, at, sizeof bytes);
    const bool all = (bytes & 0xF0F0F0F0F0F0F0F0) == 0x3030303030303030 &&
                     ((bytes + 0x0606060606060606) & 0xF0F0F0F0F0F0F0F0) == 0x3030303030303030;
    if (!all) break;
    at += sizeof bytes;
  }
  while (IsDigit(*at)) ++at;
  return at;
}

bool IsNumber(const char* begin, const char* end) {
  const char* at = begin;
  if (*at == '-') ++at;
  const char* const whole = at;
  at = PassDigits(at);
  if (at == whole || (*whole == '0' && at - whole > 1)) return false;
  bool plain = at - whole <= kPlainDigitsMax;
  if (*at == '.') {
    const char* const part = ++at;
    at = PassDigits(at);
    if (at == part) return false;
  }
  if (*at == 'e' || *at == 'E') {
    ++at;
    if (*at == '+' || *at == '-') ++at;
    const char* const exponent = at;
    at = PassDigits(at);
    if (at == exponent) return false;
    plain = plain && at - exponent <= 2;
  }
  if (at != end) return false;
  return plain || Number::Parse({begin, static_cast<std::size_t>(end - begin)}).has_value();
}

bool IsWord(const char* begin, const char* end) {
  const std::string_view word(begin, static_cast<std::size_t>(end - begin));
  switch (*begin) {
    case 't':
      return word == "true";
    case 'f':
      return word == "false";
    case 'n':
      return word == "null";
    default:
      return IsNumber(begin, end);
  }
}

}  // namespace

struct JsonTokens::Parser {
  std::unique_ptr<simdjson::internal::dom_parser_implementation> stages;
  std::unique_ptr<char[]> text;
  std::size_t capacity = 0;

  void Reserve(std::size_t bytes) {
    if (bytes <= capacity && (capacity <= kKeptBytesMax || bytes > kKeptBytesMax)) return;
    capacity = std::max<std::size_t>(bytes, 4096);
    text = std::make_unique<char[]>(capacity + simdjson::SIMDJSON_PADDING);
    const auto made = simdjson::get_active_implementation()->create_dom_parser_implementation(
        capacity, 1, stages);
    TOCSIN_CHECK(made == simdjson::SUCCESS, "no room for {} bytes of JSON", bytes);
  }
};

JsonTokens::JsonTokens() = default;
JsonTokens::~JsonTokens() = default;
JsonTokens::JsonTokens(JsonTokens&&) noexcept = default;
JsonTokens& JsonTokens::operator=(JsonTokens&&) noexcept = default;

bool JsonTokens::Begin(std::string_view json) {
  if (json.empty()) return false;
  if (parser_ == nullptr) parser_ = std::make_unique<Parser>();
  Parser& parser = *parser_;
  parser.Reserve(json.size());
  char* const text = parser.text.get();
  std::memcpy(text, json.data(), json.size());
  // No token goes on behind the end, whatever the text before this one was.
  std::memset(text + json.size(), 0, simdjson::SIMDJSON_PADDING);
  const auto found = parser.stages->stage1(reinterpret_cast<const std::uint8_t*>(text), json.size(),
                                           simdjson::stage1_mode::regular);
  if (found != simdjson::SUCCESS) return false;
  text_ = text;
  count_ = parser.stages->n_structural_indexes;
  places_ = parser.stages->structural_indexes.get();
  next_ = 0;
  has_escapes_ = std::memchr(text, '\\', json.size()) != nullptr;
  return count_ > 0 && places_[count_] == json.size();
}

const char* JsonTokens::EndOf(const char* begin) const {
  const char* end = text_ + places_[next_ + 1];
  while (end > begin && IsSpace(end[-1])) --end;
  return end;
}

bool JsonTokens::String(std::string_view& inside, bool& escaped) {
  const char* const begin = text_ + places_[next_] + 1;
  const char* const end = EndOf(begin) - 1;
  // The first stage proved that the string ends, and only space is between its end and what comes.
  if (end < begin || *end != '"') return false;
  inside = {begin, static_cast<std::size_t>(end - begin)};
  escaped = has_escapes_ && inside.find('\\') != std::string_view::npos;
  if (escaped) {
    JsonValue value;
    const std::string_view quoted(begin - 1, inside.size() + 2);
    if (!JsonScanner(quoted).ReadDocument(value).ok()) return false;
  }
  ++next_;
  return true;
}

bool JsonTokens::Word(std::string_view& word) {
  const char* const begin = text_ + places_[next_];
  const char* const end = EndOf(begin);
  if (!IsWord(begin, end)) return false;
  word = {begin, static_cast<std::size_t>(end - begin)};
  ++next_;
  return true;
}

bool JsonTokens::PassString() {
  if (!has_escapes_) {
    ++next_;
    return true;
  }
  std::string_view inside;
  bool escaped = false;
  return String(inside, escaped);
}

bool JsonTokens::PassWord() {
  const char* const begin = text_ + places_[next_];
  if (!IsWord(begin, EndOf(begin))) return false;
  ++next_;
  return true;
}

bool JsonTokens::Skip(std::size_t depth_max) {
  std::array<char, kJsonDepthMax> open;  // the brackets that close what is open
  std::size_t depth = 0;
  depth_max = std::min(depth_max, open.size());
  bool value = true;  // one must come now, after a name if it is a member
  while (true) {
    if (value && depth > 0 && open[depth - 1] == '}') {
      if (First() != '"' || !PassString() || !Take(':')) return false;
    }
    if (value) {
      value = false;
      switch (First()) {
        case '{':
        case '[': {
          if (depth == depth_max) return false;
          const char close = First() == '{' ? '}' : ']';
          ++next_;
          if (First() == close) {
            ++next_;
            break;
          }
          open[depth++] = close;
          value = true;
          continue;
        }
        case '"':
          if (!PassString()) return false;
          break;
        default:
          if (at_end() || !PassWord()) return false;
      }
    }
    if (depth == 0) return true;
    if (Take(',')) {
      value = true;
    } else if (Take(open[depth - 1])) {
      --depth;
    } else {
      return false;
    }
  }
}

}  // namespace tocsin

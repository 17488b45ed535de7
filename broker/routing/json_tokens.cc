#include "broker/routing/json_tokens.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <bit>
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

// Of the token that begins at `begin`, without the white space before the next one.
const char* EndOfToken(const char* begin, const char* next) {
  while (next > begin && IsSpace(next[-1])) --next;
  return next;
}

// There are kReadAhead bytes to read behind every text.
constexpr std::size_t kReadAhead = 16;
static_assert(simdjson::SIMDJSON_PADDING >= kReadAhead);

#if defined(__SSE2__)
const char* PassDigits(const char* at) {
  while (true) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    const __m128i value = _mm_sub_epi8(bytes, _mm_set1_epi8('0'));
    const __m128i is_digit = _mm_cmpeq_epi8(_mm_min_epu8(value, _mm_set1_epi8(9)), value);
    const unsigned others = ~static_cast<unsigned>(_mm_movemask_epi8(is_digit)) & 0xFFFF;
    if (others != 0) return at + std::countr_zero(others);
    at += sizeof bytes;
  }
}
#else
const char* PassDigits(const char* at) {
  while (static_cast<unsigned char>(*at - '0') < 10) ++at;
  return at;
}
#endif

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

bool JsonTokens::String(std::string_view& inside, bool& escaped) {
  const char* const begin = text_ + places_[next_] + 1;
  const char* const end = EndOfToken(begin, text_ + places_[next_ + 1]) - 1;
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
  const char* const end = EndOfToken(begin, text_ + places_[next_ + 1]);
  if (!IsWord(begin, end)) return false;
  word = {begin, static_cast<std::size_t>(end - begin)};
  ++next_;
  return true;
}

bool JsonTokens::Skip(std::size_t depth_max) {
  std::array<char, kJsonDepthMax> open;  // the brackets that close what is open
  std::size_t depth = 0;
  depth_max = std::min(depth_max, open.size());
  const char* const text = text_;
  const std::uint32_t* at = places_ + next_;
  const std::uint32_t* const end = places_ + count_;
  const auto pass_string = [this, &at] {
    if (!has_escapes_) {
      ++at;
      return true;
    }
    std::string_view inside;
    bool escaped = false;
    next_ = static_cast<std::uint32_t>(at - places_);
    if (!String(inside, escaped)) return false;
    at = places_ + next_;
    return true;
  };
  while (true) {
    if (depth > 0 && open[depth - 1] == '}') {
      if (text[*at] != '"' || !pass_string() || text[*at] != ':') return false;
      ++at;
    }
    const char first = text[*at];
    if (first == '"') {
      if (!pass_string()) return false;
    } else if (first == '{' || first == '[') {
      if (depth == depth_max) return false;
      const char close = first == '{' ? '}' : ']';
      ++at;
      if (text[*at] != close) {
        open[depth++] = close;
        continue;
      }
      ++at;
    } else {
      if (at == end || !IsWord(text + *at, EndOfToken(text + *at, text + at[1]))) return false;
      ++at;
    }
    // Behind a value: the next one, or the ends of what it was in.
    while (true) {
      if (depth == 0) {
        next_ = static_cast<std::uint32_t>(at - places_);
        return true;
      }
      const char next = text[*at];
      if (next != ',' && next != open[depth - 1]) return false;
      ++at;
      if (next == ',') break;
      --depth;
    }
  }
}

}  // namespace tocsin

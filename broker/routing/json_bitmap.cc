#include "broker/routing/json_bitmap.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "broker/base/json_scan.h"

#if defined(__x86_64__)
#include <immintrin.h>
// One function and what is inlined into it; the rest of the program asks no such processor.
#define TOCSIN_AVX2 __attribute__((target("avx2,bmi,bmi2,pclmul")))
#define TOCSIN_AVX2_INLINE TOCSIN_AVX2 __attribute__((always_inline)) inline
#endif

namespace tocsin {
namespace {

// Characters of a text whose memory (five times that) is kept between texts.
constexpr std::size_t kKeptBytesMax = 256 * 1024;
constexpr std::uint32_t kBlock = 64;
// Levels: a bit each. Deeper texts are left to others.
constexpr std::uint32_t kDepthMax = 64;
static_assert(kDepthMax < kJsonDepthMax);

}  // namespace

#if defined(__x86_64__)
namespace {

constexpr std::uint64_t kLast = std::uint64_t{1} << 63;

struct Block {
  __m256i low;
  __m256i high;
};

TOCSIN_AVX2_INLINE std::uint64_t MaskOf(__m256i low, __m256i high) {
  const auto lower = static_cast<std::uint32_t>(_mm256_movemask_epi8(low));
  const auto upper = static_cast<std::uint32_t>(_mm256_movemask_epi8(high));
  return std::uint64_t{upper} << 32 | lower;
}

TOCSIN_AVX2_INLINE std::uint64_t Equal(const Block& block, char c) {
  const __m256i wanted = _mm256_set1_epi8(c);
  return MaskOf(_mm256_cmpeq_epi8(block.low, wanted), _mm256_cmpeq_epi8(block.high, wanted));
}

// Bit i: the number of bits up to and with i is odd.
TOCSIN_AVX2_INLINE std::uint64_t Parity(std::uint64_t bits) {
  const __m128i wide = _mm_set_epi64x(0, static_cast<std::int64_t>(bits));
  return static_cast<std::uint64_t>(
      _mm_cvtsi128_si64(_mm_clmulepi64_si128(wide, _mm_set1_epi8('\xff'), 0)));
}

// The characters behind these; `carry`: those of the block before, of which the last counts.
inline std::uint64_t Shift(std::uint64_t bits, std::uint64_t& carry) {
  const std::uint64_t shifted = bits << 1 | carry >> 63;
  carry = bits;
  return shifted;
}

// Over white space to where the next token begins.
inline std::uint64_t OverSpace(std::uint64_t at, std::uint64_t space, std::uint64_t& carry) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(at & space, space, &sum)) carry |= kLast;
  return (at | sum) & ~space;
}

// Of the runs that have a bit of `first` as their lowest one (or go on from the block before): the
// first bits behind them.
inline std::uint64_t Behind(std::uint64_t first, std::uint64_t runs, std::uint64_t& carry) {
  std::uint64_t sum = 0;
  const bool over = __builtin_add_overflow(runs, first, &sum);
  const bool over_too = __builtin_add_overflow(sum, carry, &sum);
  carry = static_cast<std::uint64_t>(over) | static_cast<std::uint64_t>(over_too);
  return sum & ~runs;
}

std::uint64_t Below(std::uint32_t bit) {
  return bit >= kBlock ? ~std::uint64_t{0} : (std::uint64_t{1} << bit) - 1;
}

bool IsOfNumber(char c) {
  return (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '+' || c == 'e' || c == 'E';
}

// What goes on from one block of a number into the next; the last bit counts, `fraction` is one.
struct NumberCarry {
  std::uint64_t digit = 0;
  std::uint64_t point = 0;
  std::uint64_t zero = 0;
  std::uint64_t fraction = 0;
  std::uint32_t covered = 0;  // words and exponents were looked at up to here
};

}  // namespace

struct JsonBitmap::Check {
  const char* const text;
  const std::uint32_t size;

  // The characters that a backslash makes plain, of the block at `base`. False: an escape that is
  // left to others. `escape`: the one before the block's first character escapes it.
  bool Escaped(std::uint32_t base, std::uint64_t slashes, std::uint64_t& escape,
               std::uint64_t& escaped) const {
    escaped = escape;
    slashes &= ~escape;
    escape = 0;
    while (slashes != 0) {
      const int i = std::countr_zero(slashes);
      const char c = text[base + static_cast<std::uint32_t>(i) + 1];
      if (std::string_view("\"\\/bfnrt").find(c) == std::string_view::npos) return false;
      slashes &= slashes - 1;
      if (i == 63) {
        escape = 1;
      } else {
        escaped |= std::uint64_t{2} << i;
        slashes &= ~escaped;
      }
    }
    return true;
  }

  // Letters: true, false, null where a value begins, else the exponent of a number. `others` are
  // characters of values that are no digits, points and minuses; `good` becomes what was looked at.
  bool Letters(std::uint32_t base, std::uint64_t others, std::uint64_t begins,
               std::uint32_t& covered, std::uint64_t& good) const {
    good = covered > base ? Below(covered - base) : 0;
    others &= ~good;
    while (others != 0) {
      const auto i = static_cast<std::uint32_t>(std::countr_zero(others));
      const std::uint32_t at = base + i;
      const std::string_view rest(text + at, size - at);
      if ((begins >> i & 1) != 0) {
        const std::string_view word = rest.starts_with("true")    ? "true"
                                      : rest.starts_with("false") ? "false"
                                                                  : "null";
        if (!rest.starts_with(word)) return false;
        covered = at + static_cast<std::uint32_t>(word.size());
        // Another letter behind it is one of the others.
        if (IsOfNumber(text[covered])) return false;
      } else {
        if ((rest.front() | 0x20) != 'e') return false;
        std::uint32_t begin = at;
        while (begin > 0 && IsOfNumber(text[begin - 1])) --begin;
        covered = at;
        while (covered < size && IsOfNumber(text[covered])) ++covered;
        const std::string_view number(text + begin, covered - begin);
        JsonValue value;
        if (!JsonScanner(number).ReadDocument(value).ok()) return false;
      }
      good |= Below(covered - base) & ~Below(i);
      others &= ~good;
    }
    return true;
  }

  // Values that are no strings: words, and numbers by their digits, points and minuses.
  TOCSIN_AVX2_INLINE bool Scalars(const Block& block, std::uint32_t base, std::uint64_t scalars,
                                  std::uint64_t after_scalar, NumberCarry& carry) const {
    const __m256i low = _mm256_sub_epi8(block.low, _mm256_set1_epi8('0'));
    const __m256i high = _mm256_sub_epi8(block.high, _mm256_set1_epi8('0'));
    const __m256i nine = _mm256_set1_epi8(9);
    const std::uint64_t begins = scalars & ~after_scalar;
    const std::uint64_t plain = MaskOf(_mm256_cmpeq_epi8(_mm256_min_epu8(low, nine), low),
                                       _mm256_cmpeq_epi8(_mm256_min_epu8(high, nine), high)) &
                                scalars;
    std::uint64_t digits = plain;
    std::uint64_t points = Equal(block, '.') & scalars;
    std::uint64_t minuses = Equal(block, '-') & scalars;
    if (const std::uint64_t others = scalars & ~(digits | points | minuses);
        (others | static_cast<std::uint64_t>(carry.covered > base)) != 0) {
      std::uint32_t covered = carry.covered;
      std::uint64_t good = 0;
      if (!Letters(base, others, begins, covered, good)) return false;
      carry.covered = covered;
      // To the rules of numbers all of it is like digits.
      digits |= good;
      points &= ~good;
      minuses &= ~good;
    }
    // So long a number may be beyond a double.
    if (digits == ~std::uint64_t{0}) return false;
    const std::uint64_t after_digit = Shift(digits, carry.digit);
    const std::uint64_t after_point = Shift(points, carry.point);
    const std::uint64_t after_fraction = Behind(after_point & digits, digits, carry.fraction);
    const std::uint64_t zeros = Equal(block, '0') & digits & ~(after_digit | after_point);
    const std::uint64_t after_zero = Shift(zeros, carry.zero);
    // A minus begins; a digit is the last, and stands before a point; nothing but digits follows
    // one; a zero that begins is the only digit before the point.
    const std::uint64_t bad = (minuses & ~begins) | (after_scalar & ~scalars & ~after_digit) |
                              (points & (~after_digit | after_fraction)) | (after_zero & plain);
    return bad == 0;
  }

  // Nothing but white space is before the closing bracket, up to one that opens.
  bool IsEmpty(std::uint32_t closing_at) const {
    std::uint32_t at = closing_at;
    while (at > 0 && static_cast<unsigned char>(text[at - 1]) <= ' ') --at;
    return at > 0 && (text[at - 1] | 0x20) == '{';
  }

  // The text goes on with white space up to the end of its last block, a whole block at most.
  TOCSIN_AVX2 bool Run(JsonBitmap& bitmap) const {
    std::uint64_t* const starts = bitmap.starts_.get();
    std::uint32_t* const closing = bitmap.closing_.get();
    const __m256i spaces =
        _mm256_setr_epi8(' ', 0, 1, 1, 1, 1, 1, 1, 1, '\t', '\n', 1, 1, '\r', 1, 1,  //
                         ' ', 0, 1, 1, 1, 1, 1, 1, 1, '\t', '\n', 1, 1, '\r', 1, 1);
    const __m256i control = _mm256_set1_epi8(0x1f);
    const __m256i slash = _mm256_set1_epi8('\\');
    const __m256i lower = _mm256_set1_epi8(0x20);
    __m256i all = _mm256_setzero_si256();
    bool has_escapes = false;
    // What goes on from one block into the next. Of `after_` and `scalar` the last bit counts,
    // `escape` and `name` are a bit, `in_string` and `in_object` are none or all.
    std::uint64_t in_string = 0;
    std::uint64_t escape = 0;
    std::uint64_t after_member = 0;     // after a comma or an opening bracket
    std::uint64_t after_colon = kLast;  // a value may stand there, nothing else
    std::uint64_t after_name = 0;
    std::uint64_t name = 0;
    std::uint64_t scalar = 0;
    NumberCarry number;
    std::uint64_t in_object = 0;  // or all bits
    std::array<std::uint32_t, kDepthMax> levels;
    std::uint64_t kinds = 0;  // a bit for each level, the innermost is the lowest: an object
    std::uint32_t depth = 0;

    for (std::uint32_t base = 0; base <= size; base += kBlock) {
      Block block;
      block.low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + base));
      block.high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + base + 32));
      all = _mm256_or_si256(all, _mm256_or_si256(block.low, block.high));

      std::uint64_t quotes = Equal(block, '"');
      std::uint64_t controls = 0;
      const Block odd = {
          _mm256_or_si256(_mm256_cmpeq_epi8(block.low, slash),
                          _mm256_cmpeq_epi8(_mm256_max_epu8(block.low, control), control)),
          _mm256_or_si256(_mm256_cmpeq_epi8(block.high, slash),
                          _mm256_cmpeq_epi8(_mm256_max_epu8(block.high, control), control))};
      const __m256i any = _mm256_or_si256(odd.low, odd.high);
      if (_mm256_testz_si256(any, any) == 0 || escape != 0) {
        const std::uint64_t slashes = Equal(block, '\\');
        controls = MaskOf(odd.low, odd.high) & ~slashes;
        if ((slashes | escape) != 0) {
          has_escapes = true;
          std::uint64_t escape_before = escape;
          std::uint64_t escaped = 0;
          if (!Escaped(base, slashes, escape_before, escaped)) return false;
          escape = escape_before;
          quotes &= ~escaped;
        }
      }
      const std::uint64_t inside = Parity(quotes) ^ in_string;
      in_string = static_cast<std::uint64_t>(static_cast<std::int64_t>(inside) >> 63);
      const std::uint64_t opening = quotes & inside;
      const std::uint64_t outside = ~(inside | quotes);

      const std::uint64_t space =
          MaskOf(_mm256_cmpeq_epi8(_mm256_shuffle_epi8(spaces, block.low), block.low),
                 _mm256_cmpeq_epi8(_mm256_shuffle_epi8(spaces, block.high), block.high)) &
          outside;
      const Block folded = {_mm256_or_si256(block.low, lower), _mm256_or_si256(block.high, lower)};
      const std::uint64_t open = Equal(folded, '{') & outside;
      const std::uint64_t close = Equal(folded, '}') & outside;
      const std::uint64_t comma = Equal(block, ',') & outside;
      const std::uint64_t colon = Equal(block, ':') & outside;
      const std::uint64_t marks = open | close | comma | colon;
      const std::uint64_t scalars = outside & ~(space | marks);
      const std::uint64_t scalar_before = scalar & kLast;
      const std::uint64_t after_scalar = Shift(scalars, scalar);
      const std::uint64_t begins = scalars & ~after_scalar;
      const std::uint64_t tokens = opening | begins | marks;
      starts[base / kBlock] = tokens;

      std::uint64_t behind_member = Shift(comma | open, after_member);
      std::uint64_t behind_colon = Shift(colon, after_colon);
      if (space != 0) {
        behind_member = OverSpace(behind_member, space, after_member);
        behind_colon = OverSpace(behind_colon, space, after_colon);
      }
      // Strings there are names in an object, values in an array.
      const std::uint64_t names = opening & behind_member;
      const std::uint64_t name_ends = Behind(names, inside, name) & quotes;
      std::uint64_t behind_name = Shift(name_ends, after_name);
      if (space != 0) behind_name = OverSpace(behind_name, space, after_name);

      // Behind a comma, a colon, an opening bracket stands a value, and nowhere else: behind a
      // value stands none.
      const std::uint64_t values = opening | begins | open;
      const std::uint64_t awaited = behind_member | behind_colon;
      const std::uint64_t bad = (values ^ (awaited & tokens)) | (colon & ~behind_name);
      if (((bad & ~close) | (controls & inside)) != 0) return false;
      // What is closed where a value is awaited is empty.
      for (std::uint64_t empty = bad & close; empty != 0; empty &= empty - 1) {
        if (!IsEmpty(base + static_cast<std::uint32_t>(std::countr_zero(empty)))) return false;
      }

      if ((scalars | scalar_before) != 0) {
        if (!Scalars(block, base, scalars, after_scalar, number)) return false;
      }

      // Brackets close each other. A bit each where the kind of what is around changes behind them.
      // Braces have the bit that square brackets lack.
      const std::uint64_t braces =
          MaskOf(_mm256_slli_epi16(block.low, 2), _mm256_slli_epi16(block.high, 2));
      std::uint64_t changes = 0;
      for (std::uint64_t brackets = open | close; brackets != 0; brackets &= brackets - 1) {
        const auto i = static_cast<std::uint32_t>(std::countr_zero(brackets));
        const std::uint64_t around = kinds & 1;
        const std::uint64_t kind = braces >> i & 1;
        if ((open >> i & 1) != 0) {
          if (depth == kDepthMax) return false;
          levels[depth++] = base + i;
          kinds = kinds << 1 | kind;
        } else {
          if (depth == 0 || around != kind) return false;
          closing[levels[--depth]] = base + i;
          kinds >>= 1;
        }
        changes ^= (around ^ (kinds & 1)) << i;
      }
      const std::uint64_t objects = (Parity(changes) << 1) ^ in_object;
      in_object = 0 - (kinds & 1);
      // A colon behind what may be a name tells an object, anything else an array.
      const std::uint64_t of_array =
          (behind_name & tokens & ~colon) | (behind_member & (begins | open));
      if (((of_array & objects) | (colon & ~objects)) != 0) return false;
    }
    if (in_string != 0 || depth != 0) return false;
    bitmap.has_escapes_ = has_escapes;
    return _mm256_movemask_epi8(all) == 0 || simdjson::validate_utf8(text, size);
  }
};

bool JsonBitmap::Supported() {
  static const bool supported =
      __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("bmi") != 0 &&
      __builtin_cpu_supports("bmi2") != 0 && __builtin_cpu_supports("pclmul") != 0;
  return supported;
}
#else
struct JsonBitmap::Check {
  const char* const text;
  const std::uint32_t size;

  bool Run(JsonBitmap&) const { return false; }
};

bool JsonBitmap::Supported() { return false; }
#endif

void JsonBitmap::Reserve(std::size_t bytes) {
  if (bytes <= capacity_ && (capacity_ <= kKeptBytesMax || bytes > kKeptBytesMax)) return;
  capacity_ = std::max<std::size_t>(bytes, 4096);
  buffer_ = std::make_unique_for_overwrite<char[]>(capacity_ + kBlock);
  starts_ = std::make_unique_for_overwrite<std::uint64_t[]>(capacity_ / kBlock + 1);
  closing_ = std::make_unique_for_overwrite<std::uint32_t[]>(capacity_);
}

bool JsonBitmap::Begin(std::string_view json) {
  if (!Supported() || json.empty() || json.size() > std::numeric_limits<std::int32_t>::max()) {
    return false;
  }
  Reserve(json.size());
  size_ = static_cast<std::uint32_t>(json.size());
  char* const text = buffer_.get();
  std::memcpy(text, json.data(), json.size());
  std::memset(text + size_, ' ', kBlock);
  if (!Check{text, size_}.Run(*this)) return false;
  text[size_] = 0;
  std::uint32_t last = size_ / kBlock;
  std::uint64_t tokens = starts_[last];
  while (tokens == 0) {
    if (last == 0) return false;  // nothing but white space
    tokens = starts_[--last];
  }
  last = last * kBlock + 63 - static_cast<std::uint32_t>(std::countl_zero(tokens));
  starts_[size_ / kBlock] |= std::uint64_t{1} << (size_ % kBlock);
  text_ = text;
  cursor_ = {starts_.get(), starts_[0], 0, 0};
  Step();
  // One value is all there is.
  return ((First() | 0x20) == '{' ? closing_[cursor_.at] : cursor_.at) == last;
}

}  // namespace tocsin

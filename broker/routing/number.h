// Number: a JSON number in the one form in which equal numbers are equal bits: whole numbers of 64
// bits as integers, all others as doubles. So 1, 1.0 and 1e0 are one number, and identifiers above
// 2^53 keep their last digits.

#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/charconv.h"

namespace tocsin {

struct Number {
  bool whole = true;
  std::int64_t bits = 0;  // the integer, or the double's bits

  static Number Of(std::int64_t value) { return {true, value}; }

  // Finite.
  static Number Of(double value) {
    if (std::trunc(value) == value && value >= -0x1p63 && value < 0x1p63) {
      return {true, static_cast<std::int64_t>(value)};
    }
    return {false, std::bit_cast<std::int64_t>(value)};
  }

  // Of a number's JSON text; nullopt if it leaves the range of a double.
  static std::optional<Number> Parse(std::string_view json);

  double AsDouble() const {
    return whole ? static_cast<double>(bits) : std::bit_cast<double>(bits);
  }

  std::string ToJson() const;

  friend bool operator==(const Number&, const Number&) = default;

  // Below, equal, above: negative, zero, positive.
  static int Compare(const Number& a, const Number& b) {
    if (a.whole && b.whole) return a.bits < b.bits ? -1 : a.bits > b.bits;
    // A double that is not whole: exact for both where long double has 64 bits of mantissa.
    const long double x = a.whole ? static_cast<long double>(a.bits) : a.AsDouble();
    const long double y = b.whole ? static_cast<long double>(b.bits) : b.AsDouble();
    return x < y ? -1 : x > y;
  }

  template <typename H>
  friend H AbslHashValue(H state, const Number& number) {
    return H::combine(std::move(state), number.whole, number.bits);
  }
};

}  // namespace tocsin

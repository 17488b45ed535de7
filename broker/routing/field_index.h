// FieldIndex: of one attribute or payload path, the routes whose condition a value may fulfil.
//
//   equal texts, texts without case, numbers, true/false/null   a hash table each
//   prefixes and suffixes                                       a trie in an array: the sorted
//                                                               texts, each linked to the longest
//                                                               other that it begins with
//   ranges of numbers                                           an interval tree in an array
//   anything else                                               a list: a candidate for any value
//
// A look-up costs the length of the value, the logarithms of the numbers of prefixes and ranges,
// and what it finds. Memory is linear in what was added.
//
// Lifetime: the texts added outlive the index. Threading: built by one thread, then immutable.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "broker/routing/number.h"
#include "broker/routing/pattern.h"

namespace tocsin {

// What a condition asks of a value.
enum class AnchorKind : std::uint8_t {
  kExact,
  kNumber,
  kIgnoreCase,  // texts of this and the two below in lower case
  kLiteral,     // number.bits: the ValueKind
  kPrefix,
  kSuffix,
  kPrefixIgnoreCase,
  kSuffixIgnoreCase,
  kRange,
  kPresent,
};

using RouteList = absl::InlinedVector<std::uint32_t, 2>;

class PrefixIndex {
 public:
  // `backwards`: suffixes. Their texts are kept turned round.
  explicit PrefixIndex(bool backwards = false) : backwards_(backwards) {}

  void Add(std::string_view text, std::uint32_t route);
  void Seal();
  void Find(std::string_view value, std::vector<std::uint32_t>& found) const;

 private:
  struct Entry {
    std::string text;
    std::uint32_t parent = 0;  // index + 1
    RouteList routes;
  };

  bool backwards_;
  std::vector<Entry> entries_;
};

class RangeIndex {
 public:
  void Add(const NumberRange& range, std::uint32_t route) { entries_.push_back({range, route}); }
  void Seal();
  void Find(const Number& value, std::vector<std::uint32_t>& found) const;

 private:
  struct Entry {
    NumberRange range;
    std::uint32_t route = 0;
    double highest = 0;  // of the subtree
  };

  double Highest(std::size_t begin, std::size_t end);
  void Find(std::size_t begin, std::size_t end, const Number& value,
            std::vector<std::uint32_t>& found) const;

  std::vector<Entry> entries_;
};

class FieldIndex {
 public:
  // `text` and `number` as the kind asks; `range` of kRange.
  void Add(AnchorKind kind, std::string_view text, const Number& number, const NumberRange* range,
           std::uint32_t route);
  void Seal();

  // Appends routes, perhaps with repetitions. FindText is for texts; FindValue for what is no text.
  void FindPresent(std::vector<std::uint32_t>& found) const;
  void FindText(std::string_view text, std::vector<std::uint32_t>& found) const;
  void FindValue(const ClauseValue& value, std::vector<std::uint32_t>& found) const;

 private:
  struct Rest {
    absl::flat_hash_map<Number, RouteList> numbers;
    absl::flat_hash_map<std::string_view, RouteList> ignore_case;
    RouteList literals[3];
    PrefixIndex prefixes;
    PrefixIndex suffixes{true};
    PrefixIndex lowered_prefixes;
    PrefixIndex lowered_suffixes{true};
    RangeIndex ranges;
    std::vector<std::uint32_t> present;
    bool any_lowered = false;
  };

  static void Take(const RouteList& routes, std::vector<std::uint32_t>& found) {
    found.insert(found.end(), routes.begin(), routes.end());
  }
  Rest& RestOf();

  absl::flat_hash_map<std::string_view, RouteList> exact_;
  std::unique_ptr<Rest> rest_;  // most fields have exact conditions only
};

}  // namespace tocsin

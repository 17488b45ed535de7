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
#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/hash/hash.h"
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

  // 16 bytes a text: nearly all belong to one route.
  struct Exact {
    const char* text;
    std::uint32_t bytes;
    mutable std::uint32_t routes;  // one route, or kList and an index into lists_

    std::string_view view() const { return {text, bytes}; }
  };
  struct ExactHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return absl::HashOf(text); }
    std::size_t operator()(const Exact& exact) const { return absl::HashOf(exact.view()); }
  };
  struct ExactEqual {
    using is_transparent = void;
    static std::string_view View(std::string_view text) { return text; }
    static std::string_view View(const Exact& exact) { return exact.view(); }
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return View(a) == View(b);
    }
  };
  static constexpr std::uint32_t kList = std::uint32_t{1} << 31;

  void AddExact(std::string_view text, std::uint32_t route);

  static void Take(const RouteList& routes, std::vector<std::uint32_t>& found) {
    found.insert(found.end(), routes.begin(), routes.end());
  }
  Rest& RestOf();

  absl::flat_hash_set<Exact, ExactHash, ExactEqual> exact_;
  std::vector<std::vector<std::uint32_t>> lists_;
  std::unique_ptr<Rest> rest_;  // most fields have exact conditions only
};

}  // namespace tocsin

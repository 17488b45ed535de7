// MatchIndex: which routes of one group an event may match, by one anchor condition per route.
//
// Keys point into the filters of the routes, which outlive the index. Threading: built by one
// thread, then immutable.

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "broker/base/event.h"
#include "broker/routing/filter.h"

namespace tocsin {

// A condition that every event matching the route fulfils.
struct Anchor {
  Filter::Kind kind = Filter::Kind::kExact;  // kExact, kPrefix, kSuffix
  std::string_view attribute;
  std::string_view value;

  friend bool operator==(const Anchor&, const Anchor&) = default;

  template <typename H>
  friend H AbslHashValue(H state, const Anchor& anchor) {
    return H::combine(std::move(state), anchor.kind, anchor.attribute, anchor.value);
  }
};

using AnchorCounts = absl::flat_hash_map<Anchor, std::uint32_t>;

// Adds one to the count of every condition that could anchor `filter`.
void CountAnchors(const Filter& filter, AnchorCounts& counts);

// The cheapest anchors such that every matching event fulfils at least one; empty if there are
// none (the route is a candidate always).
std::vector<Anchor> ChooseAnchors(const Filter& filter, const AnchorCounts& counts);

class MatchIndex {
 public:
  void AddAlways(std::uint32_t route) { always_.push_back(route); }
  void Add(const Anchor& anchor, std::uint32_t route);
  void Seal();

  // Appends candidates, unordered, perhaps with repetitions.
  void Candidates(const EventView& event, std::vector<std::uint32_t>& candidates) const;

 private:
  using Routes = absl::InlinedVector<std::uint32_t, 2>;
  using Map = absl::flat_hash_map<std::string_view, Routes>;

  struct AttributeIndex {
    Map exact;
    Map prefix;
    Map suffix;
    std::vector<std::uint32_t> prefix_lengths;  // distinct, ascending
    std::vector<std::uint32_t> suffix_lengths;
  };

  static void Lookup(const AttributeIndex& index, std::string_view value,
                     std::vector<std::uint32_t>& candidates);

  std::vector<std::uint32_t> always_;
  absl::flat_hash_map<std::string_view, AttributeIndex> attributes_;
};

}  // namespace tocsin

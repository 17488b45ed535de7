// MatchIndex: which routes of one group an event may match, by one anchor per route: a condition,
// or the alternatives of a choice, that every matching event fulfils.
//
// Routes whose anchors are attributes are found without the payload. For the others the payload is
// read, but only if one of them stands: the cheapest condition on attributes that such a route also
// has is its gate, and while no gate is open nobody's payload condition can matter.
//
// Lifetime: the filters and patterns of the routes outlive the index. Threading: built by one
// thread, then immutable.

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "broker/base/event.h"
#include "broker/routing/field_index.h"
#include "broker/routing/filter.h"
#include "broker/routing/pattern.h"

namespace tocsin {

struct Anchor {
  PathId path = kNoPath;  // of a payload condition; else `attribute`
  std::string_view attribute;
  AnchorKind kind = AnchorKind::kExact;
  std::string_view text;
  Number number;
  const NumberRange* range = nullptr;
};

// A condition's part that routes share: ranges of one field count as one.
struct AnchorKey {
  PathId path;
  std::string_view attribute;
  AnchorKind kind;
  std::string_view text;
  std::int64_t bits;

  explicit AnchorKey(const Anchor& anchor)
      : path(anchor.path),
        attribute(anchor.attribute),
        kind(anchor.kind),
        text(anchor.text),
        bits(anchor.number.bits) {}

  friend bool operator==(const AnchorKey&, const AnchorKey&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const AnchorKey& key) {
    return H::combine(std::move(state), key.path, key.attribute, key.kind, key.text, key.bits);
  }
};

// How many conditions of all routes are the same: the fewer, the more selective.
using AnchorCounts = absl::flat_hash_map<AnchorKey, std::uint32_t>;

struct AnchorChoice {
  std::vector<Anchor> anchors;
  std::uint64_t cost = 0;
  std::size_t bytes = 0;  // of the shortest text: of two that cost the same the longer is better
};

// The cheapest anchors of a route: of attributes alone, and with payload conditions among them.
struct AnchorOptions {
  std::optional<AnchorChoice> attributes;
  std::optional<AnchorChoice> payload;
};

// `bound` as Pattern::Bind gave it.
void CountAnchors(const Filter* filter, const Pattern* pattern, const PathId* bound,
                  AnchorCounts& counts);
AnchorOptions ChooseAnchors(const Filter* filter, const Pattern* pattern, const PathId* bound,
                            const AnchorCounts& counts);

class MatchIndex {
 public:
  void Add(const AnchorOptions& options, std::uint32_t route);
  void Seal();

  // Append candidates, unordered, perhaps with repetitions.
  void FromAttributes(const EventView& event, std::vector<std::uint32_t>& candidates) const;
  // `scratch` is used and left empty.
  bool NeedsPayload(const EventView& event, std::vector<std::uint32_t>& scratch) const;
  void FromPayload(const PayloadReader& payload, std::vector<std::uint32_t>& candidates) const;

 private:
  using Fields = absl::flat_hash_map<std::string_view, FieldIndex>;

  static void Insert(Fields& fields, const Anchor& anchor, std::uint32_t route);
  static void Find(const Fields& fields, const EventView& event,
                   std::vector<std::uint32_t>& candidates);
  static void FindIn(const FieldIndex& index, const EventView& event, std::string_view name,
                     std::vector<std::uint32_t>& candidates);

  std::vector<std::uint32_t> always_;
  Fields attributes_;
  absl::flat_hash_map<PathId, FieldIndex> paths_;
  Fields gates_;
  absl::flat_hash_map<AnchorKey, bool> known_gates_;  // while building
  bool always_open_ = false;
};

}  // namespace tocsin

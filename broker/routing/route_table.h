// RouteTable: all triggers' sources, filters and patterns, compiled so that an event is compared
// only with the triggers it may match.
//
//   event -> groups (its source's, and the one for any source)
//         -> index of one chosen condition per trigger -> candidates -> whole condition -> matches
//
// The chosen condition is the one that the fewest other triggers of the table have too, and one on
// an attribute rather than one in the payload unless that is far more selective. The payload is
// read at most once, only if a trigger that still stands asks for it, and of it only the paths that
// triggers name. So the cost of Match() grows with the number of candidates, not with the number of
// triggers. Triggers without a usable condition (no filter, only `not` or `cesql`) are candidates
// of every event of their sources. Memory is linear in the triggers.
//
// Threading: immutable, shared between shards; one MatchScratch per thread.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/event.h"
#include "broker/routing/filter.h"
#include "broker/routing/pattern.h"
#include "broker/routing/payload.h"
#include "broker/routing/transform.h"
#include "broker/routing/verdict.h"

namespace tocsin {

struct RouteSpec {
  std::string name;
  std::vector<std::string> sources;      // configured names; empty: any, published events included
  std::shared_ptr<const Filter> filter;  // null: true
  std::shared_ptr<const Pattern> pattern;  // null: true; both must hold
  // Of what is delivered; null: the event as it is.
  std::shared_ptr<const Transform> transform = nullptr;
};

// Working memory of Match(): reused, so that it allocates only while it grows.
struct MatchScratch {
  std::vector<std::uint32_t> candidates;
  PayloadReader payload;
};

class RouteTable {
 public:
  static std::shared_ptr<const RouteTable> Build(std::vector<RouteSpec> routes);
  ~RouteTable();

  RouteTable(const RouteTable&) = delete;
  RouteTable& operator=(const RouteTable&) = delete;

  // Replaces `matches` by the indexes, ascending, of the routes that match an event of source
  // `source_name` (its configured name; empty for a published event). In the steady state it
  // allocates only where a condition ignores case, is a suffix, builds a text (cesql) or reads a
  // binary or timestamp attribute, and for payloads larger than any before.
  void Match(const EventView& event, std::string_view source_name, MatchScratch& scratch,
             std::vector<std::uint32_t>& matches) const;

  // Agrees with Match() on every event.
  Verdict Explain(std::uint32_t route, const EventView& event, std::string_view source_name) const;

  std::size_t size() const;
  const RouteSpec& route(std::uint32_t index) const;

 private:
  struct Impl;
  explicit RouteTable(std::unique_ptr<Impl> impl);

  std::unique_ptr<const Impl> impl_;
};

}  // namespace tocsin

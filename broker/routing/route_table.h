// RouteTable: all triggers' sources and filters, compiled so that an event is compared only with
// the triggers it may match.
//
//   event -> groups (its source's, and the one for any source)
//         -> index of one chosen condition per trigger: exact, prefix or suffix of an attribute
//         -> candidates -> whole filter -> matches
//
// The chosen condition is the one that the fewest other triggers of the table have too. So the cost
// of Match() grows with the number of candidates and the number of distinct lengths of prefixes and
// suffixes, not with the number of triggers. Triggers without a usable condition (no filter, or
// only `not`) are candidates of every event of their sources.
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

namespace tocsin {

struct RouteSpec {
  std::string name;
  std::vector<std::string> sources;      // configured names; empty: any, published events included
  std::shared_ptr<const Filter> filter;  // null: true
};

// Working memory of Match(): reused, so that it allocates only while it grows.
struct MatchScratch {
  std::vector<std::uint32_t> candidates;
};

class RouteTable {
 public:
  static std::shared_ptr<const RouteTable> Build(std::vector<RouteSpec> routes);
  ~RouteTable();

  RouteTable(const RouteTable&) = delete;
  RouteTable& operator=(const RouteTable&) = delete;

  // Replaces `matches` by the indexes, ascending, of the routes that match an event of source
  // `source_name` (its configured name; empty for a published event). No allocation in the steady
  // state, unless a filter reads a binary or timestamp attribute.
  void Match(const EventView& event, std::string_view source_name, MatchScratch& scratch,
             std::vector<std::uint32_t>& matches) const;

  struct Verdict {
    bool matched = false;
    std::string reason;  // if not matched: which part failed and the actual value
  };

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

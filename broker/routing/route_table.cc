#include "broker/routing/route_table.h"

#include <algorithm>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/routing/match_index.h"

namespace tocsin {
namespace {

// The one clause or condition that is all of the route, if it can stand in the index as it is.
bool AnchorDecides(const RouteSpec& route, const AnchorOptions& options) {
  if (route.filter == nullptr && route.pattern == nullptr) return true;
  const AnchorChoice* choice = options.payload      ? &*options.payload
                               : options.attributes ? &*options.attributes
                                                    : nullptr;
  if (choice == nullptr || choice->anchors.size() != 1) return false;
  if (route.pattern == nullptr) return route.filter->conditions.size() == 1;
  // An integer's text is found by a pattern that wants a text, which only the pattern tells apart.
  if (route.filter != nullptr || choice->anchors.front().path == kNoPath) return false;
  const std::span<const PatternItem> items = route.pattern->items();
  const PatternOp last = items.back().op;
  for (std::size_t i = 0; i + 1 < items.size(); ++i) {
    const PatternOp op = items[i].op;
    // One name after the other, then one clause.
    const bool last_name = i + 2 == items.size();
    if (items[i].end != items.size() ||
        op != (last_name ? PatternOp::kField : PatternOp::kObject)) {
      return false;
    }
  }
  return last <= PatternOp::kSuffixIgnoreCase || last == PatternOp::kNumeric;
}

}  // namespace

struct RouteTable::Impl {
  std::vector<RouteSpec> routes;
  // True where the anchor is the whole condition, so that a candidate is a match.
  std::vector<bool> anchor_decides;
  PathTree paths;
  // The paths of patterns' items; patterns of the same shape share them.
  std::vector<PathId> bound;
  std::vector<std::uint32_t> bound_first;
  MatchIndex any_source;
  absl::flat_hash_map<std::string_view, MatchIndex> by_source;

  const PathId* BoundOf(std::uint32_t route) const { return bound.data() + bound_first[route]; }
};

RouteTable::RouteTable(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RouteTable::~RouteTable() = default;

std::shared_ptr<const RouteTable> RouteTable::Build(std::vector<RouteSpec> routes) {
  auto impl = std::make_unique<Impl>();
  impl->routes = std::move(routes);
  impl->anchor_decides.resize(impl->routes.size());
  impl->bound_first.reserve(impl->routes.size());
  absl::flat_hash_map<std::vector<PathId>, std::uint32_t> shapes;
  for (const RouteSpec& route : impl->routes) {
    std::vector<PathId> bound;
    if (route.pattern != nullptr) bound = route.pattern->Bind(impl->paths);
    const auto [shape, is_new] =
        shapes.try_emplace(bound, static_cast<std::uint32_t>(impl->bound.size()));
    if (is_new) impl->bound.insert(impl->bound.end(), bound.begin(), bound.end());
    impl->bound_first.push_back(shape->second);
  }
  impl->bound.shrink_to_fit();
  AnchorCounts counts;
  for (std::uint32_t i = 0; i < impl->routes.size(); ++i) {
    const RouteSpec& route = impl->routes[i];
    CountAnchors(route.filter.get(), route.pattern.get(), impl->BoundOf(i), counts);
  }
  for (std::uint32_t i = 0; i < impl->routes.size(); ++i) {
    const RouteSpec& route = impl->routes[i];
    const AnchorOptions options =
        ChooseAnchors(route.filter.get(), route.pattern.get(), impl->BoundOf(i), counts);
    impl->anchor_decides[i] = AnchorDecides(route, options);
    if (route.sources.empty()) impl->any_source.Add(options, i);
    for (const std::string& source : route.sources) impl->by_source[source].Add(options, i);
  }
  impl->any_source.Seal();
  for (auto& [source, index] : impl->by_source) index.Seal();
  return std::shared_ptr<const RouteTable>(new RouteTable(std::move(impl)));
}

void RouteTable::Match(const EventView& event, std::string_view source_name, MatchScratch& scratch,
                       std::vector<std::uint32_t>& matches) const {
  matches.clear();
  std::vector<std::uint32_t>& candidates = scratch.candidates;
  candidates.clear();
  PayloadReader& payload = scratch.payload;
  payload.Reset(&impl_->paths, &event);
  const MatchIndex* of_source = nullptr;
  if (!source_name.empty() && !impl_->by_source.empty()) {
    const auto group = impl_->by_source.find(source_name);
    if (group != impl_->by_source.end()) of_source = &group->second;
  }
  for (const MatchIndex* index : {&impl_->any_source, of_source}) {
    if (index == nullptr) continue;
    // First, since it needs the vector empty; what it finds comes to the same.
    if (index->NeedsPayload(event, matches) && payload.Load()) {
      index->FromPayload(payload, candidates);
    }
    index->FromAttributes(event, candidates);
  }
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  const bool trusted = !payload.ambiguous();
  for (const std::uint32_t i : candidates) {
    const RouteSpec& route = impl_->routes[i];
    const bool matched =
        (impl_->anchor_decides[i] && (trusted || route.pattern == nullptr)) ||
        ((route.filter == nullptr || route.filter->Matches(event)) &&
         (route.pattern == nullptr || route.pattern->Matches(event, payload, impl_->BoundOf(i))));
    if (matched) matches.push_back(i);
  }
}

Verdict RouteTable::Explain(std::uint32_t index, const EventView& event,
                            std::string_view source_name) const {
  const RouteSpec& spec = route(index);
  Verdict verdict;
  if (!spec.sources.empty() &&
      (source_name.empty() ||
       std::find(spec.sources.begin(), spec.sources.end(), source_name) == spec.sources.end())) {
    constexpr std::size_t kShown = 8;
    std::string wanted;
    verdict.expected = "[";
    for (std::size_t i = 0; i < spec.sources.size(); ++i) {
      // A source's name needs no escapes.
      verdict.expected += fmt::format("{}\"{}\"", i == 0 ? "" : ",", spec.sources[i]);
      if (i < kShown) wanted += fmt::format("{}`{}`", i == 0 ? "" : ", ", spec.sources[i]);
    }
    verdict.expected += "]";
    if (spec.sources.size() > kShown) wanted += ", ...";
    verdict.clause = "sources";
    if (!source_name.empty()) verdict.actual = fmt::format("\"{}\"", source_name);
    verdict.reason =
        source_name.empty()
            ? fmt::format("the event was published, not brought by {}", wanted)
            : fmt::format("the event is from source `{}`, not {}", source_name, wanted);
    return verdict;
  }
  if (spec.filter != nullptr) {
    // The list in the file is one filter that wants all.
    const bool is_list = spec.filter->kind == Filter::Kind::kAll;
    verdict = spec.filter->Explain(event, is_list ? "filters" : "filters[0]");
    if (!verdict.matched) return verdict;
  }
  if (spec.pattern != nullptr) {
    PayloadReader payload;
    payload.Reset(&impl_->paths, &event);
    return spec.pattern->Explain(event, payload, impl_->BoundOf(index));
  }
  verdict.matched = true;
  return verdict;
}

std::size_t RouteTable::size() const { return impl_->routes.size(); }

const RouteSpec& RouteTable::route(std::uint32_t index) const {
  TOCSIN_CHECK(index < impl_->routes.size(), "route {} of {}", index, impl_->routes.size());
  return impl_->routes[index];
}

}  // namespace tocsin

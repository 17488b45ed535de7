#include "broker/routing/route_table.h"

#include <algorithm>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/routing/match_index.h"

namespace tocsin {

struct RouteTable::Impl {
  std::vector<RouteSpec> routes;
  // True where the anchor is the whole filter, so that a candidate is a match.
  std::vector<bool> anchor_decides;
  MatchIndex any_source;
  absl::flat_hash_map<std::string_view, MatchIndex> by_source;
};

RouteTable::RouteTable(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RouteTable::~RouteTable() = default;

std::shared_ptr<const RouteTable> RouteTable::Build(std::vector<RouteSpec> routes) {
  auto impl = std::make_unique<Impl>();
  impl->routes = std::move(routes);
  impl->anchor_decides.resize(impl->routes.size());
  AnchorCounts counts;
  for (const RouteSpec& route : impl->routes) {
    if (route.filter != nullptr) CountAnchors(*route.filter, counts);
  }
  for (std::uint32_t i = 0; i < impl->routes.size(); ++i) {
    const RouteSpec& route = impl->routes[i];
    std::vector<Anchor> anchors;
    if (route.filter != nullptr) anchors = ChooseAnchors(*route.filter, counts);
    impl->anchor_decides[i] =
        route.filter == nullptr || (anchors.size() == 1 && route.filter->conditions.size() == 1);
    const auto add = [&](MatchIndex& index) {
      if (anchors.empty()) index.AddAlways(i);
      for (const Anchor& anchor : anchors) index.Add(anchor, i);
    };
    if (route.sources.empty()) add(impl->any_source);
    for (const std::string& source : route.sources) add(impl->by_source[source]);
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
  impl_->any_source.Candidates(event, candidates);
  if (!source_name.empty() && !impl_->by_source.empty()) {
    const auto group = impl_->by_source.find(source_name);
    if (group != impl_->by_source.end()) group->second.Candidates(event, candidates);
  }
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  for (const std::uint32_t i : candidates) {
    if (impl_->anchor_decides[i] || impl_->routes[i].filter->Matches(event)) matches.push_back(i);
  }
}

RouteTable::Verdict RouteTable::Explain(std::uint32_t index, const EventView& event,
                                        std::string_view source_name) const {
  const RouteSpec& spec = route(index);
  if (!spec.sources.empty() &&
      (source_name.empty() ||
       std::find(spec.sources.begin(), spec.sources.end(), source_name) == spec.sources.end())) {
    constexpr std::size_t kShown = 8;
    std::string wanted;
    for (std::size_t i = 0; i < spec.sources.size() && i < kShown; ++i) {
      wanted += fmt::format("{}`{}`", i == 0 ? "" : ", ", spec.sources[i]);
    }
    if (spec.sources.size() > kShown) wanted += ", ...";
    return {false, source_name.empty()
                       ? fmt::format("the event was published, not brought by {}", wanted)
                       : fmt::format("the event is from source `{}`, not {}", source_name, wanted)};
  }
  if (spec.filter == nullptr) return {true, ""};
  std::string failure = spec.filter->Failure(event);
  return {failure.empty(), std::move(failure)};
}

std::size_t RouteTable::size() const { return impl_->routes.size(); }

const RouteSpec& RouteTable::route(std::uint32_t index) const {
  TOCSIN_CHECK(index < impl_->routes.size(), "route {} of {}", index, impl_->routes.size());
  return impl_->routes[index];
}

}  // namespace tocsin

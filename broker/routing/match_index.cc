#include "broker/routing/match_index.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "broker/routing/attribute_text.h"

namespace tocsin {
namespace {

// An `any` of more alternatives is not worth so many entries; it is tried on every event.
constexpr std::size_t kAnchorsMax = 64;

struct Choice {
  std::vector<Anchor> anchors;
  std::uint64_t cost = 0;  // routes that share the anchors, summed
  std::size_t value_bytes = 0;
};

bool Better(const Choice& a, const Choice& b) {
  if (a.cost != b.cost) return a.cost < b.cost;
  const bool a_exact = a.anchors.front().kind == Filter::Kind::kExact;
  const bool b_exact = b.anchors.front().kind == Filter::Kind::kExact;
  if (a_exact != b_exact) return a_exact;
  return a.value_bytes > b.value_bytes;
}

std::optional<Choice> Choose(const Filter& filter, const AnchorCounts& counts) {
  std::optional<Choice> best;
  switch (filter.kind) {
    case Filter::Kind::kNot:
      return std::nullopt;
    case Filter::Kind::kAll:
      for (const FilterPtr& operand : filter.operands) {
        std::optional<Choice> choice = Choose(*operand, counts);
        if (choice && (!best || Better(*choice, *best))) best = std::move(choice);
      }
      return best;
    case Filter::Kind::kAny: {
      best.emplace();
      best->value_bytes = std::numeric_limits<std::size_t>::max();
      for (const FilterPtr& operand : filter.operands) {
        const std::optional<Choice> choice = Choose(*operand, counts);
        if (!choice || best->anchors.size() + choice->anchors.size() > kAnchorsMax) {
          return std::nullopt;
        }
        best->anchors.insert(best->anchors.end(), choice->anchors.begin(), choice->anchors.end());
        best->cost += choice->cost;
        best->value_bytes = std::min(best->value_bytes, choice->value_bytes);
      }
      return best;
    }
    case Filter::Kind::kExact:
    case Filter::Kind::kPrefix:
    case Filter::Kind::kSuffix:
      break;
  }
  for (const Filter::Condition& condition : filter.conditions) {
    const Anchor anchor{filter.kind, condition.attribute, condition.value};
    const auto count = counts.find(anchor);
    Choice choice{{anchor}, count == counts.end() ? 1u : count->second, condition.value.size()};
    if (!best || Better(choice, *best)) best = std::move(choice);
  }
  return best;
}

void AddLength(std::vector<std::uint32_t>& lengths, std::size_t length) {
  lengths.push_back(static_cast<std::uint32_t>(length));
  // Kept short while building: there are far fewer lengths than routes.
  if (lengths.size() >= 1024) {
    std::sort(lengths.begin(), lengths.end());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  }
}

}  // namespace

void CountAnchors(const Filter& filter, AnchorCounts& counts) {
  for (const Filter::Condition& condition : filter.conditions) {
    ++counts[Anchor{filter.kind, condition.attribute, condition.value}];
  }
  if (filter.kind == Filter::Kind::kNot) return;
  for (const FilterPtr& operand : filter.operands) CountAnchors(*operand, counts);
}

std::vector<Anchor> ChooseAnchors(const Filter& filter, const AnchorCounts& counts) {
  std::optional<Choice> choice = Choose(filter, counts);
  return choice ? std::move(choice->anchors) : std::vector<Anchor>();
}

void MatchIndex::Add(const Anchor& anchor, std::uint32_t route) {
  AttributeIndex& index = attributes_[anchor.attribute];
  switch (anchor.kind) {
    case Filter::Kind::kPrefix:
      index.prefix[anchor.value].push_back(route);
      AddLength(index.prefix_lengths, anchor.value.size());
      break;
    case Filter::Kind::kSuffix:
      index.suffix[anchor.value].push_back(route);
      AddLength(index.suffix_lengths, anchor.value.size());
      break;
    default:
      index.exact[anchor.value].push_back(route);
  }
}

void MatchIndex::Seal() {
  for (auto& [name, index] : attributes_) {
    for (std::vector<std::uint32_t>* lengths : {&index.prefix_lengths, &index.suffix_lengths}) {
      std::sort(lengths->begin(), lengths->end());
      lengths->erase(std::unique(lengths->begin(), lengths->end()), lengths->end());
      lengths->shrink_to_fit();
    }
  }
}

void MatchIndex::Lookup(const AttributeIndex& index, std::string_view value,
                        std::vector<std::uint32_t>& candidates) {
  const auto take = [&candidates](const Map& map, std::string_view key) {
    const auto found = map.find(key);
    if (found == map.end()) return;
    candidates.insert(candidates.end(), found->second.begin(), found->second.end());
  };
  if (!index.exact.empty()) take(index.exact, value);
  for (const std::uint32_t length : index.prefix_lengths) {
    if (length > value.size()) break;
    take(index.prefix, value.substr(0, length));
  }
  for (const std::uint32_t length : index.suffix_lengths) {
    if (length > value.size()) break;
    take(index.suffix, value.substr(value.size() - length));
  }
}

void MatchIndex::Candidates(const EventView& event, std::vector<std::uint32_t>& candidates) const {
  candidates.insert(candidates.end(), always_.begin(), always_.end());
  if (attributes_.size() <= 4 + event.attributes.size()) {
    for (const auto& [name, index] : attributes_) {
      const AttributeText actual(event, name);
      if (actual.present()) Lookup(index, actual.text(), candidates);
    }
    return;
  }
  const auto look = [&](std::string_view name, std::string_view value) {
    const auto found = attributes_.find(name);
    if (found != attributes_.end()) Lookup(found->second, value, candidates);
  };
  look("type", event.type);
  look("source", event.source);
  look("id", event.id);
  look("specversion", event.spec_version);
  for (const AttributeView& attribute : event.attributes) {
    const auto found = attributes_.find(attribute.name);
    if (found != attributes_.end()) {
      Lookup(found->second, AttributeText(attribute).text(), candidates);
    }
  }
}

}  // namespace tocsin

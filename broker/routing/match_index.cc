#include "broker/routing/match_index.h"

#include <algorithm>
#include <limits>

#include "broker/routing/attribute_text.h"

namespace tocsin {
namespace {

// A choice of more alternatives is not worth so many entries; it is tried on every event.
constexpr std::size_t kAnchorsMax = 256;

// Reading the payload costs about as much as verifying so many candidates.
constexpr std::uint64_t kPayloadCost = 16;

std::uint64_t CostOf(AnchorKind kind, std::uint64_t count) {
  switch (kind) {
    case AnchorKind::kExact:
    case AnchorKind::kNumber:
    case AnchorKind::kIgnoreCase:
      return count;
    case AnchorKind::kPrefix:
    case AnchorKind::kSuffix:
    case AnchorKind::kPrefixIgnoreCase:
    case AnchorKind::kSuffixIgnoreCase:
      return 2 * count;
    case AnchorKind::kLiteral:
    case AnchorKind::kRange:
      return 4 * count + 4;
    case AnchorKind::kPresent:
      return 16 * count + 64;
  }
  return 0;
}

ValueKind LiteralKind(PatternOp op) {
  if (op == PatternOp::kTrue) return ValueKind::kTrue;
  return op == PatternOp::kFalse ? ValueKind::kFalse : ValueKind::kNull;
}

bool Better(const AnchorChoice& a, const AnchorChoice& b) {
  if (a.cost != b.cost) return a.cost < b.cost;
  return a.bytes > b.bytes;
}

void TakeBetter(std::optional<AnchorChoice>& best, std::optional<AnchorChoice> other) {
  if (other && (!best || Better(*other, *best))) best = std::move(other);
}

void TakeBetter(AnchorOptions& best, AnchorOptions other) {
  TakeBetter(best.attributes, std::move(other.attributes));
  TakeBetter(best.payload, std::move(other.payload));
}

// Of alternatives, all of which must have anchors.
class Union {
 public:
  void Add(AnchorOptions options) {
    Join(attributes_, options.attributes);
    // The cheaper of both, in the hope that most need no payload.
    TakeBetter(options.payload, std::move(options.attributes));
    Join(payload_, options.payload);
  }

  AnchorOptions Take() {
    AnchorOptions options;
    options.attributes = std::move(attributes_);
    const bool any = payload_ && std::any_of(payload_->anchors.begin(), payload_->anchors.end(),
                                             [](const Anchor& a) { return a.path != kNoPath; });
    if (any) options.payload = std::move(payload_);
    return options;
  }

 private:
  static void Join(std::optional<AnchorChoice>& all, const std::optional<AnchorChoice>& one) {
    if (!all) return;
    if (!one || all->anchors.size() + one->anchors.size() > kAnchorsMax) {
      all.reset();
      return;
    }
    all->anchors.insert(all->anchors.end(), one->anchors.begin(), one->anchors.end());
    all->cost += one->cost;
    all->bytes = std::min(all->bytes, one->bytes);
  }

  static AnchorChoice None() { return {{}, 0, std::numeric_limits<std::size_t>::max()}; }

  std::optional<AnchorChoice> attributes_ = None();
  std::optional<AnchorChoice> payload_ = None();
};

class Chooser {
 public:
  explicit Chooser(const AnchorCounts& counts) : counts_(counts) {}

  AnchorOptions OfFilter(const Filter& filter) const {
    AnchorOptions best;
    switch (filter.kind) {
      case Filter::Kind::kNot:
      case Filter::Kind::kCesql:
        return best;
      case Filter::Kind::kAll:
        for (const FilterPtr& operand : filter.operands) TakeBetter(best, OfFilter(*operand));
        return best;
      case Filter::Kind::kAny: {
        Union all;
        for (const FilterPtr& operand : filter.operands) all.Add(OfFilter(*operand));
        return all.Take();
      }
      case Filter::Kind::kExact:
      case Filter::Kind::kPrefix:
      case Filter::Kind::kSuffix:
        break;
    }
    for (const Filter::Condition& condition : filter.conditions) {
      TakeBetter(best, Options(FilterAnchor(filter.kind, condition)));
    }
    return best;
  }

  AnchorOptions OfItems(const Pattern& pattern, const PathId* bound, std::uint32_t begin,
                        std::uint32_t end) const {
    AnchorOptions best;
    for (std::uint32_t i = begin; i < end; i = pattern.items()[i].end) {
      TakeBetter(best, OfItem(pattern, bound, i));
    }
    return best;
  }

  static Anchor FilterAnchor(Filter::Kind kind, const Filter::Condition& condition) {
    Anchor anchor;
    anchor.attribute = condition.attribute;
    anchor.kind = kind == Filter::Kind::kExact    ? AnchorKind::kExact
                  : kind == Filter::Kind::kPrefix ? AnchorKind::kPrefix
                                                  : AnchorKind::kSuffix;
    anchor.text = condition.value;
    return anchor;
  }

  // False: a clause that holds where there is no value.
  static bool ClauseAnchor(const Pattern& pattern, const PathId* bound, std::uint32_t field,
                           std::uint32_t clause, Anchor& anchor) {
    const PatternItem& item = pattern.items()[clause];
    anchor = Anchor();
    anchor.path = bound[field];
    if (anchor.path == kNoPath) anchor.attribute = pattern.TextOf(pattern.items()[field]);
    anchor.text = pattern.TextOf(item);
    switch (item.op) {
      case PatternOp::kText:
        anchor.kind = AnchorKind::kExact;
        return true;
      case PatternOp::kNumber:
        anchor.kind = AnchorKind::kNumber;
        anchor.number = {item.whole, item.number};
        return true;
      case PatternOp::kTrue:
      case PatternOp::kFalse:
      case PatternOp::kNull:
        anchor.kind = AnchorKind::kLiteral;
        anchor.number.bits = static_cast<std::int64_t>(LiteralKind(item.op));
        return true;
      case PatternOp::kPrefix:
        anchor.kind = AnchorKind::kPrefix;
        return true;
      case PatternOp::kSuffix:
        anchor.kind = AnchorKind::kSuffix;
        return true;
      case PatternOp::kIgnoreCase:
        anchor.kind = AnchorKind::kIgnoreCase;
        return true;
      case PatternOp::kPrefixIgnoreCase:
        anchor.kind = AnchorKind::kPrefixIgnoreCase;
        return true;
      case PatternOp::kSuffixIgnoreCase:
        anchor.kind = AnchorKind::kSuffixIgnoreCase;
        return true;
      case PatternOp::kNumeric:
        anchor.kind = AnchorKind::kRange;
        anchor.range = &pattern.RangeOf(item);
        return true;
      case PatternOp::kWildcard: {
        const Wildcard& wildcard = pattern.WildcardOf(item);
        const bool by_prefix = wildcard.prefix().size() >= wildcard.suffix().size();
        anchor.kind = by_prefix ? AnchorKind::kPrefix : AnchorKind::kSuffix;
        anchor.text = by_prefix ? wildcard.prefix() : wildcard.suffix();
        if (anchor.text.empty()) anchor.kind = AnchorKind::kPresent;
        return true;
      }
      case PatternOp::kAbsent:
        return false;
      default:
        anchor.kind = AnchorKind::kPresent;
        anchor.text = {};
        return true;
    }
  }

 private:
  AnchorOptions OfItem(const Pattern& pattern, const PathId* bound, std::uint32_t i) const {
    const PatternItem& item = pattern.items()[i];
    if (item.op == PatternOp::kAny) {
      Union all;
      for (std::uint32_t way = i + 1; way < item.end; way = pattern.items()[way].end) {
        all.Add(OfItems(pattern, bound, way + 1, pattern.items()[way].end));
      }
      return all.Take();
    }
    if (item.op == PatternOp::kObject) return OfItems(pattern, bound, i + 1, item.end);
    Union all;
    for (std::uint32_t c = i + 1; c < item.end; c = pattern.items()[c].end) {
      Anchor anchor;
      if (!ClauseAnchor(pattern, bound, i, c, anchor)) return {};
      all.Add(Options(anchor));
    }
    return all.Take();
  }

  AnchorOptions Options(const Anchor& anchor) const {
    const auto found = counts_.find(AnchorKey(anchor));
    const std::uint64_t count = found == counts_.end() ? 1 : found->second;
    AnchorChoice choice{{anchor}, CostOf(anchor.kind, count), anchor.text.size()};
    AnchorOptions options;
    (anchor.path == kNoPath ? options.attributes : options.payload) = std::move(choice);
    return options;
  }

  const AnchorCounts& counts_;
};

void CountFilter(const Filter& filter, AnchorCounts& counts) {
  if (filter.kind == Filter::Kind::kNot) return;
  for (const Filter::Condition& condition : filter.conditions) {
    ++counts[AnchorKey(Chooser::FilterAnchor(filter.kind, condition))];
  }
  for (const FilterPtr& operand : filter.operands) CountFilter(*operand, counts);
}

}  // namespace

void CountAnchors(const Filter* filter, const Pattern* pattern, const PathId* bound,
                  AnchorCounts& counts) {
  if (filter != nullptr) CountFilter(*filter, counts);
  if (pattern == nullptr) return;
  for (std::uint32_t i = 0; i < pattern->items().size(); ++i) {
    const PatternItem& item = pattern->items()[i];
    if (item.op != PatternOp::kField) continue;
    for (std::uint32_t c = i + 1; c < item.end; c = pattern->items()[c].end) {
      Anchor anchor;
      if (Chooser::ClauseAnchor(*pattern, bound, i, c, anchor)) ++counts[AnchorKey(anchor)];
    }
    i = item.end - 1;
  }
}

AnchorOptions ChooseAnchors(const Filter* filter, const Pattern* pattern, const PathId* bound,
                            const AnchorCounts& counts) {
  const Chooser chooser(counts);
  AnchorOptions best;
  if (filter != nullptr) TakeBetter(best, chooser.OfFilter(*filter));
  if (pattern != nullptr) {
    TakeBetter(best, chooser.OfItems(*pattern, bound, 0,
                                     static_cast<std::uint32_t>(pattern->items().size())));
  }
  // One of both goes into the index, the other is at most the gate.
  if (best.attributes && best.payload &&
      best.attributes->cost <= best.payload->cost + kPayloadCost) {
    best.payload.reset();
  }
  return best;
}

void MatchIndex::Insert(Fields& fields, const Anchor& anchor, std::uint32_t route) {
  fields[anchor.attribute].Add(anchor.kind, anchor.text, anchor.number, anchor.range, route);
}

void MatchIndex::Add(const AnchorOptions& options, std::uint32_t route) {
  if (!options.attributes && !options.payload) {
    always_.push_back(route);
    return;
  }
  const AnchorChoice& choice = options.payload ? *options.payload : *options.attributes;
  for (const Anchor& anchor : choice.anchors) {
    if (anchor.path == kNoPath) {
      Insert(attributes_, anchor, route);
    } else {
      paths_[anchor.path].Add(anchor.kind, anchor.text, anchor.number, anchor.range, route);
    }
  }
  if (!options.payload) return;
  if (!options.attributes) {
    always_open_ = true;
    return;
  }
  for (const Anchor& gate : options.attributes->anchors) {
    // Ranges of one field have one key; each is a gate of its own.
    if (gate.kind != AnchorKind::kRange && !known_gates_.try_emplace(AnchorKey(gate)).second) {
      continue;
    }
    Insert(gates_, gate, 0);
  }
}

void MatchIndex::Seal() {
  always_.shrink_to_fit();
  known_gates_ = {};
  if (always_open_) gates_ = {};
  for (Fields* fields : {&attributes_, &gates_}) {
    for (auto& [name, index] : *fields) index.Seal();
  }
  for (auto& [path, index] : paths_) index.Seal();
}

void MatchIndex::FindIn(const FieldIndex& index, const EventView& event, std::string_view name,
                        std::vector<std::uint32_t>& candidates) {
  const AttributeText text(event, name);
  ClauseValue value;
  if (!AttributeClauseValue(event, name, text, value)) return;
  index.FindPresent(candidates);
  // Filters compare the canonical text of any attribute.
  index.FindText(text.text(), candidates);
  if (value.kind != ValueKind::kText) index.FindValue(value, candidates);
}

void MatchIndex::Find(const Fields& fields, const EventView& event,
                      std::vector<std::uint32_t>& candidates) {
  if (fields.size() <= 4 + event.attributes.size()) {
    for (const auto& [name, index] : fields) FindIn(index, event, name, candidates);
    return;
  }
  const auto look = [&](std::string_view name) {
    const auto found = fields.find(name);
    if (found != fields.end()) FindIn(found->second, event, name, candidates);
  };
  for (const std::string_view name : {"type", "source", "id", "specversion"}) look(name);
  for (const AttributeView& attribute : event.attributes) look(attribute.name);
}

void MatchIndex::FromAttributes(const EventView& event,
                                std::vector<std::uint32_t>& candidates) const {
  candidates.insert(candidates.end(), always_.begin(), always_.end());
  Find(attributes_, event, candidates);
}

bool MatchIndex::NeedsPayload(const EventView& event, std::vector<std::uint32_t>& scratch) const {
  if (paths_.empty() || always_open_) return always_open_;
  Find(gates_, event, scratch);
  const bool open = !scratch.empty();
  scratch.clear();
  return open;
}

void MatchIndex::FromPayload(const PayloadReader& payload,
                             std::vector<std::uint32_t>& candidates) const {
  for (const std::uint32_t leaf : payload.leaves()) {
    const PayloadValue& value = payload.value(leaf);
    const auto found = paths_.find(value.path);
    if (found == paths_.end()) continue;
    found->second.FindPresent(candidates);
    if (value.kind == ValueKind::kText) {
      found->second.FindText(value.text, candidates);
    } else {
      found->second.FindValue({value.kind, value.text, value.number}, candidates);
    }
  }
}

}  // namespace tocsin

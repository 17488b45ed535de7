#include <fmt/format.h>

#include <algorithm>

#include "broker/base/json_scan.h"
#include "broker/routing/attribute_text.h"
#include "broker/routing/pattern.h"

namespace tocsin {
namespace {

std::string ToJson(const ClauseValue& value) {
  switch (value.kind) {
    case ValueKind::kNumber:
      return value.number.ToJson();
    case ValueKind::kTrue:
      return "true";
    case ValueKind::kFalse:
      return "false";
    case ValueKind::kNull:
      return "null";
    default: {
      std::string out;
      AppendJsonString(out, value.text);
      return out;
    }
  }
}

std::string Shortened(const std::string& json) {
  constexpr std::size_t kShown = 160;
  if (json.size() <= kShown) return json;
  return fmt::format("{} (first {} of {} bytes)", json.substr(0, kShown), kShown, json.size());
}

}  // namespace

// Finds the part to blame. It asks Pattern itself whether a part holds, so it cannot disagree.
class PatternExplanation {
 public:
  PatternExplanation(const Pattern& pattern, const EventView& event, PayloadReader& payload,
                     const PathId* bound)
      : pattern_(pattern),
        items_(pattern.items()),
        event_(event),
        payload_(payload),
        bound_(bound) {}

  // Of items that do not all hold.
  Verdict Event(std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = begin; i < end; i = items_[i].end) {
      if (!pattern_.HoldsAt(i, event_, payload_, bound_)) return Part(i, "pattern");
    }
    return {};
  }

 private:
  Verdict Part(std::uint32_t i, const std::string& place) {
    const PatternItem& item = items_[i];
    if (item.op == PatternOp::kAny) return Choice(i, place);
    const std::string_view name = pattern_.TextOf(item);
    const std::string here = fmt::format("{}.{}", place, name);
    Verdict verdict;
    verdict.clause = here;
    verdict.expected = pattern_.PartJson(i);
    if (bound_[i] == kNoPath) {
      const AttributeText text(event_, name);
      ClauseValue value;
      if (AttributeClauseValue(event_, name, text, value)) verdict.actual = ToJson(value);
      verdict.reason = Sentence(verdict, fmt::format("the event has no attribute `{}`", name));
      return verdict;
    }
    if (!payload_.Load()) {
      verdict.reason =
          fmt::format("{}: the payload is no JSON that can be read: {}", here, payload_.reason());
      return verdict;
    }
    verdict.actual = Actual(bound_[i]);
    if (payload_.OccursTwice(bound_[i])) {
      verdict.reason = fmt::format("{}: the name occurs twice in its object", here);
      return verdict;
    }
    if (item.op == PatternOp::kField) {
      verdict.reason = Sentence(verdict, "the payload has no value there");
      return verdict;
    }
    // The first field beneath that no value fulfils; if each has one, they do not go together.
    for (std::uint32_t c = i + 1; c < item.end; c = items_[c].end) {
      if (!HoldsSomewhere(c)) return Part(c, here);
    }
    verdict.actual = "";
    verdict.reason =
        fmt::format("{}: its fields hold for different elements of an array, not for one", here);
    return verdict;
  }

  static std::string Sentence(const Verdict& verdict, std::string_view absent) {
    return fmt::format("{} {}: {}", verdict.clause, Shortened(verdict.expected),
                       verdict.actual.empty() ? std::string(absent)
                                              : fmt::format("it is {}", Shortened(verdict.actual)));
  }

  Verdict Choice(std::uint32_t i, const std::string& place) {
    constexpr std::size_t kShown = 4;
    Verdict verdict;
    verdict.clause = fmt::format("{}.$or", place);
    verdict.expected = pattern_.PartJson(i);
    std::size_t count = 0;
    std::string reasons;
    for (std::uint32_t way = i + 1; way < items_[i].end; way = items_[way].end, ++count) {
      if (count >= kShown) continue;
      for (std::uint32_t c = way + 1; c < items_[way].end; c = items_[c].end) {
        if (HoldsSomewhere(c)) continue;
        const Verdict part = Part(c, place);
        reasons += fmt::format("{}{}", reasons.empty() ? "" : "; ", part.reason);
        if (count == 0) verdict.actual = part.actual;
        break;
      }
    }
    verdict.reason = fmt::format("{}: none of {} alternatives holds: {}{}", verdict.clause, count,
                                 reasons, count > kShown ? "; ..." : "");
    return verdict;
  }

  // Whether values of the payload, of whatever elements, fulfil the part.
  bool HoldsSomewhere(std::uint32_t i) {
    const PatternItem& item = items_[i];
    if (item.op == PatternOp::kAny) {
      for (std::uint32_t way = i + 1; way < item.end; way = items_[way].end) {
        bool all = true;
        for (std::uint32_t c = way + 1; c < items_[way].end; c = items_[c].end) {
          all = all && HoldsSomewhere(c);
        }
        if (all) return true;
      }
      return false;
    }
    if (bound_[i] == kNoPath) return pattern_.HoldsAt(i, event_, payload_, bound_);
    if (!payload_.Load() || payload_.OccursTwice(bound_[i])) return false;
    if (item.op == PatternOp::kObject) {
      for (std::uint32_t c = i + 1; c < item.end; c = items_[c].end) {
        if (!HoldsSomewhere(c)) return false;
      }
      return true;
    }
    bool present = false;
    for (const std::uint32_t leaf : payload_.leaves()) {
      const PayloadValue& value = payload_.value(leaf);
      if (value.path != bound_[i]) continue;
      present = true;
      if (pattern_.AnyClauseHolds(i, {value.kind, value.text, value.number})) return true;
    }
    return !present && pattern_.HasAbsent(i);
  }

  // The values at a path: one as it is, several as an array; empty if there is none.
  std::string Actual(PathId path) const {
    constexpr std::size_t kShown = 16;
    std::string out;
    std::size_t count = 0;
    for (const std::uint32_t leaf : payload_.leaves()) {
      const PayloadValue& value = payload_.value(leaf);
      if (value.path != path) continue;
      if (++count > kShown) break;
      if (count > 1) out += ',';
      out += ToJson({value.kind, value.text, value.number});
    }
    return count > 1 ? fmt::format("[{}]", out) : out;
  }

  const Pattern& pattern_;
  std::span<const PatternItem> items_;
  const EventView& event_;
  PayloadReader& payload_;
  const PathId* bound_;
};

Verdict Pattern::Explain(const EventView& event, PayloadReader& payload,
                         const PathId* bound) const {
  Verdict verdict;
  verdict.matched = Matches(event, payload, bound);
  if (verdict.matched) return verdict;
  return PatternExplanation(*this, event, payload, bound)
      .Event(0, static_cast<std::uint32_t>(items().size()));
}

}  // namespace tocsin

#include "broker/routing/field_index.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "broker/routing/text_case.h"

namespace tocsin {
namespace {

std::size_t CommonPrefix(std::string_view a, std::string_view b) {
  const std::size_t most = std::min(a.size(), b.size());
  std::size_t count = 0;
  while (count < most && a[count] == b[count]) ++count;
  return count;
}

std::size_t LiteralIndex(std::int64_t kind) {
  switch (static_cast<ValueKind>(kind)) {
    case ValueKind::kTrue:
      return 0;
    case ValueKind::kFalse:
      return 1;
    default:
      return 2;
  }
}

// A little below and above, so that rounding to a double hides nothing.
double Low(const NumberRange& range) {
  constexpr double kLeast = -std::numeric_limits<double>::infinity();
  return range.has_low ? std::nextafter(range.low.AsDouble(), kLeast) : kLeast;
}
double High(const NumberRange& range) {
  constexpr double kMost = std::numeric_limits<double>::infinity();
  return range.has_high ? std::nextafter(range.high.AsDouble(), kMost) : kMost;
}

}  // namespace

void PrefixIndex::Add(std::string_view text, std::uint32_t route) {
  Entry& entry = entries_.emplace_back();
  entry.text = text;
  if (backwards_) std::reverse(entry.text.begin(), entry.text.end());
  entry.routes.push_back(route);
}

void PrefixIndex::Seal() {
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const Entry& a, const Entry& b) { return a.text < b.text; });
  std::size_t out = 0;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (out > 0 && entries_[out - 1].text == entries_[i].text) {
      entries_[out - 1].routes.push_back(entries_[i].routes.front());
    } else {
      if (out != i) entries_[out] = std::move(entries_[i]);
      ++out;
    }
  }
  entries_.resize(out);
  entries_.shrink_to_fit();
  // The longest text that this one begins with is the one before it, or above that in its chain.
  for (std::size_t i = 1; i < entries_.size(); ++i) {
    std::uint32_t parent = static_cast<std::uint32_t>(i);
    while (parent != 0 && entries_[i].text.compare(0, entries_[parent - 1].text.size(),
                                                   entries_[parent - 1].text) != 0) {
      parent = entries_[parent - 1].parent;
    }
    entries_[i].parent = parent;
  }
}

void PrefixIndex::Find(std::string_view value, std::vector<std::uint32_t>& found) const {
  if (entries_.empty()) return;
  std::string turned;
  if (backwards_) {
    turned.assign(value.rbegin(), value.rend());
    value = turned;
  }
  const auto behind =
      std::upper_bound(entries_.begin(), entries_.end(), value,
                       [](std::string_view text, const Entry& entry) { return text < entry.text; });
  if (behind == entries_.begin()) return;
  // Every text that the value begins with is this one or above it in its chain.
  std::uint32_t at = static_cast<std::uint32_t>(behind - entries_.begin());
  const std::size_t common = CommonPrefix(entries_[at - 1].text, value);
  for (; at != 0; at = entries_[at - 1].parent) {
    const Entry& entry = entries_[at - 1];
    if (entry.text.size() > common) continue;
    found.insert(found.end(), entry.routes.begin(), entry.routes.end());
  }
}

void RangeIndex::Seal() {
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return Low(a.range) < Low(b.range); });
  entries_.shrink_to_fit();
  Highest(0, entries_.size());
}

double RangeIndex::Highest(std::size_t begin, std::size_t end) {
  if (begin == end) return -std::numeric_limits<double>::infinity();
  const std::size_t middle = begin + (end - begin) / 2;
  Entry& entry = entries_[middle];
  entry.highest = std::max({High(entry.range), Highest(begin, middle), Highest(middle + 1, end)});
  return entry.highest;
}

void RangeIndex::Find(const Number& value, std::vector<std::uint32_t>& found) const {
  Find(0, entries_.size(), value, found);
}

void RangeIndex::Find(std::size_t begin, std::size_t end, const Number& value,
                      std::vector<std::uint32_t>& found) const {
  if (begin == end) return;
  const std::size_t middle = begin + (end - begin) / 2;
  const Entry& entry = entries_[middle];
  if (entry.highest < value.AsDouble()) return;
  Find(begin, middle, value, found);
  if (Low(entry.range) > value.AsDouble()) return;
  if (entry.range.Contains(value)) found.push_back(entry.route);
  Find(middle + 1, end, value, found);
}

FieldIndex::Rest& FieldIndex::RestOf() {
  if (rest_ == nullptr) rest_ = std::make_unique<Rest>();
  return *rest_;
}

void FieldIndex::AddExact(std::string_view text, std::uint32_t route) {
  const auto [exact, is_new] =
      exact_.insert({text.data(), static_cast<std::uint32_t>(text.size()), route});
  if (is_new) return;
  if ((exact->routes & kList) == 0) {
    lists_.push_back({exact->routes});
    exact->routes = kList | static_cast<std::uint32_t>(lists_.size() - 1);
  }
  lists_[exact->routes & ~kList].push_back(route);
}

void FieldIndex::Add(AnchorKind kind, std::string_view text, const Number& number,
                     const NumberRange* range, std::uint32_t route) {
  switch (kind) {
    case AnchorKind::kExact:
      AddExact(text, route);
      return;
    case AnchorKind::kNumber:
      RestOf().numbers[number].push_back(route);
      return;
    case AnchorKind::kIgnoreCase:
      RestOf().ignore_case[text].push_back(route);
      RestOf().any_lowered = true;
      return;
    case AnchorKind::kLiteral:
      RestOf().literals[LiteralIndex(number.bits)].push_back(route);
      return;
    case AnchorKind::kPrefix:
      RestOf().prefixes.Add(text, route);
      return;
    case AnchorKind::kSuffix:
      RestOf().suffixes.Add(text, route);
      return;
    case AnchorKind::kPrefixIgnoreCase:
      RestOf().lowered_prefixes.Add(text, route);
      RestOf().any_lowered = true;
      return;
    case AnchorKind::kSuffixIgnoreCase:
      RestOf().lowered_suffixes.Add(text, route);
      RestOf().any_lowered = true;
      return;
    case AnchorKind::kRange:
      RestOf().ranges.Add(*range, route);
      return;
    case AnchorKind::kPresent:
      RestOf().present.push_back(route);
      return;
  }
}

void FieldIndex::Seal() {
  if (rest_ == nullptr) return;
  rest_->prefixes.Seal();
  rest_->suffixes.Seal();
  rest_->lowered_prefixes.Seal();
  rest_->lowered_suffixes.Seal();
  rest_->ranges.Seal();
  rest_->present.shrink_to_fit();
}

void FieldIndex::FindPresent(std::vector<std::uint32_t>& found) const {
  if (rest_ == nullptr) return;
  found.insert(found.end(), rest_->present.begin(), rest_->present.end());
}

void FieldIndex::FindText(std::string_view text, std::vector<std::uint32_t>& found) const {
  if (const auto exact = exact_.find(text); exact != exact_.end()) {
    if ((exact->routes & kList) == 0) {
      found.push_back(exact->routes);
    } else {
      const std::vector<std::uint32_t>& list = lists_[exact->routes & ~kList];
      found.insert(found.end(), list.begin(), list.end());
    }
  }
  if (rest_ == nullptr) return;
  rest_->prefixes.Find(text, found);
  rest_->suffixes.Find(text, found);
  if (!rest_->any_lowered) return;
  const std::string lowered = LowerCase(text);
  const auto same = rest_->ignore_case.find(lowered);
  if (same != rest_->ignore_case.end()) Take(same->second, found);
  rest_->lowered_prefixes.Find(lowered, found);
  rest_->lowered_suffixes.Find(lowered, found);
}

void FieldIndex::FindValue(const ClauseValue& value, std::vector<std::uint32_t>& found) const {
  if (rest_ == nullptr) return;
  if (value.kind != ValueKind::kNumber) {
    Take(rest_->literals[LiteralIndex(static_cast<std::int64_t>(value.kind))], found);
    return;
  }
  const auto same = rest_->numbers.find(value.number);
  if (same != rest_->numbers.end()) Take(same->second, found);
  rest_->ranges.Find(value.number, found);
}

}  // namespace tocsin

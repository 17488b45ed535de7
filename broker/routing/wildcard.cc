#include "broker/routing/wildcard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "broker/base/status.h"
#include "broker/routing/text_case.h"

namespace tocsin {
namespace {

constexpr char kAny = '\xFF';  // in no UTF-8 text
constexpr std::size_t kNowhere = static_cast<std::size_t>(-1);

}  // namespace

absl::StatusOr<Wildcard> Wildcard::FromPattern(std::string_view text) {
  Wildcard wildcard;
  wildcard.parts_.emplace_back();
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '*') {
      if (i > 0 && text[i - 1] == '*' && wildcard.parts_.back().text.empty()) {
        return absl::InvalidArgumentError(
            fmt::format("`**` at byte {} of a wildcard: one `*` is enough", i - 1));
      }
      wildcard.parts_.emplace_back();
    } else if (c == '\\') {
      if (i + 1 >= text.size() || (text[i + 1] != '*' && text[i + 1] != '\\')) {
        return absl::InvalidArgumentError(fmt::format(
            "a backslash in a wildcard (at byte {}) stands before `*` or another backslash", i));
      }
      wildcard.parts_.back().text.push_back(text[++i]);
    } else {
      wildcard.parts_.back().text.push_back(c);
    }
  }
  TOCSIN_RETURN_IF_ERROR(wildcard.Finish());
  return wildcard;
}

absl::StatusOr<Wildcard> Wildcard::FromLike(std::string_view text) {
  Wildcard wildcard;
  wildcard.parts_.emplace_back();
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '%') {
      // Two gaps are one.
      if (wildcard.parts_.size() > 1 && wildcard.parts_.back().text.empty()) continue;
      wildcard.parts_.emplace_back();
    } else if (c == '_') {
      wildcard.parts_.back().text.push_back(kAny);
      wildcard.parts_.back().has_any = true;
    } else if (c == '\\' && i + 1 < text.size() && (text[i + 1] == '%' || text[i + 1] == '_')) {
      wildcard.parts_.back().text.push_back(text[++i]);
    } else if (c == kAny) {
      return absl::InvalidArgumentError("the pattern of LIKE is not UTF-8");
    } else {
      wildcard.parts_.back().text.push_back(c);
    }
  }
  TOCSIN_RETURN_IF_ERROR(wildcard.Finish());
  return wildcard;
}

absl::Status Wildcard::Finish() {
  std::size_t bytes = 0;
  for (const Part& part : parts_) bytes += part.text.size();
  if (bytes > kWildcardBytesMax) {
    return absl::InvalidArgumentError(
        fmt::format("a wildcard has at most {} bytes", kWildcardBytesMax));
  }
  if (parts_.size() - 1 > kWildcardGapsMax) {
    return absl::InvalidArgumentError(
        fmt::format("a wildcard has at most {} gaps", kWildcardGapsMax));
  }
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    Part& part = parts_[i];
    part.characters = CountCodePoints(part.text);
    // The first and the last part are compared where they stand.
    if (!part.has_any || i == 0 || i + 1 == parts_.size()) continue;
    if (part.characters > kWildcardPartMax) {
      return absl::InvalidArgumentError(fmt::format(
          "between two `%` are at most {} characters if one of them is `_`", kWildcardPartMax));
    }
    std::uint64_t bit = 1;
    for (std::size_t at = 0; at < part.text.size(); bit <<= 1) {
      const CodePoint point = CodePointAt(part.text, at);
      if (part.text[at] == kAny) {
        part.any |= bit;
      } else {
        auto mask = std::lower_bound(
            part.masks.begin(), part.masks.end(), point.value,
            [](const auto& entry, std::uint32_t value) { return entry.first < value; });
        if (mask == part.masks.end() || mask->first != point.value) {
          mask = part.masks.insert(mask, {point.value, 0});
        }
        mask->second |= bit;
      }
      at += point.bytes;
    }
  }
  return absl::OkStatus();
}

// The bytes of `text` that the whole part matches at its start, or kNowhere.
std::size_t Wildcard::MatchAt(const Part& part, std::string_view text) {
  if (!part.has_any) {
    return text.substr(0, part.text.size()) == part.text ? part.text.size() : kNowhere;
  }
  std::size_t at = 0;
  for (const char c : part.text) {
    if (at >= text.size()) return kNowhere;
    if (c == kAny) {
      at += CodePointAt(text, at).bytes;
    } else if (text[at] == c) {
      ++at;
    } else {
      return kNowhere;
    }
  }
  return at;
}

bool Wildcard::EndsWith(const Part& part, std::string_view text) {
  if (!part.has_any) {
    return text.size() >= part.text.size() &&
           text.substr(text.size() - part.text.size()) == part.text;
  }
  std::size_t at = text.size();
  for (std::size_t i = 0; i < part.characters; ++i) {
    if (at == 0) return false;
    --at;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  }
  return MatchAt(part, text.substr(at)) == text.size() - at;
}

// Behind the first occurrence, or kNowhere.
std::size_t Wildcard::Find(const Part& part, std::string_view text) {
  if (part.text.empty()) return 0;
  if (text.empty()) return kNowhere;  // its data() may be null, which memmem() does not take
  if (!part.has_any) {
    const void* found = memmem(text.data(), text.size(), part.text.data(), part.text.size());
    if (found == nullptr) return kNowhere;
    return static_cast<std::size_t>(static_cast<const char*>(found) - text.data()) +
           part.text.size();
  }
  const std::uint64_t last = std::uint64_t{1} << (part.characters - 1);
  std::uint64_t state = 0;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    const auto mask = std::lower_bound(
        part.masks.begin(), part.masks.end(), point.value,
        [](const auto& entry, std::uint32_t value) { return entry.first < value; });
    std::uint64_t fits = part.any;
    if (mask != part.masks.end() && mask->first == point.value) fits |= mask->second;
    state = (state << 1 | 1) & fits;
    at += point.bytes;
    if ((state & last) != 0) return at;
  }
  return kNowhere;
}

bool Wildcard::Matches(std::string_view text) const {
  const std::size_t head = MatchAt(parts_.front(), text);
  if (head == kNowhere) return false;
  if (parts_.size() == 1) return head == text.size();
  text.remove_prefix(head);
  if (!EndsWith(parts_.back(), text)) return false;
  // The last part's bytes: with `_` in it they depend on the text.
  std::size_t tail = parts_.back().text.size();
  if (parts_.back().has_any) {
    tail = 0;
    std::size_t at = text.size();
    for (std::size_t i = 0; i < parts_.back().characters; ++i) {
      --at;
      while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    }
    tail = text.size() - at;
  }
  text.remove_suffix(tail);
  for (std::size_t i = 1; i + 1 < parts_.size(); ++i) {
    const std::size_t behind = Find(parts_[i], text);
    if (behind == kNowhere) return false;
    text.remove_prefix(behind);
  }
  return true;
}

std::string_view Wildcard::prefix() const {
  const std::string_view text = parts_.front().text;
  return text.substr(0, text.find(kAny));
}

std::string_view Wildcard::suffix() const {
  const std::string_view text = parts_.back().text;
  const std::size_t any = text.rfind(kAny);
  return any == std::string_view::npos ? text : text.substr(any + 1);
}

}  // namespace tocsin

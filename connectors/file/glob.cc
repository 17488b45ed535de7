// Globs, matched in time proportional to pattern x path by remembering the last star only: a `*` or
// `**` that was passed need never be tried again once a later one has matched.

#include <fmt/format.h>

#include <optional>
#include <string_view>

#include "connectors/file/file_spec.h"

namespace tocsin {
namespace {

// The set that begins at pattern[at] == '['; nullopt: malformed.
struct GlobSet {
  std::size_t end = 0;  // behind the ']'
  bool matches = false;
};

std::optional<GlobSet> ReadSet(std::string_view pattern, std::size_t at, unsigned char c) {
  std::size_t i = at + 1;
  const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
  if (negated) ++i;
  bool matched = false;
  bool first = true;
  while (i < pattern.size() && (first || pattern[i] != ']')) {
    first = false;
    const auto next = [&]() -> std::optional<unsigned char> {
      if (i < pattern.size() && pattern[i] == '\\') ++i;
      if (i >= pattern.size()) return std::nullopt;
      return static_cast<unsigned char>(pattern[i++]);
    };
    const auto low = next();
    if (!low) return std::nullopt;
    unsigned char high = *low;
    if (i + 1 < pattern.size() && pattern[i] == '-' && pattern[i + 1] != ']') {
      ++i;
      const auto end = next();
      if (!end || *end < *low) return std::nullopt;
      high = *end;
    }
    matched = matched || (c >= *low && c <= high);
  }
  if (i >= pattern.size()) return std::nullopt;
  return GlobSet{i + 1, matched != negated};
}

struct Star {
  std::size_t pattern = 0;  // behind the star
  std::size_t text = 0;     // where its match ends so far
};

bool Matches(std::string_view pattern, std::string_view text) {
  std::size_t p = 0;
  std::size_t t = 0;
  std::optional<Star> single;  // `*`
  std::optional<Star> many;    // `**`
  const auto retry = [&] {
    // The inner `*` first; it must not take a `/`.
    if (single && single->text < text.size() && text[single->text] != '/') {
      p = single->pattern;
      t = ++single->text;
      return true;
    }
    single.reset();
    if (!many || many->text >= text.size()) return false;
    p = many->pattern;
    t = ++many->text;
    return true;
  };
  while (true) {
    if (p == pattern.size()) {
      if (t == text.size()) return true;
      if (!retry()) return false;
      continue;
    }
    if (pattern[p] == '*') {
      if (p + 1 < pattern.size() && pattern[p + 1] == '*') {
        p += 2;
        // `**/x` is also `x`: the slash belongs to the star when it takes nothing.
        if (p < pattern.size() && pattern[p] == '/' && (t == 0 || text[t - 1] == '/')) {
          if (Matches(pattern.substr(p + 1), text.substr(t))) return true;
        }
        many = Star{p, t};
        single.reset();
      } else {
        ++p;
        single = Star{p, t};
      }
      continue;
    }
    bool matched = false;
    std::size_t next = p + 1;
    if (t < text.size()) {
      const char c = text[t];
      if (pattern[p] == '?') {
        matched = c != '/';
      } else if (pattern[p] == '[') {
        const auto set = ReadSet(pattern, p, static_cast<unsigned char>(c));
        if (set) {
          next = set->end;
          matched = set->matches && c != '/';
        }
      } else {
        if (pattern[p] == '\\' && p + 1 < pattern.size()) next = p + 2;
        matched = pattern[next - 1] == c;
      }
    }
    if (matched) {
      p = next;
      ++t;
    } else if (!retry()) {
      return false;
    }
  }
}

}  // namespace

absl::Status ValidateGlob(const std::string& pattern) {
  if (pattern.empty()) return absl::InvalidArgumentError("a glob is empty");
  if (pattern.starts_with('/')) {
    return absl::InvalidArgumentError(fmt::format(
        "glob `{}` begins with `/`: it is matched against the path beneath the directory",
        pattern));
  }
  std::size_t stars = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\') {
      if (++i >= pattern.size()) {
        return absl::InvalidArgumentError(
            fmt::format("glob `{}` ends with a `\\` that escapes nothing", pattern));
      }
    } else if (pattern[i] == '[') {
      const auto set = ReadSet(pattern, i, 0);
      if (!set) {
        return absl::InvalidArgumentError(
            fmt::format("glob `{}` has a `[` without its `]`, or a range that goes down", pattern));
      }
      i = set->end - 1;
    } else if (pattern.substr(i, 3) == "**/") {
      if (++stars > 4) {
        return absl::InvalidArgumentError(fmt::format("glob `{}` has more than 4 `**/`", pattern));
      }
    }
  }
  return absl::OkStatus();
}

bool GlobMatches(const std::string& pattern, const std::string& relative_path) {
  if (pattern.find('/') != std::string::npos) return Matches(pattern, relative_path);
  const std::size_t slash = relative_path.rfind('/');
  return Matches(pattern, slash == std::string::npos
                              ? std::string_view(relative_path)
                              : std::string_view(relative_path).substr(slash + 1));
}

}  // namespace tocsin

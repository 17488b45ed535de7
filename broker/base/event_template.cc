#include "broker/base/event_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "absl/strings/str_split.h"

namespace tocsin {
namespace {

std::optional<JsonValue> Descend(const JsonValue& from, const std::vector<std::string>& path) {
  JsonValue at = from;
  for (const std::string& step : path) {
    if (at.kind == JsonKind::kObject) {
      bool found = false;
      for (const JsonMember& member : JsonMembers(at)) {
        if (member.name != step) continue;
        at = member.value;
        found = true;
        break;
      }
      if (!found) return std::nullopt;
    } else if (at.kind == JsonKind::kArray) {
      std::size_t index = 0;
      const auto [end, error] = std::from_chars(step.data(), step.data() + step.size(), index);
      if (error != std::errc() || end != step.data() + step.size()) return std::nullopt;
      const std::vector<JsonValue> elements = JsonElements(at);
      if (index >= elements.size()) return std::nullopt;
      at = elements[index];
    } else {
      return std::nullopt;
    }
  }
  return at;
}

std::optional<std::string> TextOf(const JsonValue& value) {
  switch (value.kind) {
    case JsonKind::kNull:
      return std::nullopt;
    case JsonKind::kBoolean:
    case JsonKind::kNumber:
      return std::string(value.raw);
    case JsonKind::kString:
      return JsonString(value);
    case JsonKind::kArray:
    case JsonKind::kObject: {
      std::string out;
      AppendJsonCompact(out, value.raw);
      return out;
    }
  }
  return std::nullopt;
}

std::optional<std::string_view> Named(
    std::span<const std::pair<std::string_view, std::string_view>> pairs, std::string_view name) {
  for (const auto& [key, value] : pairs) {
    if (key == name) return value;
  }
  return std::nullopt;
}

}  // namespace

bool IsAttributeName(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
  });
}

absl::StatusOr<EventTemplate> EventTemplate::Parse(std::string_view text,
                                                   std::span<const std::string_view> names) {
  return ParseText(text, names);
}

absl::StatusOr<EventTemplate> EventTemplate::ParseOverEvent(std::string_view text) {
  return ParseText(text, std::nullopt);
}

absl::StatusOr<EventTemplate> EventTemplate::ParseText(
    std::string_view text, const std::optional<std::span<const std::string_view>>& names) {
  EventTemplate made;
  std::string literal;
  const auto flush = [&] {
    if (!literal.empty()) made.parts_.push_back({From::kText, std::move(literal), {}});
    literal.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c != '{' && c != '}') {
      literal.push_back(c);
      continue;
    }
    if (i + 1 < text.size() && text[i + 1] == c) {
      literal.push_back(c);
      ++i;
      continue;
    }
    if (c == '}') {
      return absl::InvalidArgumentError(
          fmt::format("`}}` at {} closes nothing; write `}}}}` for a brace", i + 1));
    }
    const std::size_t end = text.find('}', i);
    if (end == std::string_view::npos) {
      return absl::InvalidArgumentError(
          fmt::format("`{{` at {} is not closed; write `{{{{` for a brace", i + 1));
    }
    flush();
    const absl::Status added = made.AddHole(text.substr(i + 1, end - i - 1), names);
    if (!added.ok()) return added;
    i = end;
  }
  flush();
  return made;
}

absl::Status EventTemplate::AddHole(std::string_view hole,
                                    const std::optional<std::span<const std::string_view>>& names) {
  const std::string_view written = hole;
  Part part;
  if (!names && hole.ends_with('?')) {
    part.optional = true;
    hole.remove_suffix(1);
  }
  if (hole == "data" || hole.starts_with("data.")) {
    part.from = From::kData;
    if (hole != "data") {
      for (const auto& step : absl::StrSplit(std::string(hole.substr(5)), '.')) {
        part.path.emplace_back(step.data(), step.size());
        if (part.path.back().empty()) {
          return absl::InvalidArgumentError(
              fmt::format("`{{{}}}` has an empty step between dots", hole));
        }
      }
    }
    reads_data_ = true;
  } else if (!names) {
    part.from = From::kName;
    part.text = std::string(hole);
    if (!IsAttributeName(hole)) {
      return absl::InvalidArgumentError(fmt::format(
          "`{{{}}}` is neither an attribute (lower-case letters and digits) nor data.PATH",
          written));
    }
  } else if (hole == "key") {
    part.from = From::kKey;
  } else if (hole.starts_with("header.") || hole.starts_with("field.")) {
    part.from = From::kHeader;
    part.text = std::string(hole.substr(hole.find('.') + 1));
    if (part.text.empty()) return absl::InvalidArgumentError("`{header.}` names no header");
  } else if (std::find(names->begin(), names->end(), hole) != names->end()) {
    part.from = From::kName;
    part.text = std::string(hole);
  } else {
    return absl::InvalidArgumentError(
        fmt::format("`{{{}}}` is not known here; there are key, header.NAME, data.PATH{}{}", hole,
                    names->empty() ? "" : ", ", fmt::join(*names, ", ")));
  }
  parts_.push_back(std::move(part));
  return absl::OkStatus();
}

std::string EventTemplate::HoleText(const Part& part) {
  std::string text = part.from == From::kData ? "data" : part.text;
  for (const std::string& step : part.path) text += '.' + step;
  return '{' + text + (part.optional ? "?}" : "}");
}

std::optional<std::string> EventTemplate::FillPart(const Part& part, const TemplateValues& values) {
  switch (part.from) {
    case From::kText:
      return part.text;
    case From::kKey:
      if (!values.key) return std::nullopt;
      return std::string(*values.key);
    case From::kHeader:
    case From::kName: {
      const auto found =
          Named(part.from == From::kHeader ? values.headers : values.names, part.text);
      if (!found) return std::nullopt;
      return std::string(*found);
    }
    case From::kData: {
      if (!values.data) return std::nullopt;
      const std::optional<JsonValue> value = Descend(*values.data, part.path);
      return value ? TextOf(*value) : std::nullopt;
    }
  }
  return std::nullopt;
}

std::optional<std::string> EventTemplate::Fill(const TemplateValues& values,
                                               std::string* missing) const {
  std::string out;
  for (const Part& part : parts_) {
    const std::optional<std::string> text = FillPart(part, values);
    if (text) {
      out += *text;
    } else if (!part.optional) {
      if (missing != nullptr) *missing = HoleText(part);
      return std::nullopt;
    }
  }
  return out;
}

std::optional<JsonValue> EventTemplate::Whole(const TemplateValues& values) const {
  if (!values.data) return std::nullopt;
  return Descend(*values.data, parts_[0].path);
}

bool EventTemplate::constant() const {
  return std::all_of(parts_.begin(), parts_.end(),
                     [](const Part& part) { return part.from == From::kText; });
}

const std::string* EventTemplate::attribute_hole() const {
  return parts_.size() == 1 && parts_[0].from == From::kName ? &parts_[0].text : nullptr;
}

std::vector<std::string_view> EventTemplate::names() const {
  std::vector<std::string_view> names;
  for (const Part& part : parts_) {
    if (part.from == From::kName) names.push_back(part.text);
  }
  return names;
}

}  // namespace tocsin

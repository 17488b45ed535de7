#include "connectors/file/file_event.h"

#include <fmt/format.h>

#include <chrono>

#include "broker/base/json_scan.h"
#include "broker/base/time_text.h"
#include "connectors/file/seen_file.h"

namespace tocsin {
namespace {

constexpr std::int64_t kNanos = 1'000'000'000;

std::string_view WhatName(FileHappened what) {
  switch (what) {
    case FileHappened::kCreated:
      return "created";
    case FileHappened::kModified:
      return "modified";
    case FileHappened::kDeleted:
      return "deleted";
  }
  return "";
}

struct Split {
  std::int64_t seconds = 0;
  std::int32_t nanos = 0;
};

Split SplitNanos(std::int64_t ns) {
  std::int64_t seconds = ns / kNanos;
  if (ns % kNanos < 0) --seconds;
  return {seconds, static_cast<std::int32_t>(ns - seconds * kNanos)};
}

std::string Data(const FileSpec& spec, const FileOccurrence& occurrence) {
  std::string out = "{\"path\":";
  std::string path = spec.path;
  if (!path.ends_with('/')) path += '/';
  path += occurrence.path;
  AppendJsonString(out, path);
  out += ",\"name\":";
  AppendJsonString(out, occurrence.path.substr(occurrence.path.rfind('/') + 1));
  const Split modified = SplitNanos(occurrence.modified_ns);
  out += fmt::format(",\"size\":{},\"modified\":\"{}\"}}", occurrence.size,
                     FormatRfc3339Nanos(modified.seconds, modified.nanos));
  return out;
}

}  // namespace

bool FileNameIsUsable(const std::string& path) {
  if (path.size() > kSeenPathBytesMax) return false;
  EventBuilder builder("1", "/s", "t");
  builder.Attribute("subject", path);
  return Event::FromBytes(std::move(builder).Encode(), EventLimits()).ok();
}

Event MakeFileEvent(const FileSpec& spec, const FileOccurrence& occurrence, WallTime now) {
  const EventOverrides& own = spec.event;
  std::string id = FileEventId(occurrence.identity, occurrence.size, occurrence.modified_ns);
  if (occurrence.what == FileHappened::kDeleted) id += "-gone";
  EventBuilder builder(
      id, own.source.value_or(fmt::format("/sources/{}", spec.name)),
      own.type.value_or(fmt::format("{}.file.{}", own.type_prefix.value_or("dev.tocsin"),
                                    WhatName(occurrence.what))));
  builder.Attribute("subject", own.subject.value_or(occurrence.path));
  if (occurrence.path.size() <= EventLimits().key_bytes_max &&
      !own.attributes.contains("partitionkey")) {
    builder.Attribute("partitionkey", occurrence.path);
  }
  const std::int64_t now_ns = std::chrono::nanoseconds(now.time_since_epoch()).count();
  const Split time =
      SplitNanos(occurrence.what == FileHappened::kDeleted ? now_ns : occurrence.modified_ns);
  builder.Timestamp("time", time.seconds, time.nanos);
  const Split recorded = SplitNanos(now_ns);
  builder.Timestamp("recordedtime", recorded.seconds, recorded.nanos);
  for (const auto& [name, value] : own.attributes) builder.Attribute(name, value);
  if (!own.attributes.contains("datacontenttype")) {
    builder.Attribute("datacontenttype", "application/json");
  }
  builder.TextData(own.data ? *own.data : Data(spec, occurrence));
  return Event::FromTrustedBytes(std::move(builder).Encode());
}

}  // namespace tocsin

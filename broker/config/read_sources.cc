#include "broker/base/event.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/config/read_model.h"
#include "broker/schedule/schedule.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

// A YAML value as JSON. Plain true, false, null and numbers are what they look like in JSON; all
// other scalars are strings.
void AppendAsJson(ConfigReader& reader, YamlNode node, std::string& out) {
  switch (node.kind()) {
    case YamlKind::kNull:
      out += "null";
      return;
    case YamlKind::kScalar: {
      const std::optional<ConfigText> text = reader.Interpolate(node);
      if (!text) return;
      JsonValue value;
      const bool literal = node.plain() && JsonScanner(text->value).ReadDocument(value).ok() &&
                           (value.kind == JsonKind::kBoolean || value.kind == JsonKind::kNumber);
      if (literal) {
        out += value.raw;
      } else {
        AppendJsonString(out, text->value);
      }
      return;
    }
    case YamlKind::kList: {
      char separator = '[';
      for (const YamlNode& element : node.Elements()) {
        out.push_back(separator);
        separator = ',';
        AppendAsJson(reader, element, out);
      }
      if (separator == '[') out.push_back('[');
      out.push_back(']');
      return;
    }
    case YamlKind::kMap: {
      char separator = '{';
      for (const YamlEntry& entry : node.Entries()) {
        out.push_back(separator);
        separator = ',';
        if (entry.key.kind() == YamlKind::kScalar) {
          AppendJsonString(out, entry.key.text());
        } else {
          reader.Error(entry.key.location(), config_code::kBadValue, "a key is a word");
          AppendJsonString(out, "");
        }
        out.push_back(':');
        AppendAsJson(reader, entry.value, out);
      }
      if (separator == '{') out.push_back('{');
      out.push_back('}');
      return;
    }
  }
}

void ReadOptionalText(Section& section, std::string_view name, std::optional<std::string>& target,
                      std::string_view description) {
  std::string value;
  if (section.Text(name, value, description)) target = std::move(value);
}

// What the overrides make of an event must be an event: tried here, where the place is known.
void CheckOverride(Section& section, std::string_view name, EventBuilder builder) {
  const absl::Status status = Event::FromBytes(std::move(builder).Encode(), EventLimits()).status();
  if (!status.ok()) {
    section.Error(name, config_code::kBadValue, std::string(MessageOf(status)));
  }
}

void ReadAttributes(ConfigReader& reader, YamlNode node, EventOverrides& event) {
  if (!node.present() || node.kind() == YamlKind::kNull) return;
  if (node.kind() != YamlKind::kMap) {
    reader.Error(node.location(), config_code::kBadValue, "`attributes` takes a map from names");
    return;
  }
  for (const YamlEntry& entry : node.Entries()) {
    if (entry.key.kind() != YamlKind::kScalar || entry.value.kind() != YamlKind::kScalar) {
      reader.Error(entry.key.location(), config_code::kBadValue,
                   "`attributes` takes names and single values");
      continue;
    }
    const std::string name(entry.key.text());
    std::optional<ConfigText> text = reader.Interpolate(entry.value);
    if (!text) continue;
    if (event.attributes.contains(name)) {
      reader.Error(entry.key.location(), config_code::kDuplicateKey,
                   fmt::format("attribute `{}` is given twice", name));
      continue;
    }
    absl::Status status;
    if (name == "subject" || name == "time" || name == "recordedtime" ||
        name.substr(0, kReservedPrefix.size()) == kReservedPrefix) {
      status = absl::InvalidArgumentError(
          fmt::format("attribute `{}` cannot be set here: it is the broker's or a key of its own",
                      name.substr(0, 64)));
    } else {
      EventBuilder builder("1", "/s", "t");
      builder.Attribute(name, text->value);
      status = Event::FromBytes(std::move(builder).Encode(), EventLimits()).status();
    }
    if (!status.ok()) {
      reader.Error(entry.key.location(), config_code::kBadValue, std::string(MessageOf(status)));
      continue;
    }
    event.attributes.emplace(name, std::move(text->value));
  }
}

void ReadEvent(ConfigReader& reader, YamlNode node, EventOverrides& event) {
  Section section(reader, node, "sources.*.event");
  ReadOptionalText(section, "source", event.source, "instead of `/sources/<name>`");
  ReadOptionalText(section, "type", event.type, "instead of `<type_prefix>.<kind>.<what>`");
  ReadOptionalText(section, "type_prefix", event.type_prefix, "instead of `dev.tocsin`");
  ReadOptionalText(section, "subject", event.subject, "instead of the kind's own subject");
  std::optional<std::string> key;
  ReadOptionalText(section, "partitionkey", key,
                   "the ordering key; of queues a template, as `type`, `subject`, `attributes`");
  const YamlNode attributes =
      section.Value("attributes", "map of text", R"({"type":"object"})", "further attributes");
  const YamlNode data =
      section.Value("data", "any value", "{}", "instead of the kind's own data; becomes JSON");
  section.Finish();
  if (reader.describing != nullptr) return;
  ReadAttributes(reader, attributes, event);
  if (key) {
    CheckOverride(section, "partitionkey",
                  EventBuilder("1", "/s", "t").Attribute("partitionkey", *key));
    if (!event.attributes.emplace("partitionkey", *key).second) {
      section.Error("partitionkey", config_code::kDuplicateKey,
                    "attribute `partitionkey` is given twice");
    }
  }
  if (event.source) CheckOverride(section, "source", EventBuilder("1", *event.source, "t"));
  if (event.type) CheckOverride(section, "type", EventBuilder("1", "/s", *event.type));
  if (event.type_prefix) {
    CheckOverride(section, "type_prefix", EventBuilder("1", "/s", *event.type_prefix));
  }
  if (event.subject) {
    CheckOverride(section, "subject",
                  EventBuilder("1", "/s", "t").Attribute("subject", *event.subject));
  }
  if (event.type && event.type_prefix) {
    section.Error("type_prefix", config_code::kConflict, "`type` is given, so this has no effect");
  }
  if (data.present()) {
    event.data.emplace();
    AppendAsJson(reader, data, *event.data);
    JsonValue value;
    const absl::Status status = JsonScanner(*event.data).ReadDocument(value);
    // What stops it here is a name given twice: the text was made by us.
    if (!status.ok() && reader.ok()) {
      section.Error("data", config_code::kBadValue, "`data` has a name twice, or is not UTF-8");
    }
  }
}

void ReadFile(ConfigReader& reader, YamlNode node, FileSpec& file) {
  Section section(reader, node, "sources.*.file");
  section.Text("path", file.path, "the watched directory");
  section.Require("path");
  section.TextList("include", file.include, "globs of the files to take; none is every file");
  section.TextList("exclude", file.exclude, "globs of the files to leave; wins over `include`");
  section.Boolean("recursive", file.recursive, "directories beneath it too");
  section.TimeSpan("settle", file.settle, Duration::zero(), hours(1),
                   "a file unchanged for so long is complete");
  section.TimeSpan("rescan", file.rescan, milliseconds(100), hours(24),
                   "how often the whole directory is read again");
  section.Choice(
      "mode", file.mode,
      {{"auto", WatchMode::kAuto}, {"inotify", WatchMode::kInotify}, {"poll", WatchMode::kPoll}},
      "how changes are noticed; `poll` for network file systems");
  std::vector<std::string> on;
  if (file.on_created) on.emplace_back("created");
  if (file.on_modified) on.emplace_back("modified");
  if (file.on_deleted) on.emplace_back("deleted");
  const bool on_given =
      section.TextList("on", on, "what makes an event: created, modified, deleted");
  if (reader.describing != nullptr) reader.describing->back().default_value = "[created]";
  if (on_given) {
    file.on_created = file.on_modified = file.on_deleted = false;
    for (const std::string& what : on) {
      if (what == "created") {
        file.on_created = true;
      } else if (what == "modified") {
        file.on_modified = true;
      } else if (what == "deleted") {
        file.on_deleted = true;
      } else {
        section.Error("on", config_code::kBadValue,
                      "`on` takes created, modified and deleted" +
                          DidYouMean(what, {"created", "modified", "deleted"}));
      }
    }
    if (on.empty()) section.Error("on", config_code::kBadValue, "`on` is empty: nothing to watch");
  }
  section.Choice(
      "after", file.after,
      {{"keep", AfterFile::kKeep}, {"move", AfterFile::kMove}, {"delete", AfterFile::kDelete}},
      "what to do with a file that every trigger is done with");
  section.Text("move_to", file.move_to, "with `after: move`: the directory, absolute or in `path`");
  section.Integer("files_max", file.files_max, 1, 100'000'000, "files remembered");
  section.Finish();
  if (reader.describing != nullptr) return;
  for (const auto& [name, globs] :
       {std::pair("include", &file.include), std::pair("exclude", &file.exclude)}) {
    for (const std::string& glob : *globs) {
      const absl::Status valid = ValidateGlob(glob);
      if (!valid.ok()) {
        section.Error(name, config_code::kBadValue, std::string(MessageOf(valid)));
        break;
      }
    }
  }
  if (section.Has("path") && file.path.empty()) {
    section.Error("path", config_code::kBadValue, "`path` is empty: name the directory to watch");
  }
  if (file.after == AfterFile::kMove && file.move_to.empty()) {
    section.Error("after", config_code::kMissing, "`after: move` needs `move_to`");
  }
  if (file.after != AfterFile::kMove && !file.move_to.empty()) {
    section.Error("move_to", config_code::kConflict, "`move_to` needs `after: move`");
  }
}

void ReadTimer(ConfigReader& reader, YamlNode node, ScheduleSpec& schedule) {
  Section section(reader, node, "sources.*.timer");
  const bool cron = section.Text("cron", schedule.cron,
                                 "5 fields; 6 with seconds, 7 with the year too; @hourly, "
                                 "`@every 90s`, `@at <time>`, @reboot");
  section.Require("cron");
  section.Text("timezone", schedule.timezone, "IANA name");
  {
    Section missed(reader, section.Map("missed", "instants that passed while the broker was down"),
                   "sources.*.timer.missed");
    missed.Choice(
        "policy", schedule.missed,
        {{"last", MissedPolicy::kLast}, {"all", MissedPolicy::kAll}, {"skip", MissedPolicy::kSkip}},
        "which of them fire");
    missed.TimeSpan("window", schedule.missed_window, Duration::zero(), hours(24 * 3650),
                    "older ones never fire");
    missed.Integer("max", schedule.missed_max, 1, 10'000, "with `all`: at most so many");
    missed.Finish();
  }
  {
    Section dst(reader, section.Map("dst", "when clocks change"), "sources.*.timer.dst");
    dst.Choice("gap", schedule.dst_gap, {{"next", DstGap::kNext}, {"skip", DstGap::kSkip}},
               "a time that does not exist: at the gap's end, or not");
    dst.Choice("overlap", schedule.dst_overlap,
               {{"first", DstOverlap::kFirst}, {"both", DstOverlap::kBoth}},
               "a time that exists twice");
    dst.Finish();
  }
  section.Boolean("paused", schedule.paused, "fires nothing until resumed");
  section.Choice("overlap", schedule.overlap,
                 {{"skip", OverlapPolicy::kSkip},
                  {"queue_one", OverlapPolicy::kQueueOne},
                  {"queue_all", OverlapPolicy::kQueueAll},
                  {"cancel_previous", OverlapPolicy::kCancelPrevious},
                  {"allow", OverlapPolicy::kAllow}},
                 "an instant that comes while an earlier fire is not settled by every trigger");
  section.TimeSpan("spread", schedule.spread, Duration::zero(), hours(24),
                   "every fire is late by a part of it that the source's name decides");
  section.TimeSpan("jitter", schedule.jitter, Duration::zero(), hours(24),
                   "and by a random part of this, never until the next instant");
  section.Finish();
  if (!cron || reader.describing != nullptr) return;
  const absl::StatusOr<std::shared_ptr<const Schedule>> parsed = Schedule::Parse(schedule);
  if (!parsed.ok()) {
    // The time zone is tried alone to say which of the two is wrong.
    ScheduleSpec zone_only = schedule;
    zone_only.cron = "* * * * *";
    const bool zone = section.Has("timezone") && !Schedule::Parse(zone_only).ok();
    section.Error(zone ? "timezone" : "cron", config_code::kBadValue,
                  std::string(MessageOf(parsed.status())));
  }
}

constexpr std::string_view kKinds =
    "`file`, `tail`, `timer`, `kafka`, `redis`, `zeromq` or `postgres`";

// The templates of a queue's `event:` block are tried where their place is known.
void CheckTemplates(ConfigReader& reader, YamlNode event, std::string_view kind,
                    const EventOverrides& overrides, std::vector<std::string_view> names) {
  if (!event.present() || reader.describing != nullptr) return;
  const absl::Status made =
      RecordMapper::Make("source", kind, Envelope::kAuto, overrides, names).status();
  if (!made.ok()) {
    reader.Error(event.location(), config_code::kBadValue, std::string(MessageOf(made)));
  }
}

// One kind of source, if its key is there.
template <typename Spec, typename Read>
void ReadKind(ConfigReader& reader, YamlNode node, const EventOverrides& overrides,
              SourceConfig& source, Read read) {
  if (!node.present() && reader.describing == nullptr) return;
  Spec spec;
  spec.name = source.name;
  spec.event = overrides;
  read(reader, node, spec);
  source.spec = std::move(spec);
}

void ReadSource(ConfigReader& reader, YamlNode node, SourceConfig& source) {
  Section section(reader, node, "sources.*");
  section.Text("was", source.was, "its former name: positions are taken over");
  section.TimeSpan("backoff_max", source.backoff_max, milliseconds(10), hours(1),
                   "between tries to reach what is read, at most; not of timers");
  const YamlNode event = section.Map("event", "replaces default attributes of its events");
  const YamlNode file = section.Map("file", "files of a directory");
  const YamlNode tail = section.Map("tail", "the lines of a file that grows");
  const YamlNode timer = section.Map("timer", "a schedule");
  const YamlNode kafka = section.Map("kafka", "topics of Kafka");
  const YamlNode redis = section.Map("redis", "a stream, list, channels or key events of Redis");
  const YamlNode zeromq = section.Map("zeromq", "a ZeroMQ socket");
  const YamlNode postgres = section.Map("postgres", "changes of rows of PostgreSQL");
  section.Finish();
  EventOverrides overrides;
  ReadEvent(reader, event, overrides);
  const bool describing = reader.describing != nullptr;
  int kinds = 0;
  for (const YamlNode& kind : {file, tail, timer, kafka, redis, zeromq, postgres})
    kinds += kind.present() ? 1 : 0;
  if (kinds > 1) {
    section.Error(timer.present() ? "timer" : "file", config_code::kConflict,
                  fmt::format("a source has one kind: {}", kKinds));
  }
  ReadKind<FileSpec>(reader, file, overrides, source, ReadFile);
  ReadKind<TailSpec>(reader, tail, overrides, source, ReadTail);
  if (timer.present() || describing) {
    TimerSpec spec;
    spec.schedule.name = source.name;
    ReadTimer(reader, timer, spec.schedule);
    spec.event = overrides;
    source.spec = std::move(spec);
  }
  ReadKind<KafkaSpec>(reader, kafka, overrides, source, ReadKafka);
  ReadKind<RedisSpec>(reader, redis, overrides, source, ReadRedis);
  ReadKind<ZeromqSpec>(reader, zeromq, overrides, source, ReadZeromq);
  ReadKind<PostgresSpec>(reader, postgres, overrides, source, ReadPostgres);
  if (tail.present()) CheckTemplates(reader, event, "tail", overrides, TailTemplateNames());
  if (kafka.present()) CheckTemplates(reader, event, "kafka", overrides, KafkaTemplateNames());
  if (redis.present()) CheckTemplates(reader, event, "redis", overrides, RedisTemplateNames());
  if (zeromq.present()) CheckTemplates(reader, event, "zeromq", overrides, ZeromqTemplateNames());
  if (postgres.present()) CheckTemplates(reader, event, "row", overrides, PostgresTemplateNames());
  if (kinds == 0 && !describing) {
    reader.Error(section.location(), config_code::kMissing,
                 fmt::format("source `{}` has no kind: {}", source.name, kKinds));
  }
}

}  // namespace

void ReadSources(ConfigReader& reader, YamlNode node, std::vector<SourceConfig>& sources) {
  if (reader.describing != nullptr) {
    SourceConfig source;
    ReadSource(reader, {}, source);
    return;
  }
  for (const YamlEntry& entry : NamedEntries(reader, node, "source")) {
    SourceConfig source;
    source.name = std::string(entry.key.text());
    source.location = ToConfigLocation(entry.key.location());
    if (entry.value.kind() == YamlKind::kNull) {
      reader.Error(entry.key.location(), config_code::kMissing,
                   fmt::format("source `{}` has no kind: {}", source.name, kKinds));
    } else {
      ReadSource(reader, entry.value, source);
    }
    // A source that was refused is still one by name: its own errors are enough.
    sources.push_back(std::move(source));
  }
}

}  // namespace tocsin

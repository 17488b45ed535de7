#include "broker/cli/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "broker/base/base64.h"
#include "broker/base/event.h"
#include "broker/base/event_json.h"
#include "broker/base/time_text.h"

namespace tocsin::cli {
namespace {

std::string Text(std::uint64_t value) { return std::to_string(value); }

Cell StateCell(const std::string& state) { return {state, TintOfState(state)}; }

// A count that should be zero.
Cell BadCell(std::uint64_t value) {
  return {std::to_string(value), value == 0 ? Tint::kNone : Tint::kRed};
}

// Names on the left, values on the right, one fact a line.
class Facts {
 public:
  Facts(TableLook look, const Table::Sink& sink) : look_(look), sink_(sink) {}

  void Add(std::string_view name, std::string_view value, Tint tint = Tint::kNone) {
    if (value.empty()) return;
    const std::string label = fmt::format("{:<13}", fmt::format("{}:", name));
    sink_(fmt::format("{} {}\n", Paint(look_.colored, Tint::kBold, label),
                      Paint(look_.colored, tint, Clean(value))));
  }

 private:
  TableLook look_;
  const Table::Sink& sink_;
};

// An array of objects as the whole document, streamed.
template <typename List, typename Append>
void WriteArray(const List& list, const Table::Sink& sink, Append append) {
  JsonWriter json;
  json.Array();
  for (const auto& element : list) {
    json.Object();
    append(json, element);
    json.End();
    if (!sink(json.Take())) return;
  }
  json.End();
  sink(json.Take());
}

void TimeField(JsonWriter& json, std::string_view name, std::int64_t microseconds) {
  json.Key(name);
  if (microseconds == 0) {
    json.Null();
  } else {
    json.Value(TimeText(microseconds));
  }
}

// Absent and empty are one thing in the protocol.
void TextOrNull(JsonWriter& json, std::string_view name, const std::string& text) {
  json.Key(name);
  if (text.empty()) {
    json.Null();
  } else {
    json.Value(text);
  }
}

template <typename Strings>
void StringsField(JsonWriter& json, std::string_view name, const Strings& strings) {
  json.Key(name).Array();
  for (const std::string& text : strings) json.Value(text);
  json.End();
}

}  // namespace

void AddOutput(Command& command, OutputFlags& flags, bool with_lines) {
  Option option{"-o,--output", &flags.format,    "FORMAT", "what to print (default text)",
                "Options",     {"json", "text"}, false,    false};
  if (with_lines) option.choices = {"json", "jsonl", "text"};
  command.options.push_back(std::move(option));
}

std::string RefText(const v1::EventRef& ref) {
  return fmt::format("{}/{}", ref.partition(), ref.offset());
}

std::string TimeText(std::int64_t microseconds) {
  if (microseconds == 0) return "-";
  return FormatRfc3339(WallTime(std::chrono::microseconds(microseconds)));
}

std::string EncodedEventToJson(std::string_view bytes) {
  EventView view;
  if (ParseEvent(bytes, view).ok()) return EventToJson(view);
  return fmt::format("{{\"undecoded_base64\":\"{}\"}}", EncodeBase64(bytes));
}

void WriteStatus(const v1::StatusResponse& status, std::int64_t now_us, TableLook look,
                 const Table::Sink& sink) {
  Facts facts(look, sink);
  facts.Add("state", status.state(), TintOfState(status.state()));
  facts.Add("version", status.version());
  facts.Add("config", status.config_path());
  facts.Add("data", fmt::format("{} ({})", status.data_dir(), status.data_dir_id()));
  if (status.started_us() != 0) {
    facts.Add("started", fmt::format("{} ({} ago)", TimeText(status.started_us()),
                                     ShortAge((now_us - status.started_us()) / 1000)));
  }
  facts.Add("workers", Text(status.workers()));
  std::string log = FormatBytes(status.log_bytes());
  if (status.log_bytes_max() > 0) {
    log += fmt::format(" of {} ({:.0f} %)", FormatBytes(status.log_bytes_max()),
                       100.0 * static_cast<double>(status.log_bytes()) /
                           static_cast<double>(status.log_bytes_max()));
  }
  facts.Add("log", log);
  facts.Add("dead letters", FormatBytes(status.letter_bytes()));
  for (const std::string& warning : status.warnings()) {
    facts.Add("warning", warning, Tint::kYellow);
  }
  if (status.partitions().empty()) return;
  sink("\n");
  Table table({{"PARTITION", true},
               {"EPOCH", true},
               {"START", true},
               {"END", true},
               {"LETTERS", true},
               {"UNMATCHED", true},
               {"DUPLICATES", true},
               {"REFUSED", true},
               {"PINNED", true},
               {"PINNED BY"}},
              look, sink);
  for (const v1::PartitionStatus& p : status.partitions()) {
    table.Row({Text(p.partition()), Text(p.epoch()), Text(p.start_offset()), Text(p.durable_end()),
               BadCell(p.open_letters()), Text(p.unmatched()), Text(p.duplicates()),
               BadCell(p.refused()), FormatBytes(p.pinned_bytes()), p.pinned_by()});
  }
  table.Finish();
}

std::string StatusJson(const v1::StatusResponse& status) {
  JsonWriter json;
  json.Object()
      .Field("state", status.state())
      .Field("version", status.version())
      .Field("config_path", status.config_path())
      .Field("data_dir", status.data_dir())
      .Field("data_dir_id", status.data_dir_id());
  TimeField(json, "started", status.started_us());
  json.Field("workers", status.workers())
      .Field("log_bytes", status.log_bytes())
      .Field("log_bytes_max", status.log_bytes_max())
      .Field("letter_bytes", status.letter_bytes());
  StringsField(json, "warnings", status.warnings());
  json.Key("partitions").Array();
  for (const v1::PartitionStatus& p : status.partitions()) {
    json.Object()
        .Field("partition", p.partition())
        .Field("epoch", p.epoch())
        .Field("start_offset", p.start_offset())
        .Field("durable_end", p.durable_end())
        .Field("open_letters", p.open_letters())
        .Field("unmatched", p.unmatched())
        .Field("duplicates", p.duplicates())
        .Field("refused", p.refused())
        .Field("deduped_ids", p.deduped_ids())
        .Field("pinned_bytes", p.pinned_bytes());
    TextOrNull(json, "pinned_by", p.pinned_by());
    json.End();
  }
  json.End().End();
  return json.Take();
}

void WriteTriggers(const v1::ListTriggersResponse& triggers, TableLook look,
                   const Table::Sink& sink) {
  Table table({{"NAME"},
               {"STATE"},
               {"ORIGIN"},
               {"FUNCTION"},
               {"MATCHED", true},
               {"ACKED", true},
               {"DEAD", true},
               {"DROPPED", true},
               {"EXPIRED", true},
               {"PENDING", true},
               {"OLDEST", true},
               {"WORKERS", true},
               {"BLOCKED BY"}},
              look, sink);
  for (const v1::TriggerStatus& t : triggers.triggers()) {
    const bool nobody = t.workers() == 0 && t.pending() > 0;
    const bool reading = table.Row(
        {Cell(t.name(), Tint::kCyan), StateCell(t.state()), t.origin(), t.function(),
         Text(t.matched()), Text(t.acked()), BadCell(t.dead()), Text(t.dropped()),
         Text(t.expired()), Text(t.pending()), ShortAge(t.oldest_age_ms()),
         Cell(Text(t.workers()), nobody ? Tint::kYellow : Tint::kNone), t.blocking_key()});
    if (!reading) return;
  }
  table.Finish();
}

void WriteTriggersJson(const v1::ListTriggersResponse& triggers, const Table::Sink& sink) {
  WriteArray(triggers.triggers(), sink, [](JsonWriter& json, const v1::TriggerStatus& t) {
    json.Field("name", t.name())
        .Field("state", t.state())
        .Field("function", t.function())
        .Field("matched", t.matched())
        .Field("acked", t.acked())
        .Field("dead", t.dead())
        .Field("dropped", t.dropped())
        .Field("expired", t.expired())
        .Field("pending", t.pending())
        .Field("ready", t.ready())
        .Field("leased", t.leased())
        .Field("delayed", t.delayed())
        .Field("parked_keys", t.parked_keys())
        .Key("oldest_age_ms");
    if (t.oldest_age_ms() < 0) {
      json.Null();
    } else {
      json.Value(t.oldest_age_ms());
    }
    TextOrNull(json, "blocking_key", t.blocking_key());
    json.Field("workers", t.workers()).Field("config_hash", t.config_hash());
    TextOrNull(json, "origin", t.origin());
  });
}

void WriteSources(const v1::ListSourcesResponse& sources, TableLook look, const Table::Sink& sink) {
  Table table({{"NAME"},
               {"KIND"},
               {"STATE"},
               {"LANE"},
               {"PARTITION", true},
               {"EVENTS", true},
               {"LAG", true},
               {"SKIPPED", true},
               {"NEXT"},
               {"POSITION"},
               {"LAST ERROR"}},
              look, sink);
  for (const v1::SourceStatus& s : sources.sources()) {
    const bool reading =
        table.Row({Cell(s.name(), Tint::kCyan), s.kind(), StateCell(s.state()), s.lane(),
                   Text(s.partition()), Text(s.events()), s.has_lag() ? Text(s.lag()) : "",
                   Text(s.skipped()), TimeText(s.next_us()), s.position(),
                   Cell(s.last_error(), s.last_error().empty() ? Tint::kNone : Tint::kRed)});
    if (!reading) return;
  }
  table.Finish();
}

void WriteSourcesJson(const v1::ListSourcesResponse& sources, const Table::Sink& sink) {
  WriteArray(sources.sources(), sink, [](JsonWriter& json, const v1::SourceStatus& s) {
    json.Field("name", s.name())
        .Field("kind", s.kind())
        .Field("state", s.state())
        .Field("lane", s.lane())
        .Field("partition", s.partition())
        .Field("events", s.events())
        .Field("skipped", s.skipped())
        .Field("undecodable", s.undecodable());
    json.Key("lag");
    if (s.has_lag()) {
      json.Value(s.lag());
    } else {
      json.Null();
    }
    TimeField(json, "next", s.next_us());
    TextOrNull(json, "position", s.position());
    TextOrNull(json, "last_error", s.last_error());
  });
}

void WriteWorkers(const v1::ListWorkersResponse& workers, TableLook look, const Table::Sink& sink) {
  Table table({{"WORKER"},
               {"INSTANCE"},
               {"PEER"},
               {"STATE"},
               {"CREDIT", true},
               {"IN FLIGHT", true},
               {"ACKED", true},
               {"RETRIED", true},
               {"REJECTED", true},
               {"ATTACHED", true},
               {"HEARD", true},
               {"FUNCTIONS"}},
              look, sink);
  for (const v1::WorkerStatus& w : workers.workers()) {
    const bool reading = table.Row(
        {Cell(w.worker(), Tint::kCyan), w.instance(), w.peer(),
         StateCell(w.draining() ? "draining" : "attached"), Text(w.credit()), Text(w.in_flight()),
         Text(w.acked()), Text(w.retried()), BadCell(w.rejected()), ShortAge(w.attached_ms_ago()),
         ShortAge(w.heard_ms_ago()), fmt::format("{}", fmt::join(w.functions(), ","))});
    if (!reading) return;
  }
  table.Finish();
}

void WriteWorkersJson(const v1::ListWorkersResponse& workers, const Table::Sink& sink) {
  WriteArray(workers.workers(), sink, [](JsonWriter& json, const v1::WorkerStatus& w) {
    json.Field("worker", w.worker())
        .Field("instance", w.instance())
        .Field("version", w.version())
        .Field("session", w.session())
        .Field("peer", w.peer())
        .Field("state", w.draining() ? "draining" : "attached");
    StringsField(json, "functions", w.functions());
    json.Field("credit", w.credit())
        .Field("in_flight", w.in_flight())
        .Field("delivered", w.delivered())
        .Field("acked", w.acked())
        .Field("retried", w.retried())
        .Field("rejected", w.rejected())
        .Field("dropped", w.dropped())
        .Field("stale", w.stale())
        .Field("attached_ms_ago", w.attached_ms_ago())
        .Field("heard_ms_ago", w.heard_ms_ago());
  });
}

Table LetterTable(TableLook look, Table::Sink sink) {
  return Table({{"ID"},
                {"DIED"},
                {"TRIGGER"},
                {"REASON"},
                {"ATTEMPTS", true},
                {"TYPE"},
                {"KEY"},
                {"MESSAGE"}},
               look, std::move(sink));
}

std::vector<Cell> LetterRow(const v1::Letter& letter) {
  return {letter.id(),
          TimeText(letter.died_us()),
          Cell(letter.trigger(), Tint::kCyan),
          StateCell(letter.reason()),
          Text(letter.attempts()),
          letter.event_type(),
          letter.key(),
          letter.message()};
}

void WriteLetter(const v1::Letter& letter, TableLook look, const Table::Sink& sink) {
  Facts facts(look, sink);
  facts.Add("id", letter.id());
  facts.Add("trigger", letter.trigger(), Tint::kCyan);
  facts.Add("reason", letter.reason(), TintOfState(letter.reason()));
  facts.Add("message", letter.message());
  facts.Add("died", TimeText(letter.died_us()));
  facts.Add("key", letter.key());
  facts.Add("parked", letter.parked() ? "yes: the key's later events wait for this letter" : "");
  facts.Add("source", letter.source());
  facts.Add("lane", letter.lane());
  facts.Add("config", letter.config_hash());
  facts.Add("attempts", Text(letter.attempts()));
  if (!letter.history().empty()) {
    sink("\n");
    Table table({{"ATTEMPT", true}, {"AT"}, {"CODE"}, {"WORKER"}, {"MESSAGE"}}, look, sink);
    for (const v1::AttemptRecord& attempt : letter.history()) {
      table.Row({Text(attempt.attempt()), TimeText(attempt.at_us()), attempt.code(),
                 attempt.worker_died() ? Cell("died", Tint::kRed) : Cell("alive"),
                 attempt.message()});
    }
    table.Finish();
  }
  if (!letter.event().empty()) sink(fmt::format("\n{}\n", EncodedEventToJson(letter.event())));
}

void AppendLetter(JsonWriter& json, const v1::Letter& letter) {
  json.Object().Field("id", letter.id());
  TextOrNull(json, "trigger", letter.trigger());
  json.Field("reason", letter.reason()).Field("message", letter.message());
  TimeField(json, "died", letter.died_us());
  json.Field("attempts", letter.attempts());
  TextOrNull(json, "key", letter.key());
  json.Field("parked", letter.parked());
  TextOrNull(json, "source", letter.source());
  TextOrNull(json, "lane", letter.lane());
  TextOrNull(json, "config_hash", letter.config_hash());
  TextOrNull(json, "event_type", letter.event_type());
  TextOrNull(json, "event_source", letter.event_source());
  TextOrNull(json, "event_id", letter.event_id());
  json.Key("history").Array();
  for (const v1::AttemptRecord& attempt : letter.history()) {
    json.Object().Field("attempt", attempt.attempt());
    TimeField(json, "at", attempt.at_us());
    json.Field("code", attempt.code())
        .Field("message", attempt.message())
        .Field("worker_died", attempt.worker_died())
        .End();
  }
  json.End();
  if (!letter.event().empty()) json.Key("event").Raw(EncodedEventToJson(letter.event()));
  json.End();
}

std::string TailLine(const v1::TailEvent& event, TableLook look) {
  EventView view;
  const bool parsed = ParseEvent(event.event(), view).ok();
  const std::string key(parsed ? view.PartitionKey() : std::string_view());
  const std::string subject(parsed ? view.Text("subject") : std::string_view());
  auto or_dash = [](std::string_view text) { return text.empty() ? "-" : Clean(text); };
  return fmt::format(
      "{}  {}  {}  {}  {}  {}  {}  {}\n",
      Paint(look.colored, Tint::kDim, TimeText(event.recorded_us())),
      Paint(look.colored, Tint::kBold, RefText(event.ref())),
      Paint(look.colored, Tint::kCyan, or_dash(view.type)), or_dash(view.source), or_dash(view.id),
      or_dash(subject), or_dash(key),
      Paint(look.colored, event.triggers().empty() ? Tint::kYellow : Tint::kGreen,
            event.triggers().empty() ? "unmatched"
                                     : Clean(fmt::format("{}", fmt::join(event.triggers(), ",")))));
}

void AppendTailEvent(JsonWriter& json, const v1::TailEvent& event) {
  json.Object().Field("partition", event.ref().partition()).Field("offset", event.ref().offset());
  TimeField(json, "recorded", event.recorded_us());
  StringsField(json, "triggers", event.triggers());
  json.Key("event").Raw(EncodedEventToJson(event.event())).End();
}

}  // namespace tocsin::cli

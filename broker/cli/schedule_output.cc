// Schedules, functions and runs as text and JSON.

#include "broker/cli/schedule_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "broker/base/time_text.h"

namespace tocsin::cli {
namespace {

std::string Span(std::int64_t us) { return FormatDuration(std::chrono::microseconds(us)); }

std::string When(const v1::Schedule& schedule) {
  return schedule.when_case() == v1::Schedule::kAtUs ? TimeText(schedule.at_us()) : schedule.cron();
}

}  // namespace

std::vector<Column> ScheduleColumns() {
  return {{"NAME"},     {"KIND"}, {"STATE"},       {"WHEN"},
          {"TIMEZONE"}, {"NEXT"}, {"FIRED", true}, {"SKIPPED", true}};
}

std::vector<Cell> ScheduleRow(const v1::ScheduleStatus& status) {
  const v1::Schedule& schedule = status.schedule();
  const Tint tint = status.state() == "paused" ? Tint::kYellow : Tint::kNone;
  return {Cell(schedule.name(), Tint::kCyan),
          status.kind(),
          Cell(status.state(), tint),
          When(schedule),
          schedule.timezone(),
          TimeText(status.next_us()),
          std::to_string(status.fired()),
          std::to_string(status.skipped())};
}

void AppendSchedule(JsonWriter& json, const v1::ScheduleStatus& status) {
  const v1::Schedule& schedule = status.schedule();
  const auto time = [&json](std::string_view name, std::int64_t us) {
    json.Key(name);
    if (us == 0) {
      json.Null();
    } else {
      json.Value(TimeText(us));
    }
  };
  json.Object()
      .Field("name", schedule.name())
      .Field("kind", status.kind())
      .Field("state", status.state())
      .Field("partition", status.partition())
      .Field("fired", status.fired())
      .Field("skipped", status.skipped());
  time("next", status.next_us());
  if (schedule.when_case() == v1::Schedule::kAtUs) {
    time("at", schedule.at_us());
  } else {
    json.Field("cron", schedule.cron())
        .Field("timezone", schedule.timezone())
        .Field("missed", schedule.missed())
        .Field("missed_window", Span(schedule.missed_window_us()))
        .Field("missed_max", schedule.missed_max())
        .Field("overlap", schedule.overlap())
        .Field("spread", Span(schedule.spread_us()))
        .Field("jitter", Span(schedule.jitter_us()))
        .Field("dst_gap", schedule.dst_gap())
        .Field("dst_overlap", schedule.dst_overlap());
  }
  json.Key("event");
  if (!status.event().empty()) {
    json.Raw(EncodedEventToJson(status.event())).End();
    return;
  }
  json.Object().Field("source", schedule.source()).Field("type", schedule.type());
  if (!schedule.subject().empty()) json.Field("subject", schedule.subject());
  const std::map<std::string, std::string> attributes(schedule.attributes().begin(),
                                                      schedule.attributes().end());
  for (const auto& [name, value] : attributes) json.Field(name, value);
  if (!schedule.datacontenttype().empty()) {
    json.Field("datacontenttype", schedule.datacontenttype());
  }
  if (schedule.data_case() == v1::Schedule::kTextData) json.Field("data", schedule.text_data());
  if (schedule.data_case() == v1::Schedule::kBinaryData) {
    json.Field("data_bytes", schedule.binary_data().size());
  }
  json.End().End();
}

std::string ScheduleText(const v1::ScheduleStatus& status) {
  const v1::Schedule& s = status.schedule();
  std::string text;
  const auto line = [&text](std::string_view name, const std::string& value) {
    if (!value.empty()) text += fmt::format("{:<12} {}\n", name, Clean(value));
  };
  line("name", s.name());
  line("kind", status.kind());
  line("state", status.state());
  line("when", When(s));
  line("timezone", s.timezone());
  line("next", TimeText(status.next_us()));
  line("fired", std::to_string(status.fired()));
  line("skipped", std::to_string(status.skipped()));
  if (!s.cron().empty()) {
    line("missed", fmt::format("{}, window {}, max {}", s.missed(), Span(s.missed_window_us()),
                               s.missed_max()));
    line("overlap", s.overlap());
    line("spread", Span(s.spread_us()));
    line("jitter", Span(s.jitter_us()));
    line("dst", fmt::format("gap {}, overlap {}", s.dst_gap(), s.dst_overlap()));
  }
  line("source", s.source());
  line("type", s.type());
  line("subject", s.subject());
  for (const auto& [name, value] :
       std::map<std::string, std::string>(s.attributes().begin(), s.attributes().end())) {
    line(name, value);
  }
  line("data", s.text_data());
  if (!status.event().empty()) line("event", EncodedEventToJson(status.event()));
  line("partition", std::to_string(status.partition()));
  return text;
}

std::vector<Column> RunColumns() {
  return {{"RUN"}, {"STARTED"}, {"SECONDS", true}, {"ENDED"}, {"ANSWER"}, {"TRIGGER"}, {"EVENT"}};
}

std::vector<Cell> RunRow(const v1::RunStatus& run) {
  const Tint tint = run.answer() == "ack" ? Tint::kNone : Tint::kRed;
  return {Cell(run.id(), Tint::kCyan),
          run.started(),
          fmt::format("{:.3f}", run.seconds()),
          Cell(run.ended(), tint),
          run.answer(),
          run.trigger(),
          run.event()};
}

void AppendRun(JsonWriter& json, const v1::RunStatus& run, bool with_output) {
  json.Object()
      .Field("id", run.id())
      .Field("function", run.function())
      .Field("trigger", run.trigger())
      .Field("delivery", run.delivery())
      .Field("attempt", run.attempt())
      .Field("event", run.event())
      .Field("started", run.started())
      .Field("seconds", run.seconds())
      .Field("ended", run.ended())
      .Field("answer", run.answer())
      .Field("message", run.message())
      .Field("output_bytes", run.output_bytes())
      .Field("cpu_seconds", run.cpu_seconds())
      .Field("peak_memory_bytes", run.peak_memory_bytes());
  if (with_output) json.Field("output", run.output());
  json.End();
}

}  // namespace tocsin::cli

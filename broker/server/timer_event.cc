#include "broker/server/timer_event.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "broker/base/event.h"
#include "broker/base/time_text.h"

namespace tocsin {
namespace {

void PutTime(EventBuilder& builder, std::string_view name, WallTime time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  const auto nanos = std::chrono::nanoseconds(time - seconds).count();
  builder.Timestamp(name, seconds.time_since_epoch().count(), static_cast<std::int32_t>(nanos));
}

}  // namespace

std::string MakeTimerEvent(const TimerSpec& spec, WallTime nominal, WallTime actual) {
  const EventOverrides& event = spec.event;
  const std::string& name = spec.schedule.name;
  EventBuilder builder(
      fmt::format("{}/{}", name, FormatRfc3339(nominal)),
      event.source.value_or(fmt::format("/sources/{}", name)),
      event.type.value_or(fmt::format("{}.timer.fired", event.type_prefix.value_or("dev.tocsin"))));
  PutTime(builder, "time", nominal);
  PutTime(builder, "recordedtime", actual);
  if (event.subject) builder.Attribute("subject", *event.subject);
  for (const auto& [key, value] : event.attributes) builder.Attribute(key, value);
  if (event.data) {
    builder.Attribute("datacontenttype", "application/json");
    builder.TextData(*event.data);
  }
  return std::move(builder).Encode();
}

}  // namespace tocsin

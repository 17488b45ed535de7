#include "broker/server/publish_frames.h"

#include <fmt/format.h>

#include "broker/base/status.h"
#include "broker/base/wire.h"

namespace tocsin {
namespace {

constexpr std::size_t kErrorBytesMax = 512;

void PutPlace(std::string& out, std::uint32_t field, const EventPlace& place) {
  std::string message;
  PutField(message, 1, std::uint64_t{place.partition.value()});
  PutField(message, 2, place.offset.value());
  PutField(out, field, std::string_view(message));
}

void PutException(std::string& out, const PublishException& exception) {
  std::string message;
  PutField(message, 1, std::uint64_t{exception.index});
  if (exception.duplicate) PutField(message, 2, std::uint64_t{1});
  if (exception.first) PutPlace(message, 3, *exception.first);
  if (!exception.refusal.ok()) {
    PutField(message, 4, static_cast<std::uint64_t>(exception.refusal.code()));
    std::string_view text = MessageOf(exception.refusal).substr(0, kErrorBytesMax);
    while (!text.empty() && text.size() == kErrorBytesMax &&
           (static_cast<unsigned char>(text.back()) & 0x80u) != 0) {
      text.remove_suffix(1);
    }
    PutField(message, 5, text);
  }
  if (exception.retry_after_ms > 0) {
    PutField(message, 6, std::uint64_t{exception.retry_after_ms});
  }
  if (exception.delayed) PutField(message, 7, std::uint64_t{1});
  PutField(out, 4, std::string_view(message));
}

}  // namespace

absl::Status DecodePublishRequest(std::string_view bytes, std::size_t events_max,
                                  PublishFrame& frame) {
  frame = PublishFrame();
  WireReader reader(bytes);
  const auto malformed = [&reader] {
    return absl::InvalidArgumentError(
        fmt::format("not a PublishRequest: malformed near byte {}", reader.position()));
  };
  while (!reader.AtEnd()) {
    std::uint32_t field = 0;
    WireType type{};
    if (!reader.ReadTag(field, type)) return malformed();
    if (field == 2 && type == WireType::kBytes) {
      std::string_view event;
      if (!reader.ReadBytes(event)) return malformed();
      if (frame.events.size() == events_max) {
        return absl::ResourceExhaustedError(
            fmt::format("more than {} events in one request", events_max));
      }
      frame.events.push_back(event);
      continue;
    }
    if ((field == 1 || field == 3) && type == WireType::kVarint) {
      std::uint64_t value = 0;
      if (!reader.ReadVarint(value)) return malformed();
      if (field == 1) frame.sequence = value;
      if (field == 3) frame.from_refused = value != 0;
      continue;
    }
    if (field >= 1 && field <= 3) return malformed();
    if (!reader.Skip(type)) return malformed();
  }
  return absl::OkStatus();
}

std::string EncodePublishResponse(const PublishAnswer& answer) {
  std::string out;
  PutField(out, 1, answer.sequence);
  PutField(out, 2, std::uint64_t{answer.accepted});
  PutField(out, 3, std::uint64_t{answer.durable ? 2u : 1u});
  for (const PublishException& exception : answer.exceptions) PutException(out, exception);
  // A refused event has an empty ref, so that refs stay parallel to the events.
  for (const std::optional<EventPlace>& place : answer.places) {
    if (place) {
      PutPlace(out, 5, *place);
    } else {
      PutField(out, 5, std::string_view());
    }
  }
  return out;
}

}  // namespace tocsin

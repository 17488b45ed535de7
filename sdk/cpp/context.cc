// Context: a handler's view of its attempt.

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "sdk/cpp/engine.h"

namespace tocsin::sdk::internal {

void GrantLease(Running& running, TimePoint from, std::int64_t lease_ms) {
  running.lease_ms = lease_ms;
  running.lease_expires_ns =
      (from.time_since_epoch() + std::chrono::milliseconds(lease_ms)).count();
}

}  // namespace tocsin::sdk::internal

namespace tocsin::sdk {

using internal::Running;

namespace {

// The event with the cause's id as `causationid` and its trace, where it has none of its own.
Event WithCause(const Event& event, const Event& cause) {
  Event caused = event;
  if (!cause.id().empty() && !event.Attribute("causationid")) {
    caused.SetAttribute("causationid", cause.id());
  }
  for (const char* name : {"traceparent", "tracestate"}) {
    const std::optional<std::string> carried = cause.Attribute(name);
    if (carried && !event.Attribute(name)) {
      caused.SetAttribute(name, std::string_view(*carried));
    }
  }
  return caused;
}

}  // namespace

Context::Context(internal::Engine* engine, Running* running) : engine_(engine), running_(running) {}

std::uint32_t Context::attempt() const { return running_->delivery.attempt; }
std::uint32_t Context::partition() const { return running_->delivery.partition; }
std::uint64_t Context::offset() const { return running_->delivery.offset; }
const std::string& Context::trigger() const { return *running_->delivery.trigger_name; }
const std::string& Context::function() const { return *running_->function; }
std::int64_t Context::recorded_us() const { return running_->delivery.recorded_us; }

std::chrono::milliseconds Context::lease() const {
  return std::chrono::milliseconds(running_->lease_ms);
}

std::chrono::steady_clock::time_point Context::lease_expires() const {
  return internal::TimePoint(std::chrono::nanoseconds(running_->lease_expires_ns));
}

std::string Context::delivery_id() const {
  const internal::Delivery& delivery = running_->delivery;
  return fmt::format("{}/{}/{}/{}", delivery.partition, delivery.offset, delivery.trigger,
                     delivery.run);
}

bool Context::Cancelled() const { return running_->cancelled; }

void Context::OnCancel(std::function<void()> callback) {
  engine_->OnCancel(*running_, std::move(callback));
}

void Context::Extend(std::chrono::milliseconds by) {
  const std::int64_t lease_ms = by.count() > 0 ? by.count() : running_->delivery.lease_ms;
  internal::GrantLease(*running_, std::chrono::steady_clock::now(), lease_ms);
  ::tocsin::v1::Answer answer;
  answer.set_handle(running_->delivery.handle);
  answer.set_token(running_->delivery.token);
  answer.mutable_extend()->set_by_ms(
      static_cast<std::uint64_t>(std::max<std::int64_t>(by.count(), 0)));
  engine_->SendAnswer(*running_, std::move(answer));
}

void Context::Progress(std::string message) {
  ::tocsin::v1::Answer answer;
  answer.set_handle(running_->delivery.handle);
  answer.set_token(running_->delivery.token);
  answer.mutable_progress()->set_message(internal::CleanText(message));
  engine_->SendAnswer(*running_, std::move(answer));
}

absl::Status Context::Emit(const Event& event) {
  if (!event.Valid()) {
    return absl::InvalidArgumentError("an emitted event needs id, source and type");
  }
  std::string encoded = WithCause(event, Event::Borrow(running_->delivery.event)).Encoded();
  const std::lock_guard lock(running_->emitted_mutex);
  if (running_->emitted.size() >= kEmittedMax ||
      running_->emitted_bytes + encoded.size() > kEmittedBytesMax) {
    return absl::ResourceExhaustedError(
        fmt::format("at most {} events and {} bytes can be emitted with one answer", kEmittedMax,
                    kEmittedBytesMax));
  }
  running_->emitted_bytes += encoded.size();
  running_->emitted.push_back(std::move(encoded));
  return absl::OkStatus();
}

}  // namespace tocsin::sdk

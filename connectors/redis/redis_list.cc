#include "connectors/redis/redis_list.h"

#include <fmt/format.h>
#include <hiredis/hiredis.h>
#include <poll.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <utility>

#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr std::string_view kPrefix = "list ";
constexpr Duration kIdleMin = std::chrono::milliseconds(5);
constexpr Duration kIdleMax = std::chrono::milliseconds(100);

// Keys: list, processing, owner. Arguments: token, elements at most, bytes at most, the end to take
// from. Gives what is left and what was moved.
constexpr std::string_view kTake = R"(
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return redis.error_reply('FENCED somebody else took over')
end
local out = {}
local bytes = 0
for i = 1, tonumber(ARGV[2]) do
  local value = redis.call('LMOVE', KEYS[1], KEYS[2], ARGV[4], 'LEFT')
  if not value then break end
  out[i] = value
  bytes = bytes + #value
  if bytes >= tonumber(ARGV[3]) then break end
end
return {redis.call('LLEN', KEYS[1]), out}
)";

// Keys: processing, counter, owner. Arguments: token, how many leave, what is counted then.
constexpr std::string_view kRelease = R"(
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return redis.error_reply('FENCED somebody else took over')
end
redis.call('LTRIM', KEYS[1], 0, -tonumber(ARGV[2]) - 1)
redis.call('SET', KEYS[2], ARGV[3])
return 1
)";

std::optional<std::uint64_t> NumberOfPosition(std::string_view text) {
  if (!text.starts_with(kPrefix)) return std::nullopt;
  text.remove_prefix(kPrefix.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace

RedisList::RedisList(const RedisSpec& spec, RedisRecords records, Ports ports)
    : BlockingConnector(std::move(ports)),
      spec_(spec),
      records_(std::move(records)),
      processing_(spec.processing.empty() ? fmt::format("{}:{}", spec.key, spec.name)
                                          : spec.processing),
      counter_(processing_ + ":done"),
      owner_key_(processing_ + ":owner") {}

absl::Status RedisList::ConnectNow(const LaneState& restored) {
  fetched_.clear();
  std::uint64_t durable = 0;
  if (!restored.position.value.empty()) {
    const auto number = NumberOfPosition(restored.position.value);
    if (!number) {
      return absl::FailedPreconditionError(fmt::format(
          "the stored position ('{}') is of another kind of source; `tocsin sources forget {}` "
          "begins anew",
          restored.position.value.substr(0, 64), spec_.name));
    }
    durable = *number;
  }
  TOCSIN_ASSIGN_OR_RETURN(link_, RedisLink::Open(spec_, clock()));
  // First: from here on nothing of an earlier connection happens any more.
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply token, link_->Call({"INCR", owner_key_}));
  token_ = std::to_string(NumberOf(token.get()).value_or(0));
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply counter, link_->Call({"GET", counter_}));
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply length, link_->Call({"LLEN", processing_}));
  // Asked now, so that a key of another type is told before anything is moved.
  TOCSIN_RETURN_IF_ERROR(link_->Call({"LLEN", spec_.key}).status());
  const auto done = NumberOf(counter.get());
  released_ = done ? static_cast<std::uint64_t>(*done) : durable;
  if (!done && durable > 0) {
    Report([this](LaneReport& report) {
      report.note = fmt::format("{} has no {}: what waits in {} is taken again", spec_.Endpoint(),
                                counter_, processing_);
    });
  }
  // Before anything is moved: without a counter nobody could tell whether what waits is durable.
  if (!done) TOCSIN_RETURN_IF_ERROR(Release(released_));
  left_over_ = static_cast<std::uint64_t>(NumberOf(length.get()).value_or(0));
  if (durable > released_) {
    const std::uint64_t known = std::min(durable - released_, left_over_);
    TOCSIN_RETURN_IF_ERROR(Release(durable));
    left_over_ -= known;
  }
  taken_ = std::max(durable, released_);
  return absl::OkStatus();
}

absl::Status RedisList::Release(std::uint64_t number) {
  TOCSIN_RETURN_IF_ERROR(
      link_
          ->Call({"EVAL", kRelease, "3", processing_, counter_, owner_key_, token_,
                  std::to_string(number - released_), std::to_string(number)})
          .status());
  released_ = number;
  return absl::OkStatus();
}

// The oldest is at the right end.
absl::Status RedisList::FetchLeftOver() {
  const auto behind = static_cast<std::int64_t>(taken_ - released_);
  const auto some = static_cast<std::int64_t>(std::min<std::uint64_t>(left_over_, count_));
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply reply,
                          link_->Call({"LRANGE", processing_, std::to_string(-behind - some),
                                       std::to_string(-behind - 1)}));
  const auto elements = ElementsOf(reply.get());
  if (elements.empty()) left_over_ = 0;
  left_over_ -= std::min<std::uint64_t>(left_over_, elements.size());
  for (auto it = elements.rbegin(); it != elements.rend(); ++it) {
    fetched_.emplace_back(TextOf(*it));
  }
  return absl::OkStatus();
}

absl::Status RedisList::FetchNew() {
  TOCSIN_ASSIGN_OR_RETURN(
      const RedisReply reply,
      link_->Call({"EVAL", kTake, "3", spec_.key, processing_, owner_key_, token_,
                   std::to_string(kBatchEventsMax), std::to_string(kBatchBytesMax),
                   spec_.take_left ? "LEFT" : "RIGHT"}));
  const auto parts = ElementsOf(reply.get());
  if (parts.size() != 2) return absl::UnavailableError("the server's answer makes no sense");
  for (const redisReply* element : ElementsOf(parts[1])) fetched_.emplace_back(TextOf(element));
  Report([&](LaneReport& report) {
    report.lag = static_cast<std::uint64_t>(NumberOf(parts[0]).value_or(0));
  });
  return absl::OkStatus();
}

absl::StatusOr<SourceBatch> RedisList::PollNow(Instant until) {
  Duration idle = kIdleMin;
  while (!cancelled()) {
    if (fetched_.empty() && left_over_ > 0) TOCSIN_RETURN_IF_ERROR(FetchLeftOver());
    if (fetched_.empty()) TOCSIN_RETURN_IF_ERROR(FetchNew());
    SourceBatch batch;
    std::size_t bytes = 0;
    const std::uint64_t before = taken_;
    while (!fetched_.empty() && taken_ - before < kBatchEventsMax && bytes < kBatchBytesMax) {
      bytes += records_.AddElement(++taken_, fetched_.front(), batch);
      fetched_.pop_front();
    }
    batch.position.value = fmt::format("{}{}", kPrefix, taken_);
    const std::size_t got = taken_ - before;
    if (got > 0) {
      const std::size_t each = std::max<std::size_t>(1, bytes / got);
      // An idle list is asked for few.
      count_ =
          std::clamp<std::size_t>(std::min(kBatchBytesMax / each, got * 4), 16, kBatchEventsMax);
      Report([&](LaneReport& report) { report.position = std::to_string(taken_); });
      return batch;
    }
    const Instant now = clock().Monotonic();
    if (now >= until) return batch;
    pollfd waited{wake_fd(), POLLIN, 0};
    if (::poll(&waited, 1, MillisecondsUntil(std::min(until, now + idle))) > 0) Woken();
    idle = std::min(idle * 2, kIdleMax);
  }
  return absl::CancelledError("cancelled");
}

absl::Status RedisList::CommitNow(const SourcePosition& position) {
  const auto number = NumberOfPosition(position.value);
  if (!number || *number <= released_ || *number > taken_ || link_ == nullptr) {
    return absl::OkStatus();
  }
  return Release(*number);
}

}  // namespace tocsin

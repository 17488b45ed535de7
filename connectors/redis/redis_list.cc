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
      counter_(processing_ + ":done") {}

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
  const std::string last = std::to_string(-static_cast<std::int64_t>(number - released_) - 1);
  const std::string counted = std::to_string(number);
  link_->Send({"MULTI"});
  link_->Send({"GET", counter_});
  link_->Send({"LTRIM", processing_, "0", last});
  link_->Send({"SET", counter_, counted});
  link_->Send({"EXEC"});
  for (int i = 0; i < 4; ++i) {
    TOCSIN_ASSIGN_OR_RETURN(const RedisReply queued, link_->Receive());
    TOCSIN_RETURN_IF_ERROR(StatusOf(queued.get(), spec_, "LTRIM"));
  }
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply answer, link_->Receive());
  TOCSIN_RETURN_IF_ERROR(StatusOf(answer.get(), spec_, "EXEC"));
  for (const redisReply* one : ElementsOf(answer.get())) {
    TOCSIN_RETURN_IF_ERROR(StatusOf(one, spec_, "LTRIM"));
  }
  const auto elements = ElementsOf(answer.get());
  const auto before = elements.empty() ? std::nullopt : NumberOf(elements[0]);
  const std::uint64_t expected = std::exchange(released_, number);
  if (before && static_cast<std::uint64_t>(*before) != expected) {
    return absl::FailedPreconditionError(
        fmt::format("{}: somebody else takes from {} too; give each source its own `processing`",
                    spec_.Endpoint(), processing_));
  }
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
  const char* from = spec_.take_left ? "LEFT" : "RIGHT";
  for (std::size_t i = 0; i < count_; ++i) {
    link_->Send({"LMOVE", spec_.key, processing_, from, "LEFT"});
  }
  link_->Send({"LLEN", spec_.key});
  absl::Status failed;
  for (std::size_t i = 0; i < count_; ++i) {
    TOCSIN_ASSIGN_OR_RETURN(const RedisReply reply, link_->Receive());
    if (failed.ok()) failed = StatusOf(reply.get(), spec_, "LMOVE");
    if (reply->type == REDIS_REPLY_STRING) fetched_.emplace_back(TextOf(reply.get()));
  }
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply length, link_->Receive());
  const auto lag = NumberOf(length.get());
  if (lag) {
    Report([&](LaneReport& report) { report.lag = static_cast<std::uint64_t>(*lag); });
  }
  return failed;
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
    count_ = 16;
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

#include "connectors/redis/redis_channels.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <hiredis/hiredis.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr Duration kQuietMax = std::chrono::seconds(15);

}  // namespace

RedisChannels::RedisChannels(const RedisSpec& spec, RedisRecords records, Ports ports)
    : BlockingConnector(std::move(ports)),
      spec_(spec),
      records_(std::move(records)),
      key_prefix_(fmt::format("__keyevent@{}__:", spec.database)) {}

// Without its setting the server is mute, which would look like a quiet day.
absl::Status RedisChannels::CheckNotifications() {
  link_->Send({"CONFIG", "GET", "notify-keyspace-events"});
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply reply, link_->Receive());
  const auto pair = ElementsOf(reply.get());
  if (pair.size() != 2) return absl::OkStatus();  // not ours to ask, or a proxy
  const std::string_view flags = TextOf(pair[1]);
  const auto has = [flags](char flag) { return flags.find(flag) != std::string_view::npos; };
  bool enough = has('E');
  for (const std::string& event : spec_.keyevents) {
    if (event == "expired") enough = enough && (has('x') || has('A'));
    if (event == "evicted") enough = enough && (has('e') || has('A'));
    if (event == "del" || event == "expire") enough = enough && (has('g') || has('A'));
    if (event == "set") enough = enough && (has('$') || has('A'));
  }
  // `E` alone names no class of events.
  enough = enough && flags.find_first_not_of("EK") != std::string_view::npos;
  if (enough) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{} does not send these notifications (notify-keyspace-events is '{}'); say `CONFIG SET "
      "notify-keyspace-events EA`, or `Ex` for `expired` alone, and write it into redis.conf",
      spec_.Endpoint(), flags));
}

absl::Status RedisChannels::Subscribe(const std::vector<std::string>& channels,
                                      const std::vector<std::string>& patterns) {
  early_.clear();
  for (const std::string& name : channels) link_->Send({"SUBSCRIBE", name});
  for (const std::string& name : patterns) link_->Send({"PSUBSCRIBE", name});
  std::size_t answers = 0;
  while (answers < channels.size() + patterns.size()) {
    TOCSIN_ASSIGN_OR_RETURN(RedisReply reply, link_->Receive());
    TOCSIN_RETURN_IF_ERROR(StatusOf(reply.get(), spec_, "SUBSCRIBE"));
    const auto parts = ElementsOf(reply.get());
    if (!parts.empty() && TextOf(parts[0]).ends_with("subscribe")) {
      ++answers;
    } else {
      early_.push_back(std::move(reply));
    }
  }
  return absl::OkStatus();
}

absl::Status RedisChannels::ConnectNow(const LaneState&) {
  TOCSIN_ASSIGN_OR_RETURN(link_, RedisLink::Open(spec_, clock()));
  std::vector<std::string> channels = spec_.channels;
  std::vector<std::string> patterns = spec_.patterns;
  if (spec_.take == RedisTake::kKeyevents) {
    TOCSIN_RETURN_IF_ERROR(CheckNotifications());
    for (const std::string& event : spec_.keyevents) {
      (event.find('*') == std::string::npos ? channels : patterns).push_back(key_prefix_ + event);
    }
  }
  TOCSIN_RETURN_IF_ERROR(Subscribe(channels, patterns));
  const auto now = clock().Wall().time_since_epoch().count();
  life_ = fmt::format("{:x}", now);
  count_ = 0;
  heard_ = clock().Monotonic();
  asked_ = false;
  if (subscribed_before_) {
    Report([this](LaneReport& report) {
      ++report.skipped;
      report.note = fmt::format("connected to {} again: what was published meanwhile is lost",
                                spec_.Endpoint());
    });
  }
  subscribed_before_ = true;
  return absl::OkStatus();
}

std::size_t RedisChannels::Add(const redisReply* reply, SourceBatch& batch) {
  const auto parts = ElementsOf(reply);
  const std::string_view kind = parts.empty() ? std::string_view() : TextOf(parts[0]);
  std::string_view channel, payload;
  if (kind == "message" && parts.size() == 3) {
    channel = TextOf(parts[1]);
    payload = TextOf(parts[2]);
  } else if (kind == "pmessage" && parts.size() == 4) {
    channel = TextOf(parts[2]);
    payload = TextOf(parts[3]);
  } else {
    return 0;  // an answer to PING
  }
  const std::string id = fmt::format("{}-{}", life_, ++count_);
  if (spec_.take == RedisTake::kChannels) {
    return records_.AddMessage(id, channel, payload, clock().Wall(), batch);
  }
  if (!spec_.keys.empty() && ::fnmatch(spec_.keys.c_str(), std::string(payload).c_str(), 0) != 0) {
    return 0;
  }
  channel.remove_prefix(std::min(channel.size(), key_prefix_.size()));
  return records_.AddKeyevent(id, channel, payload, clock().Wall(), batch);
}

absl::StatusOr<SourceBatch> RedisChannels::PollNow(Instant until) {
  SourceBatch batch;
  std::size_t bytes = 0;
  while (!cancelled()) {
    const Instant now = clock().Monotonic();
    const Instant quiet_end = heard_ + kQuietMax;
    if (now >= quiet_end && !asked_) {
      link_->Send({"PING"});
      asked_ = true;
    }
    if (asked_ && now >= quiet_end + spec_.timeout) {
      return absl::UnavailableError(fmt::format("{}: no answer in time", spec_.Endpoint()));
    }
    // Something is there already: only what else is, at once.
    Instant end = batch.empty() ? until : now;
    end = std::min(end, asked_ ? quiet_end + spec_.timeout : std::max(now, quiet_end));
    RedisReply reply;
    if (!early_.empty()) {
      reply = std::move(early_.front());
      early_.pop_front();
    } else {
      TOCSIN_ASSIGN_OR_RETURN(reply, link_->Await(end, wake_fd(), [this] {
        Woken();
        return !cancelled();
      }));
    }
    if (reply != nullptr) {
      heard_ = clock().Monotonic();
      asked_ = false;
      bytes += Add(reply.get(), batch);
      if (batch.events.size() + batch.undecodable.size() < kBatchEventsMax &&
          bytes < kBatchBytesMax) {
        continue;
      }
    }
    if (cancelled()) break;
    batch.position.value = fmt::format("live {}-{}", life_, count_);
    if (!batch.empty() || clock().Monotonic() >= until) return batch;
  }
  return absl::CancelledError("cancelled");
}

}  // namespace tocsin

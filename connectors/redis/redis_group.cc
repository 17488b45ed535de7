#include "connectors/redis/redis_group.h"

#include <fmt/format.h>
#include <hiredis/hiredis.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_split.h"
#include "broker/base/status.h"
#include "connectors/redis/redis_stream.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;

constexpr Duration kLookEvery = std::chrono::seconds(2);

// The last entry that a position names, also one of before there was a group; empty: it names none.
std::string LastOf(const std::string& position) {
  if (const auto alone = DecodeStreamPosition(position)) return alone->last;
  const std::vector<std::string> words = absl::StrSplit(position, ' ');
  return words.size() == 3 && words[0] == "group" && words[2] != "-" ? words[2] : "";
}

}  // namespace

RedisGroup::RedisGroup(const RedisSpec& spec, RedisRecords records, Ports ports)
    : BlockingConnector(std::move(ports)), spec_(spec), records_(std::move(records)) {}

// Made anew it would begin at `start` and lose or repeat what came meanwhile.
absl::Status RedisGroup::FindGroup(const std::string& position) {
  control_->Send({"XINFO", "GROUPS", spec_.key});
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply groups, control_->Receive());
  absl::Status status = StatusOf(groups.get(), spec_, "XINFO GROUPS");
  if (!status.ok() && !absl::IsNotFound(status)) return status;
  for (const redisReply* group : ElementsOf(groups.get())) {
    if (TextOf(FieldOf(group, "name")) == spec_.group) return absl::OkStatus();
  }
  const std::string last = LastOf(position);
  return absl::FailedPreconditionError(fmt::format(
      "group `{}` of stream `{}` at {} is not there{}`tocsin sources forget {}` begins anew",
      spec_.group, spec_.key, spec_.Endpoint(),
      last.empty()
          ? "; "
          : fmt::format("; it had been read up to {}: make it with `XGROUP CREATE {} {} {} "
                        "MKSTREAM`, or ",
                        last, spec_.key, spec_.group, last),
      spec_.name));
}

absl::Status RedisGroup::ConnectNow(const LaneState& restored) {
  fetched_.reset();
  next_ = fetched_count_ = 0;
  waiting_ = false;
  given_.clear();
  held_.clear();
  own_ = true;
  own_after_ = claim_after_id_ = "0-0";
  next_claim_ = next_look_ = clock().Monotonic();
  TOCSIN_ASSIGN_OR_RETURN(link_, RedisLink::Open(spec_, clock()));
  TOCSIN_ASSIGN_OR_RETURN(control_, RedisLink::Open(spec_, clock()));
  if (!restored.position.value.empty()) return FindGroup(restored.position.value);
  control_->Send(
      {"XGROUP", "CREATE", spec_.key, spec_.group, spec_.from_end ? "$" : "0", "MKSTREAM"});
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply made, control_->Receive());
  if (made->type == REDIS_REPLY_ERROR &&
      std::string_view(made->str, made->len).starts_with("BUSYGROUP")) {
    return absl::OkStatus();
  }
  return StatusOf(made.get(), spec_, "XGROUP CREATE");
}

void RedisGroup::Take(RedisReply reply, const redisReply* entries) {
  entries_ = entries;
  next_ = 0;
  fetched_count_ = ElementsOf(entries).size();
  fetched_ = std::move(reply);
}

absl::Status RedisGroup::ReadOwn() {
  link_->Send({"XREADGROUP", "GROUP", spec_.group, spec_.member, "COUNT", std::to_string(count_),
               "STREAMS", spec_.key, own_after_});
  TOCSIN_ASSIGN_OR_RETURN(RedisReply reply, link_->Receive());
  TOCSIN_RETURN_IF_ERROR(StatusOf(reply.get(), spec_, "XREADGROUP"));
  const auto streams = ElementsOf(reply.get());
  const redisReply* entries = streams.empty() ? nullptr : ElementsOf(streams[0])[1];
  const auto all = ElementsOf(entries);
  own_ = !all.empty();
  if (own_) {
    own_after_ = std::string(TextOf(ElementsOf(all.back())[0]));
    Take(std::move(reply), entries);
  }
  return absl::OkStatus();
}

// Its loss is an answer to a commit, which ends no connection: whoever needs it next makes it anew.
absl::Status RedisGroup::EnsureControl() {
  if (control_ != nullptr) return absl::OkStatus();
  TOCSIN_ASSIGN_OR_RETURN(control_, RedisLink::Open(spec_, clock()));
  return absl::OkStatus();
}

absl::Status RedisGroup::Claim() {
  TOCSIN_RETURN_IF_ERROR(EnsureControl());
  const auto idle = std::chrono::duration_cast<milliseconds>(spec_.claim_after).count();
  TOCSIN_ASSIGN_OR_RETURN(
      RedisReply reply,
      control_->Call({"XAUTOCLAIM", spec_.key, spec_.group, spec_.member, std::to_string(idle),
                      claim_after_id_, "COUNT", std::to_string(count_)}));
  const auto parts = ElementsOf(reply.get());
  if (parts.size() < 2) return absl::UnavailableError("XAUTOCLAIM gave no entries");
  claim_after_id_ = std::string(TextOf(parts[0]));
  if (parts.size() > 2) deleted_ += ElementsOf(parts[2]).size();
  if (claim_after_id_ == "0-0") next_claim_ = clock().Monotonic() + spec_.claim_after / 2;
  const redisReply* entries = parts[1];
  Take(std::move(reply), entries);
  return absl::OkStatus();
}

absl::Status RedisGroup::ReadNew(Instant until) {
  const Instant now = clock().Monotonic();
  if (!waiting_) {
    const std::string count = std::to_string(count_);
    const Instant end = std::min({until, next_claim_, next_look_});
    const auto left = std::max<std::int64_t>(1, std::chrono::ceil<milliseconds>(end - now).count());
    const std::string block = std::to_string(left);
    link_->Send({"XREADGROUP", "GROUP", spec_.group, spec_.member, "COUNT", count, "BLOCK", block,
                 "STREAMS", spec_.key, ">"});
    waiting_ = true;
  }
  TOCSIN_ASSIGN_OR_RETURN(RedisReply reply, link_->Await(until + spec_.timeout, wake_fd(), [this] {
    Woken();
    return !cancelled();
  }));
  if (cancelled()) return absl::CancelledError("cancelled");
  if (reply == nullptr) {
    return absl::UnavailableError(fmt::format("{}: no answer in time", spec_.Endpoint()));
  }
  waiting_ = false;
  TOCSIN_RETURN_IF_ERROR(StatusOf(reply.get(), spec_, "XREADGROUP"));
  const auto streams = ElementsOf(reply.get());
  if (!streams.empty()) {
    const redisReply* entries = ElementsOf(streams[0])[1];
    Take(std::move(reply), entries);
  }
  return absl::OkStatus();
}

absl::StatusOr<SourceBatch> RedisGroup::TakeBatch() {
  SourceBatch batch;
  std::size_t bytes = 0;
  Given given;
  std::vector<std::string> gone;
  const auto entries = ElementsOf(entries_);
  while (next_ < fetched_count_ && given.ids.size() < kBatchEventsMax && bytes < kBatchBytesMax) {
    const auto entry = ElementsOf(entries[next_]);
    ++next_;
    if (entry.size() != 2) continue;
    std::string id(TextOf(entry[0]));
    if (held_.contains(id)) continue;  // claimed from ourselves: it is on its way
    if (entry[1]->type != REDIS_REPLY_ARRAY) {
      gone.push_back(std::move(id));  // deleted while it was pending
      continue;
    }
    bytes += records_.AddEntry(id, entry[1], batch);
    held_.insert(id);
    given.ids.push_back(std::move(id));
  }
  if (!gone.empty()) {
    deleted_ += gone.size();
    TOCSIN_RETURN_IF_ERROR(Acknowledge(gone));
  }
  Report([this](LaneReport& report) { report.skipped = deleted_; });
  if (given.ids.empty()) return batch;
  const std::size_t each = std::max<std::size_t>(1, bytes / given.ids.size());
  count_ = std::clamp<std::size_t>(kBatchBytesMax / each, 1, kBatchEventsMax);
  batch.position.value = fmt::format("group {} {}", ++batches_, given.ids.back());
  given.position = batch.position.value;
  Report([&](LaneReport& report) { report.position = given.ids.back(); });
  given_.push_back(std::move(given));
  return batch;
}

absl::StatusOr<SourceBatch> RedisGroup::PollNow(Instant until) {
  while (!cancelled()) {
    if (next_ < fetched_count_) {
      TOCSIN_ASSIGN_OR_RETURN(SourceBatch batch, TakeBatch());
      if (!batch.empty()) return batch;
      continue;
    }
    const Instant now = clock().Monotonic();
    if (own_) {
      TOCSIN_RETURN_IF_ERROR(ReadOwn());
      continue;
    }
    if (!waiting_ && now >= next_claim_) {
      TOCSIN_RETURN_IF_ERROR(Claim());
      continue;
    }
    if (now >= next_look_) LookAtLag();
    if (now >= until && !waiting_) {
      SourceBatch nothing;
      nothing.position.value = fmt::format("group {} -", batches_);
      return nothing;
    }
    TOCSIN_RETURN_IF_ERROR(ReadNew(until));
  }
  return absl::CancelledError("cancelled");
}

absl::Status RedisGroup::Acknowledge(const std::vector<std::string>& ids) {
  TOCSIN_RETURN_IF_ERROR(EnsureControl());
  std::vector<std::string_view> words = {"XACK", spec_.key, spec_.group};
  words.insert(words.end(), ids.begin(), ids.end());
  control_->Send(words);
  const absl::StatusOr<RedisReply> reply = control_->Receive();
  if (!reply.ok()) {
    control_.reset();
    return reply.status();
  }
  return StatusOf(reply->get(), spec_, "XACK");
}

absl::Status RedisGroup::CommitNow(const SourcePosition& position) {
  const bool known = std::any_of(given_.begin(), given_.end(), [&position](const Given& given) {
    return given.position == position.value;
  });
  if (!known) return absl::OkStatus();  // of before the connection: they are read again
  while (!given_.empty()) {
    const Given& given = given_.front();
    TOCSIN_RETURN_IF_ERROR(Acknowledge(given.ids));
    const bool last = given.position == position.value;
    for (const std::string& id : given.ids) held_.erase(id);
    given_.pop_front();
    if (last) break;
  }
  return absl::OkStatus();
}

// A courtesy: what fails here fails again where it matters.
void RedisGroup::LookAtLag() {
  next_look_ = clock().Monotonic() + kLookEvery;
  if (control_ == nullptr) return;
  const absl::StatusOr<RedisReply> groups = control_->Call({"XINFO", "GROUPS", spec_.key});
  if (!groups.ok()) return;
  for (const redisReply* group : ElementsOf(groups->get())) {
    if (TextOf(FieldOf(group, "name")) != spec_.group) continue;
    const auto lag = NumberOf(FieldOf(group, "lag"));
    Report([&](LaneReport& report) {
      report.lag = lag ? std::optional(static_cast<std::uint64_t>(*lag)) : std::nullopt;
    });
  }
}

}  // namespace tocsin

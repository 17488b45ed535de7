#include "connectors/redis/redis_stream.h"

#include <fmt/format.h>
#include <hiredis/hiredis.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;

std::pair<std::uint64_t, std::uint64_t> ParseId(std::string_view id) {
  std::uint64_t ms = 0, sequence = 0;
  const char* end = id.data() + id.size();
  const auto [dash, error] = std::from_chars(id.data(), end, ms);
  if (error == std::errc() && dash != end && *dash == '-') {
    (void)std::from_chars(dash + 1, end, sequence);
  }
  return {ms, sequence};
}

std::string Text(const redisReply* reply) { return std::string(TextOf(reply)); }

}  // namespace

int CompareEntryIds(std::string_view a, std::string_view b) {
  const auto left = ParseId(a);
  const auto right = ParseId(b);
  return left < right ? -1 : right < left ? 1 : 0;
}

std::string EncodeStreamPosition(const StreamPosition& position) {
  return fmt::format("stream {} {} {}", position.last, position.read,
                     position.first.empty() ? "-" : position.first);
}

std::optional<StreamPosition> DecodeStreamPosition(std::string_view text) {
  const std::vector<std::string> words = absl::StrSplit(std::string(text), ' ');
  if (words.size() != 4 || words[0] != "stream") return std::nullopt;
  StreamPosition out;
  out.last = words[1];
  const char* end = words[2].data() + words[2].size();
  const auto [at, error] = std::from_chars(words[2].data(), end, out.read);
  if (error != std::errc() || at != end) return std::nullopt;
  if (words[3] != "-") out.first = words[3];
  return out;
}

StreamFacts FactsOf(const redisReply* info) {
  StreamFacts facts;
  facts.length = static_cast<std::uint64_t>(NumberOf(FieldOf(info, "length")).value_or(0));
  const auto first = ElementsOf(FieldOf(info, "first-entry"));
  if (!first.empty()) facts.first = Text(first[0]);
  facts.last_generated = Text(FieldOf(info, "last-generated-id"));
  facts.last_deleted = Text(FieldOf(info, "max-deleted-entry-id"));
  const auto added = NumberOf(FieldOf(info, "entries-added"));
  if (added) facts.added = static_cast<std::uint64_t>(*added);
  return facts;
}

StreamVerdict JudgeStream(const StreamFacts& facts, const StreamPosition& position) {
  using Kind = StreamVerdict::Kind;
  if (CompareEntryIds(facts.last_generated, position.last) < 0) return {Kind::kAnother, 0};
  if (facts.added && *facts.added < position.read) return {Kind::kAnother, 0};
  if (facts.last_generated == position.last) return {Kind::kGoesOn, 0};
  // While what was read last, or something before it, is there, nothing behind it was trimmed.
  if (!facts.first.empty() && CompareEntryIds(facts.first, position.last) <= 0) {
    return {Kind::kGoesOn, 0};
  }
  if (!facts.added) {
    // Old servers do not count. Nothing was read yet: what was trimmed before is nobody's loss.
    return position.last == "0-0" ? StreamVerdict{Kind::kGoesOn, 0}
                                  : StreamVerdict{Kind::kMaybeGap, 0};
  }
  const std::uint64_t coming = *facts.added - position.read;
  if (coming < facts.length) return {Kind::kAnother, 0};
  if (coming == facts.length) return {Kind::kGoesOn, 0};
  // What was deleted one by one is a decision of somebody, no gap; how much of it, is not known.
  if (CompareEntryIds(facts.last_deleted, position.last) > 0) return {Kind::kGoesOn, 0};
  return {Kind::kGap, coming - facts.length};
}

RedisStream::RedisStream(const RedisSpec& spec, RedisRecords records, Ports ports)
    : BlockingConnector(std::move(ports)), spec_(spec), records_(std::move(records)) {}

absl::Status RedisStream::ConnectNow(const LaneState& restored) {
  fetched_.reset();
  next_ = fetched_count_ = 0;
  waiting_ = announce_ = asked_ = false;
  position_ = StreamPosition();
  begun_ = !restored.position.value.empty();
  if (begun_) {
    const auto decoded = DecodeStreamPosition(restored.position.value);
    if (!decoded) {
      return absl::FailedPreconditionError(fmt::format(
          "the stored position ('{}') is of another kind of source; `tocsin sources forget {}` "
          "begins anew",
          restored.position.value.substr(0, 64), spec_.name));
    }
    position_ = *decoded;
  }
  TOCSIN_ASSIGN_OR_RETURN(link_, RedisLink::Open(spec_, clock()));
  link_->Send({"XINFO", "STREAM", spec_.key});
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply info, link_->Receive());
  const absl::Status status = StatusOf(info.get(), spec_, "XINFO STREAM");
  if (absl::IsNotFound(status)) {
    if (!begun_) return absl::OkStatus();  // it will be made by whoever adds first
    return absl::NotFoundError(fmt::format(
        "stream `{}` at {} is gone; it had been read up to {}. If it was deleted on purpose, "
        "`tocsin sources forget {}` begins anew",
        spec_.key, spec_.Endpoint(), position_.last, spec_.name));
  }
  TOCSIN_RETURN_IF_ERROR(status);
  const StreamFacts facts = FactsOf(info.get());
  if (begun_) return Judge(facts);
  position_.first = facts.first;
  if (facts.added) position_.read = *facts.added - std::min(*facts.added, facts.length);
  if (spec_.from_end) {
    position_.last = facts.last_generated;
    if (facts.added) position_.read = *facts.added;
    // Else what comes before the first event is durable could be passed over by a restart.
    announce_ = true;
  }
  return absl::OkStatus();
}

absl::Status RedisStream::Judge(const StreamFacts& facts) {
  const StreamVerdict verdict = JudgeStream(facts, position_);
  const auto told = [&](std::string what) {
    return fmt::format("stream `{}` at {}: {}", spec_.key, spec_.Endpoint(), what);
  };
  switch (verdict.kind) {
    case StreamVerdict::Kind::kGoesOn:
      // Entries deleted one by one make the count drift: at the end both are known.
      if (facts.added && facts.last_generated == position_.last) position_.read = *facts.added;
      return absl::OkStatus();
    case StreamVerdict::Kind::kAnother:
      return absl::FailedPreconditionError(told(fmt::format(
          "it is not the one that was read up to {}: it ends at {}{}. It was made anew, or "
          "restored from an older copy; `tocsin sources forget {}` begins anew",
          position_.last, facts.last_generated,
          facts.added
              ? fmt::format(" after {} entries, {} had been read", *facts.added, position_.read)
              : "",
          spec_.name)));
    case StreamVerdict::Kind::kGap:
    case StreamVerdict::Kind::kMaybeGap:
      break;
  }
  const bool certain = verdict.kind == StreamVerdict::Kind::kGap;
  const std::string what = told(
      certain ? fmt::format("{} entries after {} were trimmed before they were read; the first "
                            "that is there is {}",
                            verdict.lost, position_.last, facts.first)
              : fmt::format("entries after {} may have been trimmed before they were read; the "
                            "first that is there is {}",
                            position_.last, facts.first));
  if (!spec_.pass_gaps) {
    return absl::FailedPreconditionError(
        what + "; say `on_gap: continue` to go on behind them, and trim less");
  }
  lost_ += verdict.lost;
  if (facts.added) position_.read = *facts.added - facts.length;
  Report([&](LaneReport& report) {
    report.skipped = lost_;
    report.note = what;
  });
  return absl::OkStatus();
}

// Looks and reads at one moment.
void RedisStream::Ask(std::string_view after) {
  asked_count_ = count_;
  const std::string count = std::to_string(asked_count_);
  link_->Send({"MULTI"});
  link_->Send({"XINFO", "STREAM", spec_.key});
  link_->Send({"XREAD", "COUNT", count, "STREAMS", spec_.key, after});
  link_->Send({"EXEC"});
}

absl::Status RedisStream::Fetch() {
  fetched_.reset();
  next_ = fetched_count_ = 0;
  if (!std::exchange(asked_, false)) Ask(position_.last);
  for (int i = 0; i < 3; ++i) {
    TOCSIN_ASSIGN_OR_RETURN(const RedisReply queued, link_->Receive());
    TOCSIN_RETURN_IF_ERROR(StatusOf(queued.get(), spec_, "reading a stream"));
  }
  TOCSIN_ASSIGN_OR_RETURN(RedisReply answer, link_->Receive());
  TOCSIN_RETURN_IF_ERROR(StatusOf(answer.get(), spec_, "EXEC"));
  const auto both = ElementsOf(answer.get());
  if (both.size() != 2) return absl::UnavailableError("the transaction was not done");
  const absl::Status seen = StatusOf(both[0], spec_, "XINFO STREAM");
  if (absl::IsNotFound(seen)) {
    if (!begun_) return absl::OkStatus();
    return absl::NotFoundError(
        fmt::format("stream `{}` at {} was deleted; it had been read up to "
                    "{}",
                    spec_.key, spec_.Endpoint(), position_.last));
  }
  TOCSIN_RETURN_IF_ERROR(seen);
  TOCSIN_RETURN_IF_ERROR(StatusOf(both[1], spec_, "XREAD"));
  const StreamFacts facts = FactsOf(both[0]);
  if (begun_) {
    TOCSIN_RETURN_IF_ERROR(Judge(facts));
  } else {
    position_.first = facts.first;
    if (facts.added && position_.last == "0-0") position_.read = *facts.added - facts.length;
  }
  const auto streams = ElementsOf(both[1]);
  if (!streams.empty()) {
    entries_ = ElementsOf(streams[0])[1];
    fetched_count_ = ElementsOf(entries_).size();
    fetched_ = std::move(answer);
  }
  // There is more: the server reads on while these become events.
  if (fetched_count_ > 0 && fetched_count_ == asked_count_) {
    const auto last = ElementsOf(ElementsOf(entries_)[fetched_count_ - 1]);
    if (last.size() == 2) {
      Ask(TextOf(last[0]));
      asked_ = true;
      TOCSIN_RETURN_IF_ERROR(link_->Flush());
    }
  }
  if (facts.added) {
    Report([&](LaneReport& report) {
      report.lag = *facts.added - std::min(*facts.added, position_.read);
    });
  }
  return absl::OkStatus();
}

SourceBatch RedisStream::TakeBatch() {
  SourceBatch batch;
  std::size_t bytes = 0;
  std::size_t taken = 0;
  const auto entries = ElementsOf(entries_);
  while (next_ < fetched_count_ && taken < kBatchEventsMax && bytes < kBatchBytesMax) {
    const auto entry = ElementsOf(entries[next_]);
    ++next_;
    if (entry.size() != 2) continue;
    const std::string_view id = TextOf(entry[0]);
    bytes += records_.AddEntry(id, entry[1], batch);
    position_.last = std::string(id);
    ++position_.read;
    ++taken;
  }
  begun_ = true;
  // The next fetch is about as large as a batch.
  if (taken > 0) {
    const std::size_t each = std::max<std::size_t>(1, bytes / taken);
    count_ = std::clamp<std::size_t>(kBatchBytesMax / each, 1, kBatchEventsMax);
  }
  batch.position.value = EncodeStreamPosition(position_);
  Report([&](LaneReport& report) {
    report.position = position_.last;
    if (report.lag) *report.lag -= std::min<std::uint64_t>(*report.lag, taken);
  });
  return batch;
}

// A reader that blocks only learns that there is something: it is fetched by Fetch().
absl::Status RedisStream::WaitForEntry(Instant until) {
  if (!waiting_) {
    const auto left = std::max<std::int64_t>(
        1, std::chrono::ceil<milliseconds>(until - clock().Monotonic()).count());
    link_->Send({"XREAD", "COUNT", "1", "BLOCK", std::to_string(left), "STREAMS", spec_.key,
                 position_.last});
    waiting_ = true;
  }
  // The server ends it at about `until`; a server that does not is gone.
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply reply,
                          link_->Await(until + spec_.timeout, wake_fd(), [this] {
                            Woken();
                            return !cancelled();
                          }));
  if (cancelled()) return absl::CancelledError("cancelled");
  if (reply == nullptr) {
    return absl::UnavailableError(fmt::format("{}: no answer in time", spec_.Endpoint()));
  }
  waiting_ = false;
  return StatusOf(reply.get(), spec_, "XREAD");
}

absl::StatusOr<SourceBatch> RedisStream::PollNow(Instant until) {
  if (announce_) {
    announce_ = false;
    begun_ = true;
    SourceBatch batch;
    batch.position.value = EncodeStreamPosition(position_);
    batch.puts.push_back({"begun", position_.last});
    return batch;
  }
  while (!cancelled()) {
    if (!HasFetched()) TOCSIN_RETURN_IF_ERROR(Fetch());
    if (HasFetched()) return TakeBatch();
    if (clock().Monotonic() >= until) {
      SourceBatch nothing;
      nothing.position.value = EncodeStreamPosition(position_);
      return nothing;
    }
    TOCSIN_RETURN_IF_ERROR(WaitForEntry(until));
  }
  return absl::CancelledError("cancelled");
}

}  // namespace tocsin

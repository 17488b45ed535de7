#include "broker/partition/records.h"

#include <fmt/format.h>

#include "broker/base/wire.h"

namespace tocsin {
namespace {

constexpr std::uint8_t kEventNewRun = 1;
constexpr std::uint8_t kEventHops = 2;
constexpr std::uint8_t kEventDeduped = 4;
constexpr std::uint8_t kEventLane = 8;
constexpr std::uint8_t kEventTracked = 16;
constexpr std::uint8_t kEventSchedule = 32;
constexpr std::uint8_t kEventRedriven = 64;

absl::Status Malformed(const char* what) {
  return absl::DataLossError(fmt::format("malformed {} record", what));
}

// Reads fields one after the other and remembers whether all were there.
class Fields {
 public:
  explicit Fields(std::string_view body) : body_(body), reader_(body) {}

  std::uint64_t U64() {
    std::uint64_t value = 0;
    ok_ = ok_ && reader_.ReadVarint(value);
    return ok_ ? value : 0;
  }
  std::uint32_t U32() {
    const std::uint64_t value = U64();
    ok_ = ok_ && value <= 0xffffffffu;
    return static_cast<std::uint32_t>(value);
  }
  std::int64_t Time() { return static_cast<std::int64_t>(U64()); }
  std::string_view Text() {
    std::string_view value;
    ok_ = ok_ && reader_.ReadBytes(value);
    return ok_ ? value : std::string_view();
  }
  bool Flag() { return U64() != 0; }
  std::string_view Rest() { return ok_ ? body_.substr(reader_.position()) : std::string_view(); }
  // For a count of things of at least one byte each.
  std::uint64_t Count() {
    const std::uint64_t count = U64();
    ok_ = ok_ && count <= reader_.remaining();
    return ok_ ? count : 0;
  }
  bool ok() const { return ok_; }

 private:
  std::string_view body_;
  WireReader reader_;
  bool ok_ = true;
};

void PutTime(std::string& out, std::int64_t time_us) {
  PutVarint(out, static_cast<std::uint64_t>(time_us));
}

}  // namespace

void EncodeEventPrefix(const EventRecord& record, std::string& out) {
  std::uint8_t flags = 0;
  if (record.new_run) flags |= kEventNewRun;
  if (record.hops > 0) flags |= kEventHops;
  if (record.deduped) flags |= kEventDeduped;
  if (record.has_lane) flags |= kEventLane;
  if (record.tracked) flags |= kEventTracked;
  if (record.from_schedule) flags |= kEventSchedule;
  if (record.redriven) flags |= kEventRedriven;
  out.push_back(static_cast<char>(flags));
  PutVarint(out, record.matches.size());
  for (const Match& match : record.matches) {
    PutVarint(out, match.trigger.value());
    PutVarint(out, match.index);
  }
  if (record.new_run) {
    PutVarint(out, record.origin.value());
    PutVarint(out, record.run);
  }
  if (record.hops > 0) PutVarint(out, record.hops);
  if (record.has_lane) {
    PutBytes(out, record.lane_source);
    PutBytes(out, record.lane_key);
  }
}

absl::Status DecodeEvent(std::string_view body, EventRecord& record) {
  if (body.empty()) return Malformed("Event");
  const auto flags = static_cast<std::uint8_t>(body[0]);
  Fields fields(body.substr(1));
  record.matches.clear();
  const std::uint64_t count = fields.Count();
  for (std::uint64_t i = 0; i < count && fields.ok(); ++i) {
    Match match;
    match.trigger = TriggerOrdinal(fields.U32());
    match.index = fields.U64();
    record.matches.push_back(match);
  }
  record.new_run = (flags & kEventNewRun) != 0;
  record.origin = record.new_run ? Offset(fields.U64()) : Offset();
  record.run = record.new_run ? fields.U32() : 0;
  record.hops = (flags & kEventHops) != 0 ? fields.U32() : 0;
  record.deduped = (flags & kEventDeduped) != 0;
  record.has_lane = (flags & kEventLane) != 0;
  record.tracked = (flags & kEventTracked) != 0;
  record.from_schedule = (flags & kEventSchedule) != 0;
  record.redriven = (flags & kEventRedriven) != 0;
  record.lane_source = record.has_lane ? fields.Text() : std::string_view();
  record.lane_key = record.has_lane ? fields.Text() : std::string_view();
  record.event = fields.Rest();
  return fields.ok() ? absl::OkStatus() : Malformed("Event");
}

std::uint32_t HopsOf(std::string_view body) {
  if (body.empty() || (static_cast<std::uint8_t>(body[0]) & kEventHops) == 0) return 0;
  EventRecord record;
  return DecodeEvent(body, record).ok() ? record.hops : 0;
}

void EncodeRanges(TriggerOrdinal trigger, const std::vector<IndexRange>& ranges,
                  std::string_view reason, std::string& out) {
  PutVarint(out, trigger.value());
  PutBytes(out, reason);
  PutVarint(out, ranges.size());
  std::uint64_t previous = 0;
  for (const IndexRange& range : ranges) {
    PutVarint(out, range.first - previous);
    PutVarint(out, range.last - range.first);
    previous = range.last;
  }
}

absl::Status DecodeRanges(std::string_view body, RangesRecord& record) {
  Fields fields(body);
  record.trigger = TriggerOrdinal(fields.U32());
  record.reason = fields.Text();
  const std::uint64_t count = fields.Count();
  record.ranges.clear();
  std::uint64_t previous = 0;
  for (std::uint64_t i = 0; i < count && fields.ok(); ++i) {
    IndexRange range;
    range.first = previous + fields.U64();
    range.last = range.first + fields.U64();
    previous = range.last;
    record.ranges.push_back(range);
  }
  return fields.ok() ? absl::OkStatus() : Malformed("Settled");
}

void EncodeDead(const DeadRecord& record, std::string& out) {
  PutVarint(out, record.trigger.value());
  PutVarint(out, record.index);
  PutVarint(out, record.offset.value());
  PutVarint(out, record.origin.value());
  PutVarint(out, record.run);
  PutVarint(out, static_cast<std::uint64_t>(record.reason));
  PutVarint(out, record.parked ? 1 : 0);
  PutBytes(out, record.key);
}

absl::Status DecodeDead(std::string_view body, DeadRecord& record) {
  Fields fields(body);
  record.trigger = TriggerOrdinal(fields.U32());
  record.index = fields.U64();
  record.offset = Offset(fields.U64());
  record.origin = Offset(fields.U64());
  record.run = fields.U32();
  record.reason = static_cast<LetterReason>(fields.U32() & 0xff);
  record.parked = fields.Flag();
  record.key = fields.Text();
  return fields.ok() ? absl::OkStatus() : Malformed("Settled(dead)");
}

void EncodeAttemptFailed(const AttemptFailedRecord& record, std::string& out) {
  PutVarint(out, record.trigger.value());
  PutVarint(out, record.index);
  PutVarint(out, record.offset.value());
  PutVarint(out, record.attempt);
  PutTime(out, record.at_us);
  PutTime(out, record.due_us);
  PutVarint(out, record.worker_died ? 1 : 0);
  PutBytes(out, record.code);
  PutBytes(out, record.message);
}

absl::Status DecodeAttemptFailed(std::string_view body, AttemptFailedRecord& record) {
  Fields fields(body);
  record.trigger = TriggerOrdinal(fields.U32());
  record.index = fields.U64();
  record.offset = Offset(fields.U64());
  record.attempt = fields.U32();
  record.at_us = fields.Time();
  record.due_us = fields.Time();
  record.worker_died = fields.Flag();
  record.code = fields.Text();
  record.message = fields.Text();
  return fields.ok() ? absl::OkStatus() : Malformed("AttemptFailed");
}

void EncodeDeadClosed(const DeadClosedRecord& record, std::string& out) {
  PutVarint(out, record.trigger.value());
  PutVarint(out, record.origin.value());
  PutVarint(out, record.run);
  PutVarint(out, static_cast<std::uint64_t>(record.how));
  PutVarint(out, record.redriven_as.value());
  PutVarint(out, record.index);
}

absl::Status DecodeDeadClosed(std::string_view body, DeadClosedRecord& record) {
  Fields fields(body);
  record.trigger = TriggerOrdinal(fields.U32());
  record.origin = Offset(fields.U64());
  record.run = fields.U32();
  record.how = static_cast<LetterClosedAs>(fields.U32() & 0xff);
  record.redriven_as = Offset(fields.U64());
  record.index = fields.U64();
  return fields.ok() ? absl::OkStatus() : Malformed("DeadClosed");
}

void EncodeLaneState(const LaneStateRecord& record, std::string& out) {
  PutBytes(out, record.source);
  PutBytes(out, record.key);
  PutBytes(out, record.position);
  PutVarint(out, record.events);
  PutVarint(out, record.puts.size());
  for (const auto& [key, value] : record.puts) {
    PutBytes(out, key);
    PutBytes(out, value);
  }
  PutVarint(out, record.erases.size());
  for (const std::string_view key : record.erases) PutBytes(out, key);
}

absl::Status DecodeLaneState(std::string_view body, LaneStateRecord& record) {
  Fields fields(body);
  record.source = fields.Text();
  record.key = fields.Text();
  record.position = fields.Text();
  record.events = fields.U64();
  record.puts.clear();
  record.erases.clear();
  const std::uint64_t puts = fields.Count();
  for (std::uint64_t i = 0; i < puts && fields.ok(); ++i) {
    const std::string_view key = fields.Text();
    record.puts.emplace_back(key, fields.Text());
  }
  const std::uint64_t erases = fields.Count();
  for (std::uint64_t i = 0; i < erases && fields.ok(); ++i) record.erases.push_back(fields.Text());
  return fields.ok() ? absl::OkStatus() : Malformed("LaneState");
}

void EncodeTriggerDefined(const TriggerDefinedRecord& record, std::string& out) {
  PutVarint(out, record.trigger.value());
  PutVarint(out, record.generation);
  PutVarint(out, record.paused ? 1 : 0);
  PutBytes(out, record.name);
  PutBytes(out, record.config_hash);
  PutBytes(out, record.config_json);
}

absl::Status DecodeTriggerDefined(std::string_view body, TriggerDefinedRecord& record) {
  Fields fields(body);
  record.trigger = TriggerOrdinal(fields.U32());
  record.generation = fields.U64();
  record.paused = fields.Flag();
  record.name = fields.Text();
  record.config_hash = fields.Text();
  record.config_json = fields.Text();
  return fields.ok() ? absl::OkStatus() : Malformed("TriggerDefined");
}

void EncodeTriggerDetached(const TriggerDetachedRecord& record, std::string& out) {
  PutVarint(out, record.trigger.value());
  PutTime(out, record.at_us);
  PutVarint(out, record.forgotten ? 1 : 0);
}

absl::Status DecodeTriggerDetached(std::string_view body, TriggerDetachedRecord& record) {
  Fields fields(body);
  record.trigger = TriggerOrdinal(fields.U32());
  record.at_us = fields.Time();
  record.forgotten = fields.Flag();
  return fields.ok() ? absl::OkStatus() : Malformed("TriggerDetached");
}

void EncodeSchedule(const ScheduleRecord& record, std::string& out) {
  PutBytes(out, record.name);
  PutBytes(out, record.state);
  PutTime(out, record.first_us);
  PutTime(out, record.last_us);
  PutVarint(out, record.count);
  PutVarint(out, record.reason);
  PutVarint(out, record.offset.value());
}

absl::Status DecodeSchedule(std::string_view body, ScheduleRecord& record) {
  Fields fields(body);
  record.name = fields.Text();
  record.state = fields.Text();
  record.first_us = fields.Time();
  record.last_us = fields.Time();
  record.count = fields.U64();
  record.reason = static_cast<std::uint8_t>(fields.U32());
  record.offset = Offset(fields.U64());
  return fields.ok() ? absl::OkStatus() : Malformed("Schedule");
}

void EncodeDynamicSet(const DynamicSetRecord& record, std::string& out) {
  out.push_back(static_cast<char>(record.what));
  PutBytes(out, record.name);
  switch (record.what) {
    case DynamicChange::kDefined:
      PutTime(out, record.at_us);
      PutTime(out, record.decided_us);
      PutVarint(out, (record.paused ? 1u : 0u) | (record.text_data ? 2u : 0u));
      PutBytes(out, record.rule);
      PutBytes(out, record.head);
      out.append(record.data);
      break;
    case DynamicChange::kState:
    case DynamicChange::kResumed:
      PutTime(out, record.decided_us);
      PutBytes(out, record.state);
      break;
    case DynamicChange::kRemoved:
    case DynamicChange::kPaused:
      break;
  }
}

absl::Status DecodeDynamicSet(std::string_view body, DynamicSetRecord& record) {
  if (body.empty() || static_cast<std::uint8_t>(body[0]) > 4) return Malformed("DynamicSet");
  record.what = static_cast<DynamicChange>(body[0]);
  Fields fields(body.substr(1));
  record.name = fields.Text();
  switch (record.what) {
    case DynamicChange::kDefined: {
      record.at_us = fields.Time();
      record.decided_us = fields.Time();
      const std::uint64_t flags = fields.U64();
      record.paused = (flags & 1) != 0;
      record.text_data = (flags & 2) != 0;
      record.rule = fields.Text();
      record.head = fields.Text();
      record.data = fields.Rest();
      break;
    }
    case DynamicChange::kState:
    case DynamicChange::kResumed:
      record.decided_us = fields.Time();
      record.state = fields.Text();
      break;
    case DynamicChange::kRemoved:
    case DynamicChange::kPaused:
      break;
  }
  return fields.ok() ? absl::OkStatus() : Malformed("DynamicSet");
}

void EncodeDynamicFired(const DynamicFiredRecord& record, std::string& out) {
  PutBytes(out, record.name);
  PutTime(out, record.instant_us);
  PutVarint(out, record.offset.value());
  PutVarint(out, (record.once ? 1u : 0u) | (record.backfill ? 2u : 0u));
  if (record.backfill) PutTime(out, record.first_us);
  if (record.once) return;
  PutTime(out, record.decided_us);
  PutBytes(out, record.state);
}

absl::Status DecodeDynamicFired(std::string_view body, DynamicFiredRecord& record) {
  Fields fields(body);
  record.name = fields.Text();
  record.instant_us = fields.Time();
  record.offset = Offset(fields.U64());
  const std::uint64_t flags = fields.U64();
  record.once = (flags & 1) != 0;
  record.backfill = (flags & 2) != 0;
  record.first_us = record.backfill ? fields.Time() : 0;
  record.decided_us = record.once ? 0 : fields.Time();
  record.state = record.once ? std::string_view() : fields.Text();
  return fields.ok() ? absl::OkStatus() : Malformed("DynamicFired");
}

void EncodeDynamicSkipped(const DynamicSkippedRecord& record, std::string& out) {
  PutBytes(out, record.name);
  PutTime(out, record.first_us);
  PutTime(out, record.last_us);
  PutVarint(out, record.count);
  PutVarint(out, record.reason);
  PutTime(out, record.decided_us);
  PutBytes(out, record.state);
}

absl::Status DecodeDynamicSkipped(std::string_view body, DynamicSkippedRecord& record) {
  Fields fields(body);
  record.name = fields.Text();
  record.first_us = fields.Time();
  record.last_us = fields.Time();
  record.count = fields.U64();
  record.reason = static_cast<std::uint8_t>(fields.U32());
  record.decided_us = fields.Time();
  record.state = fields.Text();
  return fields.ok() ? absl::OkStatus() : Malformed("DynamicSkipped");
}

void EncodeDelayed(const DelayedRecord& record, std::string& out) {
  PutVarint(out, record.identity.low);
  PutVarint(out, record.identity.high);
  PutTime(out, record.at_us);
  PutVarint(out, record.hops);
}

absl::Status DecodeDelayed(std::string_view body, DelayedRecord& record) {
  Fields fields(body);
  record.identity.low = fields.U64();
  record.identity.high = fields.U64();
  record.at_us = fields.Time();
  record.hops = fields.U32();
  record.event = fields.Rest();
  return fields.ok() ? absl::OkStatus() : Malformed("Delayed");
}

void EncodeDelayedFired(const DelayedFiredRecord& record, std::string& out) {
  PutVarint(out, record.identity.low);
  PutVarint(out, record.identity.high);
  PutVarint(out, record.offset.value());
}

absl::Status DecodeDelayedFired(std::string_view body, DelayedFiredRecord& record) {
  Fields fields(body);
  record.identity.low = fields.U64();
  record.identity.high = fields.U64();
  record.offset = Offset(fields.U64());
  return fields.ok() ? absl::OkStatus() : Malformed("DelayedFired");
}

void EncodeOutgoing(const OutgoingRecord& record, std::string& out) {
  PutVarint(out, record.sequence);
  PutVarint(out, record.home.value());
  out.append(record.event);
}

absl::Status DecodeOutgoing(std::string_view body, OutgoingRecord& record) {
  Fields fields(body);
  record.sequence = fields.U64();
  record.home = PartitionId(fields.U32());
  record.event = fields.Rest();
  return fields.ok() ? absl::OkStatus() : Malformed("Outgoing");
}

void EncodeTriggerCatchUp(const TriggerCatchUpRecord& record, std::string& out) {
  PutVarint(out, record.trigger.value());
  PutVarint(out, record.next.value());
  PutVarint(out, record.done ? 1 : 0);
}

absl::Status DecodeTriggerCatchUp(std::string_view body, TriggerCatchUpRecord& record) {
  Fields fields(body);
  record.trigger = TriggerOrdinal(fields.U32());
  record.next = Offset(fields.U64());
  record.done = fields.Flag();
  return fields.ok() ? absl::OkStatus() : Malformed("TriggerCatchUp");
}

void EncodeTriggerStored(const TriggerStoredRecord& record, std::string& out) {
  PutBytes(out, record.name);
  PutBytes(out, record.text);
}

absl::Status DecodeTriggerStored(std::string_view body, TriggerStoredRecord& record) {
  Fields fields(body);
  record.name = fields.Text();
  record.text = fields.Text();
  return fields.ok() ? absl::OkStatus() : Malformed("TriggerStored");
}

void EncodeReplay(const ReplayRecord& record, std::string& out) {
  PutVarint(out, record.trigger.value());
  PutVarint(out, record.number);
  PutVarint(out, record.next.value());
  PutVarint(out, record.end.value());
  PutTime(out, record.until_us);
  PutVarint(out, record.rate_millis);
  PutVarint(out, record.copied);
  PutVarint(out, record.over ? 1 : 0);
  PutBytes(out, record.where);
  PutTime(out, record.from_us);
}

absl::Status DecodeReplay(std::string_view body, ReplayRecord& record) {
  Fields fields(body);
  record.trigger = TriggerOrdinal(fields.U32());
  record.number = fields.U32();
  record.next = Offset(fields.U64());
  record.end = Offset(fields.U64());
  record.until_us = fields.Time();
  record.rate_millis = fields.U64();
  record.copied = fields.U64();
  record.over = fields.Flag();
  record.where = fields.Text();
  record.from_us = fields.Time();
  return fields.ok() ? absl::OkStatus() : Malformed("Replay");
}

void EncodeOutgoingDone(const OutgoingDoneRecord& record, std::string& out) {
  PutVarint(out, record.home.value());
  PutVarint(out, record.through);
}

absl::Status DecodeOutgoingDone(std::string_view body, OutgoingDoneRecord& record) {
  Fields fields(body);
  record.home = PartitionId(fields.U32());
  record.through = fields.U64();
  return fields.ok() ? absl::OkStatus() : Malformed("OutgoingDone");
}

}  // namespace tocsin

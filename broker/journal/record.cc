#include "broker/journal/record.h"

#include "broker/base/status.h"

namespace tocsin {
namespace {

void PutLength(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

// False: too short, or longer than 64 bits.
bool GetLength(std::string_view bytes, std::size_t& position, std::uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && position < bytes.size(); shift += 7) {
    const auto byte = static_cast<std::uint8_t>(bytes[position++]);
    if (shift == 63 && byte > 1) return false;
    value |= static_cast<std::uint64_t>(byte & 0x7fu) << shift;
    if ((byte & 0x80u) == 0) return true;
  }
  return false;
}

// Null for a type that this version does not know; numbers may be left out.
const char* NameOf(std::uint8_t type) {
  switch (static_cast<RecordType>(type)) {
    case RecordType::kEvent:
      return "Event";
    case RecordType::kLaneState:
      return "LaneState";
    case RecordType::kSettled:
      return "Settled";
    case RecordType::kAttemptFailed:
      return "AttemptFailed";
    case RecordType::kDeadClosed:
      return "DeadClosed";
    case RecordType::kDropped:
      return "Dropped";
    case RecordType::kExpired:
      return "Expired";
    case RecordType::kTriggerDefined:
      return "TriggerDefined";
    case RecordType::kTriggerDetached:
      return "TriggerDetached";
    case RecordType::kScheduleSet:
      return "ScheduleSet";
    case RecordType::kScheduleFired:
      return "ScheduleFired";
    case RecordType::kScheduleSkipped:
      return "ScheduleSkipped";
    case RecordType::kOutgoing:
      return "Outgoing";
    case RecordType::kOutgoingDone:
      return "OutgoingDone";
    case RecordType::kOwnerOpened:
      return "OwnerOpened";
    case RecordType::kTriggerCatchUp:
      return "TriggerCatchUp";
    case RecordType::kIdle:
      return "Idle";
    case RecordType::kTriggerStored:
      return "TriggerStored";
    case RecordType::kReplay:
      return "Replay";
    case RecordType::kDynamicSet:
      return "DynamicSet";
    case RecordType::kDynamicFired:
      return "DynamicFired";
    case RecordType::kDynamicSkipped:
      return "DynamicSkipped";
    case RecordType::kDelayed:
      return "Delayed";
    case RecordType::kDelayedFired:
      return "DelayedFired";
  }
  return nullptr;
}

}  // namespace

std::string RecordTypeName(std::uint8_t type) {
  const auto plain = static_cast<std::uint8_t>(type & ~kRecordCriticalBit);
  const char* name = NameOf(plain);
  return name == nullptr ? fmt::format("type {}", plain) : name;
}

bool IsCritical(RecordType type) {
  return type != RecordType::kScheduleSkipped && type != RecordType::kIdle;
}

void RecordWriter::Add(RecordType type, std::string_view body) { Add(type, body, {}); }

void RecordWriter::Add(RecordType type, std::string_view first, std::string_view second) {
  auto byte = static_cast<std::uint8_t>(type);
  if (IsCritical(type)) byte |= kRecordCriticalBit;
  out_.push_back(static_cast<char>(byte));
  PutLength(out_, first.size() + second.size());
  out_.append(first);
  out_.append(second);
  ++count_;
}

bool RecordReader::Next(RecordView& record) {
  while (status_.ok() && position_ < body_.size()) {
    const std::size_t start = position_;
    const auto byte = static_cast<std::uint8_t>(body_[position_++]);
    std::uint64_t length = 0;
    if (!GetLength(body_, position_, length) || length > body_.size() - position_) {
      status_ = absl::DataLossError(
          fmt::format("the record at byte {} of the batch does not fit into it", start));
      return false;
    }
    const std::string_view content = body_.substr(position_, length);
    position_ += length;
    const auto type = static_cast<std::uint8_t>(byte & ~kRecordCriticalBit);
    if (NameOf(type) != nullptr) {
      record = RecordView{static_cast<RecordType>(type), content, start};
      return true;
    }
    if ((byte & kRecordCriticalBit) != 0) {
      status_ = absl::FailedPreconditionError(
          fmt::format("the journal holds a record of {}, which this version does not know and may "
                      "not skip; open it with the version that wrote it, or a later one",
                      RecordTypeName(byte)));
      return false;
    }
    ++skipped_;
  }
  return false;
}

std::string OwnerOpened::Encode() const {
  std::string out;
  PutLength(out, epoch.value());
  PutLength(out, version.size());
  out += version;
  return out;
}

absl::StatusOr<OwnerOpened> OwnerOpened::Decode(std::string_view body) {
  std::size_t position = 0;
  std::uint64_t epoch = 0;
  std::uint64_t length = 0;
  if (!GetLength(body, position, epoch) || epoch > UINT32_MAX ||
      !GetLength(body, position, length) || length > body.size() - position) {
    return absl::DataLossError("malformed OwnerOpened record");
  }
  return OwnerOpened{Epoch(static_cast<std::uint32_t>(epoch)),
                     std::string(body.substr(position, length))};
}

}  // namespace tocsin

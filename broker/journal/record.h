// Records <-> the body of a batch.
//
//   record  type u8 (bit 7 = critical) | varint body length | body
//
// A reader that meets a type it does not know skips it, unless bit 7 says that the state would be
// wrong without it: then the batch must not be applied, and the journal not be opened.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/ids.h"

namespace tocsin {

// Numbers are on disk: never changed, never reused.
enum class RecordType : std::uint8_t {
  kEvent = 1,
  kLaneState = 2,
  kSettled = 3,  // ranges
  kAttemptFailed = 4,
  kDeadClosed = 5,
  kDropped = 6,  // ranges
  kExpired = 7,  // ranges
  kTriggerDefined = 8,
  kTriggerDetached = 9,
  kScheduleSet = 10,
  kScheduleFired = 11,
  kScheduleSkipped = 12,  // range
  kOutgoing = 13,
  kOutgoingDone = 14,
  kOwnerOpened = 15,  // written by the engine, see OwnerOpened below
  kTriggerCatchUp = 16,
  kIdle = 17,            // nothing happened to the partition; its place in the log moves on
  kTriggerStored = 20,   // a trigger of the API, as it was given; partition 0 only
  kReplay = 21,          // how far a replay has come
  kDynamicSet = 25,      // a schedule by command or API: made, paused, resumed, removed
  kDynamicFired = 26,    // it fired
  kDynamicSkipped = 27,  // range
  kDelayed = 28,         // an event that was published for later
  kDelayedFired = 29,    // its time has come; its event is in the same batch
};

inline constexpr std::uint8_t kRecordCriticalBit = 0x80;
inline constexpr std::uint8_t kRecordTypeLast = 29;

// `Settled`, or `type 37` for one this version does not know.
std::string RecordTypeName(std::uint8_t type);

// True for every type but those that only inform.
bool IsCritical(RecordType type);

// Appends records to a string it does not own.
class RecordWriter {
 public:
  explicit RecordWriter(std::string& out) : out_(out) {}

  void Add(RecordType type, std::string_view body);
  // For a body in two pieces, so that an event need not be copied behind its prefix first.
  void Add(RecordType type, std::string_view first, std::string_view second);

  std::uint32_t count() const { return count_; }

 private:
  std::string& out_;
  std::uint32_t count_ = 0;
};

struct RecordView {
  RecordType type = RecordType::kEvent;
  std::string_view body;     // points into the batch's body
  std::size_t position = 0;  // of the record in the batch's body
};

// Walks a batch's body, which must outlive it.
class RecordReader {
 public:
  explicit RecordReader(std::string_view body) : body_(body) {}

  // True: `record` is the next one of a type this version knows. False: the end, or an error, and
  // status() tells which.
  bool Next(RecordView& record);

  // OK at and before the end.
  //   kDataLoss            the framing is broken; the batch's CRC should have caught it
  //   kFailedPrecondition  an unknown critical type; the text names it
  const absl::Status& status() const { return status_; }

  // Records of an unknown type that were passed over.
  std::uint32_t skipped() const { return skipped_; }

 private:
  std::string_view body_;
  std::size_t position_ = 0;
  std::uint32_t skipped_ = 0;
  absl::Status status_;
};

// The only record of the batch that every opening of a partition appends: it makes the epoch
// durable and says which version writes from here on.
struct OwnerOpened {
  Epoch epoch;
  std::string version;

  std::string Encode() const;
  // kDataLoss: malformed
  static absl::StatusOr<OwnerOpened> Decode(std::string_view body);
};

}  // namespace tocsin

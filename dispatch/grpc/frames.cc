#include "dispatch/grpc/frames.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <utility>
#include <variant>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/wire.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kMillisecondsMax = 1000ull * 60 * 60 * 24 * 366;

absl::Status Malformed(std::string_view where) {
  return absl::InvalidArgumentError(fmt::format("malformed frame: {}", where));
}

bool IsUtf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

// At most `bytes_max` bytes, whole characters.
std::string_view Cut(std::string_view text, std::size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  std::size_t end = bytes_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;
  return text.substr(0, end);
}

Duration Milliseconds(std::uint64_t value) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(std::min(value, kMillisecondsMax)));
}

std::uint32_t Saturate(std::uint64_t value) {
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(value, std::numeric_limits<std::uint32_t>::max()));
}

// One field of a message: a number or bytes; other wire types are skipped.
struct Field {
  std::uint32_t number = 0;
  std::uint64_t varint = 0;
  std::string_view bytes;
  bool is_varint = false;
  bool is_bytes = false;
};

// False at the end or when malformed; `malformed` says which.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : reader_(bytes) {}

  bool Next(Field& field) {
    if (reader_.AtEnd() || malformed_) return false;
    WireType type{};
    field = Field();
    malformed_ = true;
    if (!reader_.ReadTag(field.number, type)) return false;
    switch (type) {
      case WireType::kVarint:
        if (!reader_.ReadVarint(field.varint)) return false;
        field.is_varint = true;
        break;
      case WireType::kBytes:
        if (!reader_.ReadBytes(field.bytes)) return false;
        field.is_bytes = true;
        break;
      default:
        if (!reader_.Skip(type)) return false;
    }
    malformed_ = false;
    return true;
  }

  bool malformed() const { return malformed_; }

 private:
  WireReader reader_;
  bool malformed_ = false;
};

bool DecodeCredit(std::string_view bytes, Credit& credit) {
  FieldReader reader(bytes);
  Field field;
  credit = Credit();
  while (reader.Next(field)) {
    if (!field.is_varint) continue;
    if (field.number == 1) credit.events = Saturate(field.varint);
    if (field.number == 2) credit.bytes = Saturate(field.varint);
  }
  return !reader.malformed();
}

absl::Status DecodeHello(std::string_view bytes, const WorkerFrameLimits& limits,
                         WorkerFrame& frame) {
  FieldReader reader(bytes);
  Field field;
  while (reader.Next(field)) {
    if (field.is_varint && field.number == 1) frame.protocol = Saturate(field.varint);
    if (field.is_varint && field.number == 8) frame.hello.confirm = field.varint != 0;
    if (!field.is_bytes) continue;
    if (field.number == 6) {
      if (!DecodeCredit(field.bytes, frame.hello.credit)) return Malformed("credit");
      continue;
    }
    if (field.number < 2 || field.number > 5) continue;
    if (!IsUtf8(field.bytes)) return Malformed("a name in hello is not UTF-8");
    if (field.number == 2) frame.hello.worker = field.bytes;
    if (field.number == 3) frame.hello.instance = field.bytes;
    if (field.number == 4) frame.hello.version = field.bytes;
    if (field.number == 5 && frame.hello.functions.size() <= limits.functions_max) {
      frame.hello.functions.emplace_back(field.bytes);
    }
  }
  return reader.malformed() ? Malformed("hello") : absl::OkStatus();
}

absl::Status DecodeRange(std::string_view bytes, HandleRange& range) {
  FieldReader reader(bytes);
  Field field;
  while (reader.Next(field)) {
    if (!field.is_varint) continue;
    if (field.number == 1) range.first = field.varint;
    if (field.number == 2) range.last = field.varint;
  }
  if (reader.malformed()) return Malformed("acked");
  if (range.last < range.first) return Malformed("an acked range ends before it begins");
  return absl::OkStatus();
}

// The text fields and numbers of one outcome message.
struct OutcomeFields {
  std::uint64_t number = 0;     // field 1, if a number
  std::string_view texts[4]{};  // by field number
};

absl::Status DecodeOutcome(std::string_view bytes, OutcomeFields& fields) {
  FieldReader reader(bytes);
  Field field;
  while (reader.Next(field)) {
    if (field.is_varint && field.number == 1) fields.number = field.varint;
    if (field.is_bytes && field.number >= 1 && field.number <= 3) {
      if (!IsUtf8(field.bytes)) return Malformed("the text of an answer is not UTF-8");
      fields.texts[field.number] = field.bytes;
    }
  }
  return reader.malformed() ? Malformed("the outcome of an answer") : absl::OkStatus();
}

absl::Status DecodeAnswer(std::string_view bytes, const WorkerFrameLimits& limits,
                          FrameAnswers& answers) {
  constexpr std::uint32_t kAck = 3, kRetry = 4, kReject = 5, kDrop = 6, kExtend = 7, kProgress = 8;
  HandleAnswer answer;
  std::uint32_t kind = 0;
  std::string_view outcome;
  std::size_t emitted_count = 0;
  std::size_t emitted_bytes = 0;
  FieldReader reader(bytes);
  Field field;
  while (reader.Next(field)) {
    if (field.is_varint && field.number == 1) answer.handle = field.varint;
    if (field.is_varint && field.number == 2) answer.token = FencingToken(field.varint);
    if (!field.is_bytes) continue;
    if (field.number >= kAck && field.number <= kProgress) {
      kind = field.number;
      outcome = field.bytes;
    }
    if (field.number == 9) {
      ++emitted_count;
      emitted_bytes += field.bytes.size();
      if (emitted_count <= limits.emitted_events_max && emitted_bytes <= limits.emitted_bytes_max) {
        answer.emitted.emplace_back(field.bytes);
      }
    }
  }
  if (reader.malformed()) return Malformed("answer");
  if (kind == 0) return Malformed("an answer without an outcome");
  OutcomeFields fields;
  TOCSIN_RETURN_IF_ERROR(DecodeOutcome(outcome, fields));
  const auto text = [&](std::size_t number) {
    return std::string(Cut(fields.texts[number], limits.text_bytes_max));
  };
  if (kind == kExtend || kind == kProgress) {
    if (emitted_count > 0) return Malformed("emitted events with extend or progress");
    if (kind == kExtend) {
      answers.extends.push_back({.handle = answer.handle, .by = Milliseconds(fields.number)});
    }
    return absl::OkStatus();
  }
  if (emitted_count > limits.emitted_events_max || emitted_bytes > limits.emitted_bytes_max) {
    answer.emitted.clear();
    answer.outcome =
        Retry{.code = std::string(kEmitLimitCode),
              .message = fmt::format(
                  "{} emitted events of {} bytes: at most {} events and {} bytes", emitted_count,
                  emitted_bytes, limits.emitted_events_max, limits.emitted_bytes_max),
              .after = std::nullopt};
    answers.others.push_back(std::move(answer));
    return absl::OkStatus();
  }
  switch (kind) {
    case kAck:
      answer.outcome = Ack{};
      break;
    case kRetry: {
      Retry retry{.code = text(2), .message = text(3), .after = std::nullopt};
      if (fields.number > 0) retry.after = Milliseconds(fields.number);
      answer.outcome = std::move(retry);
      break;
    }
    case kReject:
      answer.outcome = Reject{.reason = text(1)};
      break;
    case kDrop:
      answer.outcome = Drop{.reason = text(1)};
      break;
    default:
      TOCSIN_CHECK(false, "outcome {}", kind);
  }
  answers.others.push_back(std::move(answer));
  return absl::OkStatus();
}

absl::Status DecodeAnswers(std::string_view bytes, const WorkerFrameLimits& limits,
                           WorkerFrame& frame) {
  FieldReader reader(bytes);
  Field field;
  while (reader.Next(field)) {
    if (field.is_varint && field.number == 3) frame.answers.started_through = field.varint;
    if (field.is_varint && field.number == 4) frame.sequence = field.varint;
    if (field.is_bytes && field.number == 1) {
      HandleRange range;
      TOCSIN_RETURN_IF_ERROR(DecodeRange(field.bytes, range));
      frame.answers.acked.push_back(range);
    }
    if (field.is_bytes && field.number == 2) {
      TOCSIN_RETURN_IF_ERROR(DecodeAnswer(field.bytes, limits, frame.answers));
    }
  }
  return reader.malformed() ? Malformed("answers") : absl::OkStatus();
}

// A BrokerFrame of one message.
std::string Wrap(std::uint32_t field, std::string_view message) {
  std::string frame;
  frame.reserve(message.size() + 12);
  PutField(frame, field, message);
  return frame;
}

}  // namespace

absl::Status DecodeWorkerFrame(std::string_view bytes, const WorkerFrameLimits& limits,
                               WorkerFrame& frame) {
  frame = WorkerFrame();
  std::uint32_t kind = 0;
  std::string_view message;
  FieldReader reader(bytes);
  Field field;
  while (reader.Next(field)) {
    if (field.number < 1 || field.number > 5) continue;
    if (!field.is_bytes) return Malformed("a frame that is not a message");
    kind = field.number;
    message = field.bytes;
  }
  if (reader.malformed()) return Malformed("not a WorkerFrame");
  switch (kind) {
    case 1:
      frame.kind = WorkerFrameKind::kHello;
      return DecodeHello(message, limits, frame);
    case 2:
      frame.kind = WorkerFrameKind::kAnswers;
      return DecodeAnswers(message, limits, frame);
    case 3:
      frame.kind = WorkerFrameKind::kCredit;
      return DecodeCredit(message, frame.credit) ? absl::OkStatus() : Malformed("credit");
    case 4:
      frame.kind = WorkerFrameKind::kHeartbeat;
      return absl::OkStatus();
    case 5:
      frame.kind = WorkerFrameKind::kLeaving;
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

absl::Status ValidateHello(const WorkerFrame& frame, const WorkerFrameLimits& limits) {
  if (frame.protocol != kWorkerProtocol) {
    return absl::FailedPreconditionError(
        fmt::format("this broker speaks worker protocol {}, the worker {}: use an SDK of a "
                    "matching version",
                    kWorkerProtocol, frame.protocol));
  }
  const SessionHello& hello = frame.hello;
  if (hello.worker.empty()) return absl::InvalidArgumentError("hello: `worker` is empty");
  if (hello.functions.empty()) {
    return absl::InvalidArgumentError("hello: `functions` is empty: name at least one to serve");
  }
  if (hello.functions.size() > limits.functions_max) {
    return absl::InvalidArgumentError(
        fmt::format("hello: more than {} functions", limits.functions_max));
  }
  for (const std::string* name : {&hello.worker, &hello.instance, &hello.version}) {
    if (name->size() > limits.name_bytes_max) {
      return absl::InvalidArgumentError(
          fmt::format("hello: a name is longer than {} bytes", limits.name_bytes_max));
    }
  }
  for (const std::string& name : hello.functions) {
    if (name.empty() || name.size() > limits.name_bytes_max) {
      return absl::InvalidArgumentError(fmt::format(
          "hello: a function's name is empty or longer than {} bytes", limits.name_bytes_max));
    }
  }
  if (hello.credit.events == 0) {
    return absl::InvalidArgumentError("hello: `credit.events` must be at least 1");
  }
  return absl::OkStatus();
}

std::string EncodeWelcome(const WelcomeFrame& welcome) {
  std::string message;
  PutField(message, 1, std::uint64_t{kWorkerProtocol});
  PutField(message, 2, std::string_view(welcome.broker));
  PutField(message, 3, welcome.session.value());
  PutField(message, 4, std::uint64_t{welcome.heartbeat_ms});
  PutField(message, 5, std::uint64_t{welcome.gone_after_ms});
  PutField(message, 6, welcome.frame_bytes_max);
  return Wrap(1, message);
}

std::string EncodeCancel(std::span<const std::uint64_t> handles) {
  std::string packed;
  for (const std::uint64_t handle : handles) PutVarint(packed, handle);
  std::string message;
  PutField(message, 1, std::string_view(packed));
  return Wrap(3, message);
}

std::string EncodeDrain(std::string_view reason) {
  std::string message;
  PutField(message, 1, reason);
  return Wrap(4, message);
}

std::string EncodeConfirmed(std::uint64_t sequence) {
  std::string message;
  PutField(message, 1, sequence);
  return Wrap(5, message);
}

std::string EncodeRefused(std::uint64_t count, std::string_view reason) {
  std::string message;
  PutField(message, 1, count);
  PutField(message, 2, reason);
  return Wrap(6, message);
}

void AppendTriggerName(std::string& body, std::uint32_t partition, std::uint32_t ordinal,
                       std::string_view name) {
  std::string message;
  PutField(message, 1, std::uint64_t{partition});
  PutField(message, 2, std::uint64_t{ordinal});
  PutField(message, 3, name);
  PutField(body, 1, std::string_view(message));
}

void AppendFunctionName(std::string& body, std::uint32_t function, std::string_view name) {
  std::string message;
  PutField(message, 1, std::uint64_t{function});
  PutField(message, 2, name);
  PutField(body, 2, std::string_view(message));
}

void AppendDelivery(std::string& body, const OutgoingDelivery& delivery, std::uint32_t function,
                    bool with_event) {
  const auto lease =
      std::chrono::ceil<std::chrono::milliseconds>(std::max(delivery.lease, Duration::zero()));
  const std::uint64_t numbers[] = {
      delivery.handle,
      delivery.token.value(),
      delivery.id.partition.value(),
      delivery.id.offset.value(),
      delivery.id.trigger.value(),
      delivery.id.run,
      delivery.attempt,
      std::max<std::uint64_t>(1, Saturate(static_cast<std::uint64_t>(lease.count()))),
      static_cast<std::uint64_t>(delivery.recorded.time_since_epoch().count()),
      function,
  };
  constexpr std::uint32_t kEventField = 11;
  std::size_t size = 1 + VarintSize(delivery.event.size()) + delivery.event.size();
  for (const std::uint64_t number : numbers) size += 1 + VarintSize(number);
  PutTag(body, 3, WireType::kBytes);
  PutVarint(body, size);
  const std::size_t begin = body.size();
  std::uint32_t field = 0;
  for (const std::uint64_t number : numbers) {
    PutTag(body, ++field, WireType::kVarint);
    PutVarint(body, number);
  }
  PutTag(body, kEventField, WireType::kBytes);
  PutVarint(body, delivery.event.size());
  if (with_event) body.append(delivery.event);
  TOCSIN_CHECK(body.size() - begin + (with_event ? 0 : delivery.event.size()) == size);
}

std::size_t SealDeliveries(std::string& buffer, std::size_t tail_bytes) {
  TOCSIN_CHECK(buffer.size() >= kFramePrefixBytes);
  std::string prefix;
  PutTag(prefix, 2, WireType::kBytes);
  PutVarint(prefix, buffer.size() - kFramePrefixBytes + tail_bytes);
  TOCSIN_CHECK(prefix.size() <= kFramePrefixBytes, "a frame of {} bytes", buffer.size());
  const std::size_t begin = kFramePrefixBytes - prefix.size();
  buffer.replace(begin, prefix.size(), prefix);
  return begin;
}

}  // namespace tocsin

// Frames of the worker protocol (proto/tocsin/v1/worker.proto), read and written by hand: a frame's
// events are never copied into messages. Pure: knows protobuf's wire format, not gRPC.
//
// Decoding allocates in proportion to the bytes received, never to a number they declare, and
// ends in time linear in them.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "dispatch/worker_session.h"

namespace tocsin {

inline constexpr std::uint32_t kWorkerProtocol = 1;

struct WorkerFrameLimits {
  std::size_t emitted_events_max = 256;  // of one answer
  std::size_t emitted_bytes_max = std::size_t{2} << 20;
  std::size_t functions_max = 1024;   // of a Hello
  std::size_t name_bytes_max = 256;   // worker, instance, version, each function
  std::size_t text_bytes_max = 1024;  // a code, reason or message; longer ones are cut
};

// The code of the Retry that an answer becomes whose emitted events are over a limit.
inline constexpr std::string_view kEmitLimitCode = "emit_limit";

enum class WorkerFrameKind : std::uint8_t {
  kOther,  // of a later protocol: ignored
  kHello,
  kAnswers,
  kCredit,
  kHeartbeat,
  kLeaving,
};

// What one frame says. Which members count depends on `kind`.
struct WorkerFrame {
  WorkerFrameKind kind = WorkerFrameKind::kOther;
  std::uint32_t protocol = 0;  // kHello
  SessionHello hello;          // kHello; without `peer`
  FrameAnswers answers;        // kAnswers
  std::uint64_t sequence = 0;  // kAnswers
  Credit credit;               // kCredit
};

// Reads one WorkerFrame. `frame` is meaningful after OK only.
//   kInvalidArgument  malformed: not the wire format, text that is not UTF-8, a range that ends
//                     before it begins, an answer without an outcome, emitted events with an
//                     outcome that cannot have them
absl::Status DecodeWorkerFrame(std::string_view bytes, const WorkerFrameLimits& limits,
                               WorkerFrame& frame);

// Whether a Hello may open a session. The text says what the worker should send.
//   kFailedPrecondition  a protocol we do not speak
//   kInvalidArgument     no worker name, no function, a name too long, no credit
absl::Status ValidateHello(const WorkerFrame& frame, const WorkerFrameLimits& limits);

struct WelcomeFrame {
  std::string broker;
  SessionId session;
  std::uint32_t heartbeat_ms = 0;
  std::uint32_t gone_after_ms = 0;
  std::uint64_t frame_bytes_max = 0;
};

// Whole BrokerFrames.
std::string EncodeWelcome(const WelcomeFrame& welcome);
std::string EncodeCancel(std::span<const std::uint64_t> handles);
std::string EncodeDrain(std::string_view reason);
std::string EncodeConfirmed(std::uint64_t sequence);
std::string EncodeRefused(std::uint64_t count, std::string_view reason);

// Bytes kept free in front of a Deliveries body for the frame's own tag and length.
inline constexpr std::size_t kFramePrefixBytes = 8;

// Appenders to the body of a Deliveries message.
void AppendTriggerName(std::string& body, std::uint32_t partition, std::uint32_t ordinal,
                       std::string_view name);
void AppendFunctionName(std::string& body, std::uint32_t function, std::string_view name);
// The whole Delivery, or with `with_event` false all but the event's bytes, which must follow.
void AppendDelivery(std::string& body, const OutgoingDelivery& delivery, std::uint32_t function,
                    bool with_event);

// Writes the BrokerFrame's tag and length into the prefix of `buffer` (kFramePrefixBytes, then a
// Deliveries body), for a body that goes on with `tail_bytes` elsewhere. Returns where in `buffer`
// the frame begins.
std::size_t SealDeliveries(std::string& buffer, std::size_t tail_bytes);

}  // namespace tocsin

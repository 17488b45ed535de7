// The command's side of the Publisher and Admin services.
//
// Every status says what failed, on what, and what to do; it can be printed as it is. Streams are
// given message by message to a function, with a look at Interrupted() in between.
//
// Threading: one thread. Calls block.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/cli/command.h"
#include "tocsin/v1/admin.pb.h"
#include "tocsin/v1/publish.pb.h"

namespace tocsin::cli {

inline constexpr const char* kDefaultTarget = "127.0.0.1:7420";

// As given on the command line; empty fields fall back to the environment (TOCSIN_TARGET,
// TOCSIN_TOKEN, TOCSIN_TOKEN_FILE) when the client is made.
struct ConnectionFlags {
  std::string target;
  std::string token_file;
  bool tls = false;
  std::string ca;
  std::string cert;
  std::string key;
  std::string timeout = "10s";
};

// --target, --token-file, --tls, --ca, --cert, --cert-key, --timeout.
void AddConnection(Command& command, ConnectionFlags& flags);

// What the flags, the environment and the files they name come to.
struct Connection {
  std::string target;
  std::string token;
  bool tls = false;
  std::string ca_path;    // empty: the system's
  std::string cert_path;  // with key_path, or neither
  std::string key_path;
  std::int64_t timeout_ms = 10'000;
};

//   kInvalidArgument  --cert without --cert-key, a duration that is none
//   others            a file that cannot be read
absl::StatusOr<Connection> ResolveConnection(const ConnectionFlags& flags);

class Client {
 public:
  // Reads the certificates; connects at the first call.
  static absl::StatusOr<std::unique_ptr<Client>> New(const ConnectionFlags& flags);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const std::string& target() const;

  // A token over a connection that is neither encrypted nor local: said to the person once.
  bool SendsTokenInTheClear() const;

  absl::StatusOr<v1::StatusResponse> Status();
  absl::StatusOr<v1::ListTriggersResponse> ListTriggers();
  absl::StatusOr<v1::SetTriggerStateResponse> SetTriggerState(
      const v1::SetTriggerStateRequest& request);
  absl::StatusOr<v1::ListSourcesResponse> ListSources();
  absl::StatusOr<v1::ForgetSourceResponse> ForgetSource(const v1::ForgetSourceRequest& request);
  absl::StatusOr<v1::SnapshotSourceResponse> SnapshotSource(
      const v1::SnapshotSourceRequest& request);
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers();
  absl::StatusOr<v1::ReloadResponse> Reload();
  absl::StatusOr<v1::AddSchedulesResponse> AddSchedules(const v1::AddSchedulesRequest& request);
  absl::StatusOr<v1::ScheduleStatus> ControlSchedule(const v1::ControlScheduleRequest& request);
  absl::StatusOr<v1::ListFunctionsResponse> ListFunctions();

  // Asks for the position of every event.
  absl::StatusOr<v1::PublishResponse> Publish(const v1::PublishRequest& request);

  // `each` says false to end the stream, which is OK then. `idle` runs whenever nothing came for a
  // tenth of a second. kCancelled after an interrupt.
  template <typename Message>
  using Each = std::function<bool(const Message&)>;
  using Idle = std::function<void()>;
  absl::Status ListLetters(const v1::ListLettersRequest& request, const Each<v1::Letter>& each,
                           const Idle& idle = nullptr);
  absl::Status CloseLetters(const v1::CloseLettersRequest& request,
                            const Each<v1::CloseLettersProgress>& each, const Idle& idle = nullptr);
  absl::StatusOr<v1::ApplyTriggersResponse> ApplyTriggers(const v1::ApplyTriggersRequest& request);
  absl::StatusOr<v1::RemoveTriggersResponse> RemoveTriggers(
      const v1::RemoveTriggersRequest& request);
  absl::Status Replay(const v1::ReplayRequest& request, const Each<v1::ReplayReport>& each);
  absl::Status Explain(const v1::ExplainRequest& request, const Each<v1::ExplainItem>& each);
  absl::Status Tail(const v1::TailRequest& request, const Each<v1::TailEvent>& each,
                    const Idle& idle = nullptr);
  absl::Status ListSchedules(const v1::ListSchedulesRequest& request,
                             const Each<v1::ScheduleStatus>& each);
  absl::Status BackfillSchedule(const v1::BackfillScheduleRequest& request,
                                const Each<v1::BackfillProgress>& each);
  absl::Status ListRuns(const v1::ListRunsRequest& request, const Each<v1::RunStatus>& each);

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin::cli

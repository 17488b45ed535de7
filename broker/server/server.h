// Server: the composition root: joins every port to what serves it, and runs a whole broker in this
// process.
//
//   [starting] --Start()--> [serving] --Drain()--> [draining] --> stopped
//                               |  the journal fails
//                               +----------------> [failed]: on_fatal runs, the process should exit
//
// Order of a start: configuration, listeners' safety, data directory, recovery of every partition,
// then the listeners. Nothing is reachable before every partition is recovered. Order of an end:
// sources, publishers, workers, listeners, partitions with a last checkpoint, journal.
//
// Threading: Start, Drain and the destructor on one thread; the rest is thread-safe.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/config/config.h"
#include "broker/config/load.h"
#include "broker/server/admin_service.h"
#include "broker/server/log.h"

namespace tocsin {

inline constexpr char kServerVersion[] = "0.1.0";
// In the data directory, while the broker serves: {"pid":..,"grpc":"host:port","http":"host:port"}.
inline constexpr char kEndpointsFile[] = "endpoints.json";

struct ServerOptions {
  std::string config_path;
  // In place of reading config_path, at the start and at each reload.
  std::function<absl::StatusOr<Config>(std::vector<ConfigError>& errors)> load;

  // Win over the configuration.
  std::optional<std::string> data_dir;
  std::optional<std::string> listen;
  std::optional<std::string> http;  // "": no HTTP listener

  bool degraded = false;  // start although a segment is missing
  LogOptions log;
  // The program, by its path, and arguments that serve local functions (local/supervisor.h); empty:
  // `exec` functions are not served.
  std::vector<std::string> supervisor;
  Duration zones_every = std::chrono::minutes(1);    // looks whether the tz database was updated
  Duration drain_within = std::chrono::seconds(10);  // for workers to finish what they hold

  // Runs once when the journal can write no more; nothing is answered OK from then on.
  std::function<void(const absl::Status&)> on_fatal;
};

struct Endpoints {
  std::string grpc;
  int grpc_port = 0;
  std::string http;  // empty: no HTTP listener
  int http_port = 0;
};

class Server {
 public:
  // After OK every partition is recovered and the listeners are open.
  //   kInvalidArgument     the configuration, one line per error
  //   kFailedPrecondition  the data directory is held by another process, a listener is taken or
  //                        not safe; others as OpenFileJournal
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options);
  // Drains with no time for workers, if Drain() was not called.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  const Endpoints& endpoints() const;

  // Reads the configuration again and applies the difference, trigger by trigger; a bad one changes
  // nothing. Blocks while it reads; one at a time.
  ReloadReport Reload();

  // Sources stop, publishers are refused, workers get drain_within to finish what they hold, and
  // everything is closed with a last checkpoint. OK: nothing that was answered is in doubt.
  absl::Status Drain();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A whole broker until SIGTERM or SIGINT (a second one ends at once); SIGHUP reloads. The exit
// status: 0 after a clean end, 1 after a failed start or a fatal error of the journal. To be called
// while the process has one thread only: it blocks the signals in all that come.
int RunServer(ServerOptions options);

}  // namespace tocsin

// ZeromqLink: the sockets of one source: the one that is read, its monitor, and, as a CURVE server
// that knows its clients, the handler that admits them.
//
// Threading: one thread.

#pragma once

#include <memory>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "connectors/zeromq/zeromq_spec.h"

namespace tocsin {

class ZeromqLink {
 public:
  // Bound, or connecting.
  //   kUnavailable         the endpoint is in use
  //   kFailedPrecondition  it cannot be used: the text names it
  static absl::StatusOr<std::unique_ptr<ZeromqLink>> Open(const ZeromqSpec& spec);
  ~ZeromqLink();

  // True if something can be read. Waits for at most so many milliseconds, serves the monitor and
  // the handler meanwhile, and calls `woken` when `wake_fd` is readable; false from it ends the
  // wait.
  absl::StatusOr<bool> Wait(int milliseconds, int wake_fd, absl::FunctionRef<bool()> woken);

  // All parts of one message, if there is one at once.
  bool Take(std::vector<zmq::message_t>& parts);
  // To the peer named by `envelope`; a peer that is gone is no error.
  void Answer(std::vector<zmq::message_t>& envelope, std::string_view text);

  // What the monitor told last; empty: all is well.
  const std::string& note() const { return note_; }
  // Connected peers, as far as the monitor saw.
  int peers() const { return peers_; }

 private:
  explicit ZeromqLink(const ZeromqSpec& spec) : spec_(spec) {}
  absl::Status OpenNow();
  void SetCurve();
  void ServeMonitor();
  void ServeHandler();

  const ZeromqSpec spec_;
  zmq::context_t context_{1};
  zmq::socket_t socket_, monitor_, handler_;
  std::string note_;
  int peers_ = 0;
};

}  // namespace tocsin

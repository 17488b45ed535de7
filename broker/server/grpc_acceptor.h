// GrpcAcceptor: listens for gRPC and hands every accepted connection on. gRPC's own listener takes
// no connection any more after one accept that failed for want of a descriptor (CVE-2023-4785);
// this one waits and goes on.
//
// Threading: Listen, Start, Stop and the destructor on one thread; `take` and `warn` are called on
// the acceptor's own.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/config/config.h"

namespace tocsin {

class GrpcAcceptor {
 public:
  // Owns `fd` from then on. It does not block and is closed on exec.
  using Take = std::function<void(int listener_fd, int fd)>;
  using Warn = std::function<void(std::string_view code, const std::string& text)>;

  // Listens on every address of the host; a port of 0 becomes the same free one for all.
  //   kFailedPrecondition  T0202 the port is taken, or the address is not of this machine
  static absl::StatusOr<std::unique_ptr<GrpcAcceptor>> Listen(const HostPort& address,
                                                              const Clock& clock, Warn warn);
  // Listens on a Unix socket of the file system, for this user alone; what is there is replaced.
  //   kFailedPrecondition  T0202 it cannot be made
  static absl::StatusOr<std::unique_ptr<GrpcAcceptor>> ListenLocal(const std::string& path,
                                                                   const Clock& clock, Warn warn);
  ~GrpcAcceptor();

  std::uint16_t port() const;

  // Connections wait in the kernel until then.
  void Start(Take take);
  // Afterwards `take` is not called any more, and the port is free.
  void Stop();

 private:
  struct Impl;
  explicit GrpcAcceptor(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin

// PublishService: tocsin.v1.Publisher over gRPC's callback API, on raw bytes.
//
// A stream answers its requests in the order they came, many under way at a time; it stops reading
// while what it has under way is over a limit, so that a fast client waits in its own socket. A
// malformed request ends its stream with INVALID_ARGUMENT, after the answers to what came before.
//
// Threading: reactors run on gRPC's threads and the committer's and never block; one read and one
// write are in flight per stream. The service outlives the gRPC server it is registered with.

#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "broker/base/metrics.h"
#include "broker/base/mutex.h"
#include "broker/server/publish_engine.h"
#include "tocsin/v1/publish.grpc.pb.h"

namespace tocsin {

class PublishStream;

// Request metadata that asks for PublishResponse.refs.
inline constexpr char kRefsMetadata[] = "tocsin-refs";

struct PublishServiceOptions {
  std::size_t events_max = 65'536;                      // of one request
  std::size_t stream_bytes_max = std::size_t{8} << 20;  // under way, per stream
  std::size_t stream_requests_max = 1024;
};

class PublishService final
    : public v1::Publisher::WithRawCallbackMethod_Publish<
          v1::Publisher::WithRawCallbackMethod_PublishStream<v1::Publisher::Service>> {
 public:
  using Authorize = std::function<absl::Status(const grpc::ServerContextBase& context)>;

  // `latency` (seconds from a request's arrival to its answer) may be null.
  PublishService(const PublishServiceOptions& options, PublishEngine& engine, const Clock& clock,
                 Authorize authorize, Histogram* latency);
  ~PublishService() override;

  // New calls are refused with UNAVAILABLE; streams answer what they have taken and end so.
  void Drain();
  // Ends the streams that Authorize now refuses.
  void Reauthorize();
  std::size_t stream_count() const;

  grpc::ServerUnaryReactor* Publish(grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* request,
                                    grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* PublishStream(
      grpc::CallbackServerContext* context) override;

 private:
  friend class tocsin::PublishStream;
  absl::Status Allowed(const grpc::ServerContextBase& context) const;
  void Observe(Instant begun) const;
  std::vector<std::shared_ptr<tocsin::PublishStream>> Streams() const;
  void Remove(std::uint64_t number);

  // Set at construction.
  const PublishServiceOptions options_;
  PublishEngine& engine_;
  const Clock& clock_;
  const Authorize authorize_;
  Histogram* const latency_;

  mutable Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::uint64_t next_number_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::flat_hash_map<std::uint64_t, std::shared_ptr<tocsin::PublishStream>> streams_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace tocsin

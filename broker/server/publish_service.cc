#include "broker/server/publish_service.h"

#include <chrono>
#include <utility>

#include "broker/server/grpc_auth.h"
#include "broker/server/publish_stream.h"
#include "dispatch/grpc/byte_buffer.h"

namespace tocsin {

PublishService::PublishService(const PublishServiceOptions& options, PublishEngine& engine,
                               const Clock& clock, Authorize authorize, Histogram* latency)
    : options_(options),
      engine_(engine),
      clock_(clock),
      authorize_(std::move(authorize)),
      latency_(latency) {}

PublishService::~PublishService() = default;

absl::Status PublishService::Allowed(const grpc::ServerContextBase& context) const {
  const absl::Status allowed = authorize_(context);
  if (!allowed.ok()) return allowed;
  MutexLock lock(mutex_);
  if (draining_) return absl::UnavailableError("the broker is stopping: send again later");
  return absl::OkStatus();
}

void PublishService::Observe(Instant begun) const {
  if (latency_ == nullptr) return;
  latency_->Observe(std::chrono::duration<double>(clock_.Monotonic() - begun).count());
}

grpc::ServerUnaryReactor* PublishService::Publish(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request,
                                                  grpc::ByteBuffer* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::Status taken = Allowed(*context);
  FlatBytes flat;
  PublishFrame frame;
  if (taken.ok()) {
    taken = flat.Assign(*request)
                ? DecodePublishRequest(flat.bytes(), options_.events_max, frame)
                : absl::InvalidArgumentError("a request that cannot be decompressed");
    if (!taken.ok()) engine_.counters().malformed.fetch_add(1, std::memory_order_relaxed);
  }
  if (!taken.ok()) {
    reactor->Finish(ToGrpcStatus(taken));
    return reactor;
  }
  const bool with_places = context->client_metadata().count(kRefsMetadata) > 0;
  engine_.Run(flat.keep_alive(), frame, with_places, nullptr, /*alone=*/false,
              [this, reactor, response, begun = clock_.Monotonic()](const PublishAnswer& answer) {
                *response = TakeByteBuffer(EncodePublishResponse(answer));
                Observe(begun);
                reactor->Finish(grpc::Status::OK);
              });
  return reactor;
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* PublishService::PublishStream(
    grpc::CallbackServerContext* context) {
  const absl::Status allowed = Allowed(*context);
  std::shared_ptr<tocsin::PublishStream> stream;
  {
    MutexLock lock(mutex_);
    const std::uint64_t number = next_number_++;
    stream = std::make_shared<tocsin::PublishStream>(*this, *context, number);
    streams_.emplace(number, stream);
  }
  if (!allowed.ok()) stream->EndAfterAnswers(ToGrpcStatus(allowed));
  return stream->Begin();
}

void PublishService::Drain() {
  {
    MutexLock lock(mutex_);
    draining_ = true;
  }
  for (const auto& stream : Streams()) {
    stream->EndAfterAnswers(
        grpc::Status(grpc::StatusCode::UNAVAILABLE, "the broker is stopping: send again later"));
  }
}

void PublishService::Reauthorize() {
  for (const auto& stream : Streams()) stream->Reauthorize();
}

std::size_t PublishService::stream_count() const {
  MutexLock lock(mutex_);
  return streams_.size();
}

std::vector<std::shared_ptr<PublishStream>> PublishService::Streams() const {
  std::vector<std::shared_ptr<tocsin::PublishStream>> streams;
  MutexLock lock(mutex_);
  streams.reserve(streams_.size());
  for (const auto& [number, stream] : streams_) streams.push_back(stream);
  return streams;
}

void PublishService::Remove(std::uint64_t number) {
  std::shared_ptr<tocsin::PublishStream> last;  // not destroyed under the mutex
  MutexLock lock(mutex_);
  const auto entry = streams_.find(number);
  if (entry == streams_.end()) return;
  last = std::move(entry->second);
  streams_.erase(entry);
}

}  // namespace tocsin

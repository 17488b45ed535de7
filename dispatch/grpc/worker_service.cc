#include "dispatch/grpc/worker_service.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "broker/base/status.h"
#include "dispatch/grpc/worker_stream.h"

namespace tocsin {

WorkerService::WorkerService(const WorkerServiceOptions& options, Dispatcher& dispatcher,
                             const Clock& clock, Authorize authorize)
    : options_(options), dispatcher_(dispatcher), clock_(clock), authorize_(std::move(authorize)) {}

WorkerService::~WorkerService() = default;

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* WorkerService::Attach(
    grpc::CallbackServerContext* context) {
  absl::Status allowed = authorize_(*context, nullptr);
  std::shared_ptr<WorkerStream> stream;
  {
    MutexLock lock(mutex_);
    if (allowed.ok() && refusing_) {
      allowed = absl::UnavailableError("the broker is stopping: attach elsewhere or again");
    }
    if (allowed.ok() && streams_.size() >= options_.streams_max) {
      allowed = absl::ResourceExhaustedError("too many workers are attached");
    }
    const std::uint64_t number = next_number_++;
    stream = std::make_shared<WorkerStream>(*this, *context, number, clock_.Monotonic());
    streams_.emplace(number, stream);
  }
  if (!allowed.ok()) {
    counters_.refused.fetch_add(1, std::memory_order_relaxed);
    stream->End(grpc::Status(static_cast<grpc::StatusCode>(allowed.code()),
                             std::string(MessageOf(allowed))),
                false);
  }
  return stream->Begin();
}

void WorkerService::Start(Executor& executor) {
  executor_ = &executor;
  Schedule();
}

void WorkerService::Schedule() {
  executor_->PostAt(clock_.Monotonic() + options_.tick_every, [this] {
    Tick();
    Schedule();
  });
}

void WorkerService::Tick() {
  const Instant now = clock_.Monotonic();
  const std::vector<SessionId> ended = dispatcher_.EndSilent(now, options_.gone_after);
  const absl::flat_hash_set<SessionId> silent(ended.begin(), ended.end());
  for (const std::shared_ptr<WorkerStream>& stream : Streams()) stream->Check(now, silent);
}

void WorkerService::EndAll(const grpc::Status& status) {
  RefuseNew();
  for (const std::shared_ptr<WorkerStream>& stream : Streams()) stream->End(status, false);
}

void WorkerService::RefuseNew() {
  MutexLock lock(mutex_);
  refusing_ = true;
}

void WorkerService::Reauthorize() {
  for (const std::shared_ptr<WorkerStream>& stream : Streams()) stream->Reauthorize();
}

std::size_t WorkerService::stream_count() const {
  MutexLock lock(mutex_);
  return streams_.size();
}

std::vector<std::shared_ptr<WorkerStream>> WorkerService::Streams() const {
  std::vector<std::shared_ptr<WorkerStream>> streams;
  MutexLock lock(mutex_);
  streams.reserve(streams_.size());
  for (const auto& [number, stream] : streams_) streams.push_back(stream);
  return streams;
}

void WorkerService::Remove(std::uint64_t number) {
  std::shared_ptr<WorkerStream> last;  // not destroyed under the mutex
  MutexLock lock(mutex_);
  const auto entry = streams_.find(number);
  if (entry == streams_.end()) return;
  last = std::move(entry->second);
  streams_.erase(entry);
}

}  // namespace tocsin

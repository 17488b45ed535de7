// WriteStream: one server-streaming call of the admin service: written to from any thread, one
// message at a time, for as long as the driver wants.
//
// Shared by gRPC's reactor and the driver; the driver calls Finish() once, also after a write
// failed. Threading: thread-safe; `written` runs on a gRPC thread.

#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "broker/base/check.h"
#include "broker/base/mutex.h"

namespace tocsin {

template <typename T>
class WriteStream : public std::enable_shared_from_this<WriteStream<T>> {
 public:
  // `written(false)`: the call has ended and nothing more can be written.
  using Written = absl::AnyInvocable<void(bool)>;

  grpc::ServerWriteReactor<T>* Begin() {
    auto* reactor = new Reactor(this->shared_from_this());
    MutexLock lock(mutex_);
    reactor_ = reactor;
    return reactor;
  }

  // No other write is under way, and Finish() was not called.
  void Write(T message, Written written) {
    {
      MutexLock lock(mutex_);
      TOCSIN_CHECK(!written_ && !finished_);
      if (!cancelled_ && reactor_ != nullptr) {
        message_ = std::move(message);
        written_ = std::move(written);
        reactor_->StartWrite(&message_);
        return;
      }
    }
    written(false);
  }

  void Finish(const grpc::Status& status) {
    MutexLock lock(mutex_);
    TOCSIN_CHECK(!written_ && !finished_);
    finished_ = true;
    if (reactor_ != nullptr) reactor_->Finish(status);
  }

  bool cancelled() const {
    MutexLock lock(mutex_);
    return cancelled_;
  }

 private:
  class Reactor final : public grpc::ServerWriteReactor<T> {
   public:
    explicit Reactor(std::shared_ptr<WriteStream> stream) : stream_(std::move(stream)) {}
    void OnWriteDone(bool ok) override { stream_->OnWritten(ok); }
    void OnCancel() override {
      MutexLock lock(stream_->mutex_);
      stream_->cancelled_ = true;
    }
    void OnDone() override {
      {
        MutexLock lock(stream_->mutex_);
        stream_->reactor_ = nullptr;
      }
      delete this;
    }

   private:
    const std::shared_ptr<WriteStream> stream_;
  };

  void OnWritten(bool ok) {
    Written written;
    {
      MutexLock lock(mutex_);
      written = std::move(written_);
      written_ = nullptr;
      if (!ok) cancelled_ = true;
    }
    written(ok);
  }

  mutable Mutex mutex_;
  Reactor* reactor_ ABSL_GUARDED_BY(mutex_) = nullptr;  // null after OnDone
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  Written written_ ABSL_GUARDED_BY(mutex_);
  T message_;
};

}  // namespace tocsin

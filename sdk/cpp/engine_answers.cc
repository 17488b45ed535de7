// Engine: what goes back to the broker.

#include <algorithm>

#include "sdk/cpp/engine.h"

namespace tocsin::sdk::internal {
namespace {

// Of emitted events in one frame, before the last answer; one alone may have kEmittedBytesMax.
constexpr std::size_t kFrameBytesMax = std::size_t{1} << 20;

// Sorted handles to inclusive ranges.
void AddRanges(std::vector<std::uint64_t>& handles, ::tocsin::v1::Answers* answers) {
  if (!std::is_sorted(handles.begin(), handles.end())) std::sort(handles.begin(), handles.end());
  ::tocsin::v1::Range* range = nullptr;
  for (const std::uint64_t handle : handles) {
    if (range != nullptr && handle == range->last() + 1) {
      range->set_last(handle);
    } else {
      range = answers->add_acked();
      range->set_first(handle);
      range->set_last(handle);
    }
  }
}

// Settles nothing, because the lease ended, but tells the broker that this worker is no longer busy
// with the delivery: that frees its credit.
::tocsin::v1::Answer StaleAnswer(const Delivery& delivery) {
  ::tocsin::v1::Answer answer;
  answer.set_handle(delivery.handle);
  answer.set_token(delivery.token);
  answer.mutable_retry()->set_code("cancelled");
  answer.mutable_retry()->set_message("its lease ended here");
  return answer;
}

::tocsin::v1::Answer ToAnswer(Running& running, Result&& result) {
  ::tocsin::v1::Answer answer;
  answer.set_handle(running.delivery.handle);
  answer.set_token(running.delivery.token);
  switch (result.kind) {
    case Result::Kind::kAck:
      answer.mutable_ack();
      break;
    case Result::Kind::kRetry:
      answer.mutable_retry()->set_after_ms(
          static_cast<std::uint64_t>(std::max<std::int64_t>(result.after.count(), 0)));
      answer.mutable_retry()->set_code(CleanText(result.code));
      answer.mutable_retry()->set_message(CleanText(result.message));
      return answer;  // the next attempt emits again
    case Result::Kind::kReject:
      answer.mutable_reject()->set_reason(CleanText(result.message));
      break;
    case Result::Kind::kDrop:
      answer.mutable_drop()->set_reason(CleanText(result.message));
      break;
  }
  for (std::string& event : running.emitted) {
    answer.add_emitted(std::move(event));
  }
  return answer;
}

}  // namespace

void Engine::Cancel(const ::tocsin::v1::Cancel& cancel) {
  const std::set<std::uint64_t> handles(cancel.handles().begin(), cancel.handles().end());
  const std::lock_guard lock(mutex_);
  for (const auto& function : functions_) {
    std::erase_if(function->waiting, [&](const Delivery& delivery) {
      if (!handles.contains(delivery.handle)) {
        return false;
      }
      others_.push_back(StaleAnswer(delivery));
      return true;
    });
  }
  for (Running* running = first_running_; running != nullptr; running = running->next) {
    if (running->session == session_ && handles.contains(running->delivery.handle) &&
        !running->cancelled.exchange(true) && running->on_cancel) {
      running->on_cancel();
    }
  }
  WakeWriterLocked();
}

std::uint64_t Engine::StartedThroughLocked() const {
  std::uint64_t lowest = last_handle_ + 1;
  for (const auto& function : functions_) {
    if (!function->waiting.empty()) {
      lowest = std::min(lowest, function->waiting.front().handle);
    }
  }
  return lowest - 1;
}

bool Engine::TakeAnswers(::tocsin::v1::Answers* answers) {
  std::vector<std::uint64_t> acked;
  {
    const std::lock_guard lock(mutex_);
    const std::uint64_t started = StartedThroughLocked();
    if (acked_.empty() && others_.empty() && started == started_reported_) {
      return false;
    }
    acked.swap(acked_);
    // Bounded, because a broker receives frames only up to a size; the next frame takes the rest.
    std::size_t taken = 0;
    for (std::size_t bytes = 0; taken < others_.size() && bytes < kFrameBytesMax; ++taken) {
      for (const std::string& event : others_[taken].emitted()) {
        bytes += event.size();
      }
      *answers->add_others() = std::move(others_[taken]);
    }
    others_.erase(others_.begin(), others_.begin() + static_cast<std::ptrdiff_t>(taken));
    started_reported_ = started;
    answers->set_started_through(started);
  }
  AddRanges(acked, answers);
  return true;
}

bool Engine::HasAnswers() {
  const std::lock_guard lock(mutex_);
  return !acked_.empty() || !others_.empty() || StartedThroughLocked() != started_reported_;
}

void Engine::ExtendLocked(Delivery& delivery, TimePoint now) {
  delivery.leased = now;
  ::tocsin::v1::Answer answer;
  answer.set_handle(delivery.handle);
  answer.set_token(delivery.token);
  answer.mutable_extend()->set_by_ms(0);  // by the trigger's timeout
  others_.push_back(std::move(answer));
}

TimePoint Engine::RenewWaiting(TimePoint now) {
  const std::lock_guard lock(mutex_);
  if (now < renew_due_) return renew_due_;
  renew_due_ = TimePoint::max();
  for (const auto& function : functions_) {
    for (Delivery& delivery : function->waiting) {
      if (now >= delivery.LeasePart(2)) ExtendLocked(delivery, now);
      renew_due_ = std::min(renew_due_, delivery.LeasePart(2));
    }
  }
  return renew_due_;
}

bool Engine::CloseIfIdle() {
  const std::lock_guard lock(mutex_);
  for (Running* running = first_running_; running != nullptr; running = running->next) {
    if (running->session == session_) return false;
  }
  closed_ = acked_.empty() && others_.empty() &&
            std::all_of(functions_.begin(), functions_.end(),
                        [](const auto& function) { return function->waiting.empty(); });
  return closed_;
}

// `result` null: acked.
void Engine::FinishLocked(Running& running, Result* result) {
  RemoveRunningLocked(running);
  if (!connected_ || running.session != session_) {
    return;
  }
  if (running.sent_more) {  // an extension after the outcome would only be stale
    std::erase_if(others_, [&running](const ::tocsin::v1::Answer& answer) {
      return answer.handle() == running.delivery.handle;
    });
  }
  if (running.cancelled) {
    others_.push_back(StaleAnswer(running.delivery));
  } else if ((result == nullptr || result->kind == Result::Kind::kAck) && running.emitted.empty()) {
    acked_.push_back(running.delivery.handle);
  } else {
    others_.push_back(ToAnswer(running, result == nullptr ? Ack() : std::move(*result)));
  }
}

void Engine::SendAnswer(Running& running, ::tocsin::v1::Answer answer) {
  const std::lock_guard lock(mutex_);
  if (!connected_ || running.session != session_ || running.cancelled) {
    return;
  }
  running.sent_more = true;
  others_.push_back(std::move(answer));
  WakeWriterLocked();
}

}  // namespace tocsin::sdk::internal

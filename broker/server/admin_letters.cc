#include "broker/server/admin_letters.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "broker/base/mutex.h"
#include "broker/base/status.h"
#include "broker/server/grpc_auth.h"

namespace tocsin {
namespace {

const grpc::Status& Stopping() {
  static const auto* status =
      new grpc::Status(grpc::StatusCode::UNAVAILABLE, "the broker is stopping");
  return *status;
}

bool NeedsContent(const v1::LetterFilter& filter) {
  return !filter.reason().empty() || !filter.key().empty() || filter.since_us() != 0 ||
         filter.until_us() != 0;
}

bool ContentMatches(const v1::LetterFilter& filter, const Letter& letter) {
  const std::int64_t died_us = letter.died.time_since_epoch().count();
  return (filter.reason().empty() || filter.reason() == LetterReasonName(letter.reason)) &&
         (filter.key().empty() || filter.key() == letter.key) &&
         (filter.since_us() == 0 || died_us >= filter.since_us()) &&
         (filter.until_us() == 0 || died_us < filter.until_us());
}

using Summaries = std::vector<LetterSummary>;

// Gathers the open letters of every partition that pass by id and trigger, in order of id.
void GatherSummaries(Shards& shards, const v1::LetterFilter& filter,
                     std::function<void(Summaries)> done) {
  struct Gathering {
    Mutex mutex;
    std::size_t open ABSL_GUARDED_BY(mutex) = 0;
    Summaries found ABSL_GUARDED_BY(mutex);
    v1::LetterFilter filter;
    absl::flat_hash_set<std::string> ids;
    std::function<void(Summaries)> done;
  };
  auto gathering = std::make_shared<Gathering>();
  gathering->filter = filter;
  gathering->ids.insert(filter.ids().begin(), filter.ids().end());
  gathering->done = std::move(done);
  const std::uint32_t partitions = shards.partition_count();
  {
    MutexLock lock(gathering->mutex);
    gathering->open = partitions;
  }
  for (std::uint32_t number = 0; number < partitions; ++number) {
    shards.Post(PartitionId(number), [gathering](Partition& partition) {
      Summaries letters = partition.OpenLetters();
      std::erase_if(letters, [&](const LetterSummary& letter) {
        const std::string& trigger = gathering->filter.trigger();
        if (!trigger.empty() && letter.trigger != trigger) return true;
        return !gathering->ids.empty() && !gathering->ids.contains(FormatDeliveryId(letter.id));
      });
      Summaries all;
      {
        MutexLock lock(gathering->mutex);
        std::move(letters.begin(), letters.end(), std::back_inserter(gathering->found));
        if (--gathering->open > 0) return;
        all = std::move(gathering->found);
      }
      std::sort(all.begin(), all.end(),
                [](const LetterSummary& a, const LetterSummary& b) { return a.id < b.id; });
      gathering->done(std::move(all));
    });
  }
}

void FillLetter(const Letter& letter, const LetterSummary& summary, bool with_event,
                v1::Letter& out) {
  out.set_id(FormatDeliveryId(summary.id));
  out.set_trigger(letter.trigger);
  out.set_reason(std::string(LetterReasonName(letter.reason)));
  out.set_message(letter.message);
  out.set_key(letter.key);
  out.set_source(letter.source);
  out.set_lane(letter.lane);
  out.set_config_hash(letter.config_hash);
  out.set_died_us(letter.died.time_since_epoch().count());
  out.set_attempts(letter.attempts);
  out.set_parked(summary.parked);
  for (const AttemptNote& note : letter.history) {
    v1::AttemptRecord& attempt = *out.add_history();
    attempt.set_attempt(note.attempt);
    attempt.set_at_us(note.at.time_since_epoch().count());
    attempt.set_code(note.code);
    attempt.set_message(note.message);
    attempt.set_worker_died(note.worker_died);
  }
  EventView view;
  if (letter.reason != LetterReason::kUndecodable && ParseEvent(letter.event, view).ok()) {
    out.set_event_type(std::string(view.type));
    out.set_event_source(std::string(view.source));
    out.set_event_id(std::string(view.id));
  }
  if (with_event) out.set_event(letter.event);
}

class LetterLister : public std::enable_shared_from_this<LetterLister> {
 public:
  LetterLister(Shards& shards, const v1::ListLettersRequest& request,
               const std::atomic<bool>& draining, std::shared_ptr<WriteStream<v1::Letter>> stream)
      : shards_(shards), request_(request), draining_(draining), stream_(std::move(stream)) {}

  void Start() {
    GatherSummaries(shards_, request_.filter(), [self = shared_from_this()](Summaries letters) {
      self->letters_ = std::move(letters);
      self->Next();
    });
  }

 private:
  void Next() {
    if (draining_.load()) return stream_->Finish(Stopping());
    const std::uint32_t limit = request_.filter().limit();
    if (index_ == letters_.size() || (limit > 0 && written_ == limit) || stream_->cancelled()) {
      return stream_->Finish(grpc::Status::OK);
    }
    const LetterSummary& summary = letters_[index_++];
    shards_.Post(summary.id.partition, [self = shared_from_this(), &summary](Partition& partition) {
      partition.ReadLetter(summary.id, [self, &summary](absl::StatusOr<Letter> letter) {
        self->OnRead(summary, std::move(letter));
      });
    });
  }

  void OnRead(const LetterSummary& summary, absl::StatusOr<Letter> letter) {
    v1::Letter out;
    if (letter.ok()) {
      if (!ContentMatches(request_.filter(), *letter)) return Next();
      FillLetter(*letter, summary, request_.with_event(), out);
    } else {
      // Closed meanwhile: it is no open letter any more. Unreadable: shown with the reason.
      if (absl::IsNotFound(letter.status()) || NeedsContent(request_.filter())) return Next();
      out.set_id(FormatDeliveryId(summary.id));
      out.set_trigger(summary.trigger);
      out.set_parked(summary.parked);
      out.set_message(fmt::format("cannot be read: {}", MessageOf(letter.status())));
    }
    ++written_;
    stream_->Write(std::move(out), [self = shared_from_this()](bool) { self->Next(); });
  }

  Shards& shards_;
  const v1::ListLettersRequest request_;
  const std::atomic<bool>& draining_;
  const std::shared_ptr<WriteStream<v1::Letter>> stream_;
  Summaries letters_;
  std::size_t index_ = 0;
  std::size_t written_ = 0;
};

class LetterCloser : public std::enable_shared_from_this<LetterCloser> {
 public:
  LetterCloser(Shards& shards, const v1::CloseLettersRequest& request, Executor& executor,
               const Clock& clock, const std::atomic<bool>& draining,
               std::shared_ptr<WriteStream<v1::CloseLettersProgress>> stream)
      : shards_(shards),
        request_(request),
        executor_(executor),
        clock_(clock),
        draining_(draining),
        stream_(std::move(stream)) {}

  void Start() {
    GatherSummaries(shards_, request_.filter(), [self = shared_from_this()](Summaries letters) {
      self->letters_ = std::move(letters);
      self->Select();
    });
  }

 private:
  bool Ended() {
    if (draining_.load()) {
      stream_->Finish(Stopping());
      return true;
    }
    if (stream_->cancelled()) {
      stream_->Finish(grpc::Status::OK);
      return true;
    }
    return false;
  }

  // First all are selected, so that every progress names the total.
  void Select() {
    const v1::LetterFilter& filter = request_.filter();
    const std::size_t limit = filter.limit() == 0 ? letters_.size() : filter.limit();
    if (!NeedsContent(filter)) {
      for (const LetterSummary& letter : letters_) {
        if (selected_.size() < limit) selected_.push_back(letter.id);
      }
      return Begin();
    }
    if (Ended()) return;
    if (index_ == letters_.size() || selected_.size() == limit) return Begin();
    const DeliveryId id = letters_[index_++].id;
    shards_.Post(id.partition, [self = shared_from_this(), id](Partition& partition) {
      partition.ReadLetter(id, [self, id](absl::StatusOr<Letter> letter) {
        if (letter.ok() && ContentMatches(self->request_.filter(), *letter)) {
          self->selected_.push_back(id);
        }
        self->Select();
      });
    });
  }

  void Begin() {
    index_ = 0;
    begun_ = clock_.Monotonic();
    if (!selected_.empty()) return Next();
    // So that the caller sees a total also when there is nothing to do.
    stream_->Write(v1::CloseLettersProgress(),
                   [self = shared_from_this()](bool) { self->stream_->Finish(grpc::Status::OK); });
  }

  void Next() {
    if (index_ == selected_.size()) return stream_->Finish(grpc::Status::OK);
    if (Ended()) return;
    const DeliveryId id = selected_[index_++];
    if (request_.dry_run()) return Tell(id, absl::OkStatus());
    shards_.Post(id.partition, [self = shared_from_this(), id](Partition& partition) {
      auto done = [self, id](const absl::Status& status) { self->Tell(id, status); };
      if (self->request_.action() == v1::CloseLettersRequest::REDRIVE) {
        partition.Redrive(id, std::move(done));
      } else {
        partition.Discard(id, std::move(done));
      }
    });
  }

  void Tell(const DeliveryId& id, const absl::Status& status) {
    v1::CloseLettersProgress progress;
    if (status.ok()) ++closed_;
    progress.set_done(closed_);
    progress.set_total(selected_.size());
    progress.set_id(FormatDeliveryId(id));
    if (!status.ok()) progress.set_error(std::string(MessageOf(status)));
    stream_->Write(std::move(progress), [self = shared_from_this()](bool) { self->Pause(); });
  }

  void Pause() {
    if (request_.dry_run() || !(request_.rate() > 0)) return Next();
    // Against the beginning, so that slow steps do not lower the rate.
    const auto due = begun_ + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(
                                  static_cast<double>(index_) / request_.rate()));
    WaitUntil(due);
  }

  // In short steps, so that a call that ended or a stopping broker does not wait for a slow rate.
  void WaitUntil(Instant due) {
    constexpr Duration kStep = std::chrono::milliseconds(200);
    if (Ended()) return;
    const Instant now = clock_.Monotonic();
    if (now >= due) return Next();
    executor_.PostAt(std::min(due, now + kStep),
                     [self = shared_from_this(), due] { self->WaitUntil(due); });
  }

  Shards& shards_;
  const v1::CloseLettersRequest request_;
  Executor& executor_;
  const Clock& clock_;
  const std::atomic<bool>& draining_;
  const std::shared_ptr<WriteStream<v1::CloseLettersProgress>> stream_;
  Summaries letters_;
  std::vector<DeliveryId> selected_;
  std::size_t index_ = 0;
  std::uint64_t closed_ = 0;
  Instant begun_{};
};

// The error in a filter that would otherwise select nothing and say nothing.
absl::Status CheckFilter(const v1::LetterFilter& filter) {
  for (const std::string& id : filter.ids()) {
    const absl::StatusOr<DeliveryId> parsed = ParseDeliveryId(id);
    if (!parsed.ok()) return Annotate(parsed.status(), fmt::format("letter `{}`", id));
  }
  return absl::OkStatus();
}

}  // namespace

void ListLettersTo(Shards& shards, const v1::ListLettersRequest& request,
                   const std::atomic<bool>& draining,
                   std::shared_ptr<WriteStream<v1::Letter>> stream) {
  const absl::Status checked = CheckFilter(request.filter());
  if (!checked.ok()) return stream->Finish(ToGrpcStatus(checked));
  std::make_shared<LetterLister>(shards, request, draining, std::move(stream))->Start();
}

void CloseLettersTo(Shards& shards, const v1::CloseLettersRequest& request, Executor& executor,
                    const Clock& clock, const std::atomic<bool>& draining,
                    std::shared_ptr<WriteStream<v1::CloseLettersProgress>> stream) {
  absl::Status checked = CheckFilter(request.filter());
  if (checked.ok() && request.action() != v1::CloseLettersRequest::REDRIVE &&
      request.action() != v1::CloseLettersRequest::DISCARD) {
    checked = absl::InvalidArgumentError("`action` must be redrive or discard");
  }
  if (!checked.ok()) return stream->Finish(ToGrpcStatus(checked));
  std::make_shared<LetterCloser>(shards, request, executor, clock, draining, std::move(stream))
      ->Start();
}

}  // namespace tocsin

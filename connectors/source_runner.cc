#include "connectors/source_runner.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/mutex.h"
#include "broker/base/status.h"

namespace tocsin {

std::string_view SourceStateName(SourceState state) {
  switch (state) {
    case SourceState::kAttaching:
      return "attaching";
    case SourceState::kConnecting:
      return "connecting";
    case SourceState::kRunning:
      return "running";
    case SourceState::kFull:
      return "broker_full";
    case SourceState::kWaiting:
      return "waiting";
    case SourceState::kFinished:
      return "finished";
    case SourceState::kStopped:
      return "stopped";
  }
  return "";
}

// Lives as long as a callback of it may run: each holds it.
struct SourceRunner::Impl : std::enable_shared_from_this<SourceRunner::Impl> {
  Impl(const SourceRunnerOptions& options_in, Ports ports_in)
      : options(options_in), ports(std::move(ports_in)) {}

  void Attach();
  void Connect(const LaneState& restored);
  void Go();
  void Poll();
  void OnPolled(absl::StatusOr<SourceBatch> polled);
  void Append();
  void OnAppended(const absl::Status& status);
  void Commit();
  void OnCommitted(const absl::Status& status);
  void OnSettled(std::vector<LaneEventRef> events, SettledAs as);
  void Fail(const absl::Status& status);
  void WaitAndAttach();
  void ShowNote();
  void FinishStop();
  bool Idle() const { return !attaching && !connecting && !polling && !appending && !committing; }
  void SetState(SourceState state);
  template <typename Change>
  void Update(Change change) {
    MutexLock lock(mutex);
    change(shown);
  }

  // Set at construction.
  const SourceRunnerOptions options;
  Ports ports;

  // Of the executor.
  std::deque<SourceBatch> batches;  // the first is with the broker or waits for room
  std::vector<std::pair<std::vector<LaneEventRef>, SettledAs>> early;  // settled before connected
  bool attaching = false, connecting = false, polling = false, appending = false;
  bool committing = false, connected = false, finished = false, stopping = false;
  bool waiting = false;  // a timer will go on, unless stopped
  bool failed = false;   // since the last OK report
  std::string last_note;
  std::uint32_t failures = 0;
  SourcePosition durable;
  bool commit_due = false;
  bool commit_failed = false;      // the last one
  bool committed_at_stop = false;  // tried once
  absl::AnyInvocable<void()> stop_done;

  mutable Mutex mutex;
  SourceStatus shown ABSL_GUARDED_BY(mutex);
};

void SourceRunner::Impl::SetState(SourceState state) {
  Update([state](SourceStatus& status) { status.state = state; });
}

void SourceRunner::Impl::Attach() {
  if (stopping) return FinishStop();
  attaching = true;
  SetState(SourceState::kAttaching);
  ports.sink.Attach(
      ports.connector.traits(),
      [self = weak_from_this()](std::vector<LaneEventRef> events, SettledAs as) {
        if (const auto alive = self.lock()) alive->OnSettled(std::move(events), as);
      },
      [self = shared_from_this()](const absl::StatusOr<LaneState>& restored) {
        self->attaching = false;
        if (self->stopping) return self->FinishStop();
        if (!restored.ok()) return self->Fail(restored.status());
        self->Connect(*restored);
      });
}

void SourceRunner::Impl::Connect(const LaneState& restored) {
  connecting = true;
  SetState(SourceState::kConnecting);
  Update([&restored](SourceStatus& status) { status.position = restored.position.value; });
  ports.connector.Connect(restored, [self = shared_from_this()](const absl::Status& status) {
    self->connecting = false;
    if (self->stopping) return self->FinishStop();
    if (!status.ok()) return self->Fail(status);
    self->connected = true;
    self->Go();
  });
}

// Connected: forgets the failure, hears what was settled meanwhile, and polls.
void SourceRunner::Impl::Go() {
  SetState(SourceState::kRunning);
  Update([](SourceStatus& status) { status.last_error.clear(); });
  if (failed) {
    failed = false;
    ports.report(absl::OkStatus());
  }
  for (auto& [events, as] : std::exchange(early, {})) ports.connector.Settled(events, as);
  Poll();
}

void SourceRunner::Impl::Poll() {
  // One batch with the broker, one ready behind it.
  if (polling || finished || !connected || stopping || batches.size() >= 2) return;
  polling = true;
  ports.connector.Poll(options.poll_wait,
                       [self = shared_from_this()](absl::StatusOr<SourceBatch> polled) {
                         self->polling = false;
                         self->OnPolled(std::move(polled));
                       });
}

void SourceRunner::Impl::OnPolled(absl::StatusOr<SourceBatch> polled) {
  if (stopping) return FinishStop();
  if (!connected) return WaitAndAttach();  // an append failed meanwhile: it is given again
  if (absl::IsOutOfRange(polled.status())) {
    finished = true;
    if (batches.empty()) SetState(SourceState::kFinished);
    return;
  }
  if (!polled.ok()) return Fail(polled.status());
  failures = 0;
  ShowNote();
  if (!polled->empty()) {
    batches.push_back(*std::move(polled));
    if (batches.size() == 1) Append();
  }
  Poll();
}

void SourceRunner::Impl::Append() {
  appending = true;
  ports.sink.Append(batches.front(), [self = shared_from_this()](const absl::Status& status) {
    self->appending = false;
    self->OnAppended(status);
  });
}

void SourceRunner::Impl::OnAppended(const absl::Status& status) {
  if (absl::IsResourceExhausted(status) && !stopping) {
    Update([&status](SourceStatus& shown_status) {
      shown_status.state = SourceState::kFull;
      shown_status.last_error = std::string(MessageOf(status));
      ++shown_status.refused;
    });
    waiting = true;
    ports.executor.PostAt(ports.clock.Monotonic() + options.full_retry,
                          [self = shared_from_this()] {
                            self->waiting = false;
                            if (!self->stopping) self->Append();
                          });
    return;
  }
  if (!status.ok() && stopping) return FinishStop();
  if (!status.ok()) {
    // Whether it is durable is not known: the lane's state says so when it is attached again.
    return Fail(status);
  }
  const SourceBatch& batch = batches.front();
  durable = batch.position;
  commit_due = true;
  Update([&](SourceStatus& shown_status) {
    shown_status.events += batch.events.size();
    shown_status.undecodable += batch.undecodable.size();
    shown_status.position = durable.value;
    if (shown_status.state == SourceState::kFull) {
      shown_status.state = SourceState::kRunning;
      shown_status.last_error.clear();
    }
  });
  batches.pop_front();
  if (stopping) return FinishStop();
  if (!connected) {  // the connector failed meanwhile
    batches.clear();
    return WaitAndAttach();
  }
  Commit();
  if (!batches.empty()) Append();
  if (finished && batches.empty()) SetState(SourceState::kFinished);
  Poll();
}

void SourceRunner::Impl::Commit() {
  if (committing || !commit_due) return;
  committing = true;
  commit_due = false;
  ports.connector.Commit(durable, [self = shared_from_this()](const absl::Status& status) {
    self->committing = false;
    self->OnCommitted(status);
  });
}

void SourceRunner::Impl::OnCommitted(const absl::Status& status) {
  if (!status.ok()) {
    // Not lost: the next Commit() says more than this one did.
    Update([&status](SourceStatus& shown_status) {
      ++shown_status.errors;
      shown_status.last_error = std::string(MessageOf(status));
    });
  } else if (commit_failed && connected) {
    Update([](SourceStatus& shown_status) {
      if (shown_status.state == SourceState::kRunning) shown_status.last_error.clear();
    });
  }
  commit_failed = !status.ok();
  if (stopping) return FinishStop();
  if (!connected) return WaitAndAttach();
  Commit();
}

void SourceRunner::Impl::OnSettled(std::vector<LaneEventRef> events, SettledAs as) {
  if (stopping) return;
  if (connected) {
    ports.connector.Settled(events, as);
  } else {
    early.emplace_back(std::move(events), as);
  }
}

void SourceRunner::Impl::Fail(const absl::Status& status) {
  connected = false;
  failed = true;
  early.clear();  // told again by the next Attach()
  Update([&status](SourceStatus& shown_status) {
    shown_status.state = SourceState::kWaiting;
    ++shown_status.errors;
    shown_status.last_error = std::string(MessageOf(status));
  });
  ports.report(status);
  WaitAndAttach();
}

void SourceRunner::Impl::ShowNote() {
  std::string note = ports.connector.report().note;
  if (note == last_note) return;
  last_note = std::move(note);
  if (!last_note.empty() && ports.note) ports.note(last_note);
}

// Once nothing is under way: a batch that is with the broker may still become durable.
void SourceRunner::Impl::WaitAndAttach() {
  if (!Idle() || connected || waiting) return;
  batches.clear();
  commit_due = commit_failed = false;
  finished = false;
  Duration cap = options.backoff_min;
  for (std::uint32_t i = 0; i < failures && cap < options.backoff_max; ++i) cap *= 2;
  cap = std::min(cap, options.backoff_max);
  ++failures;
  const Duration wait = cap / 2 + Duration(static_cast<std::int64_t>(ports.random.Below(
                                      static_cast<std::uint64_t>(cap.count() / 2) + 1)));
  waiting = true;
  ports.executor.PostAt(ports.clock.Monotonic() + wait, [self = shared_from_this()] {
    self->waiting = false;
    if (!self->stopping) self->Attach();
  });
}

void SourceRunner::Impl::FinishStop() {
  if (!Idle() || stop_done == nullptr) return;
  // What became durable last is confirmed, so that whoever goes on from there repeats nothing.
  if (connected && (commit_due || commit_failed) && !std::exchange(committed_at_stop, true)) {
    commit_due = true;
    return Commit();
  }
  ports.sink.Detach([self = shared_from_this()](const absl::Status&) {
    self->SetState(SourceState::kStopped);
    auto done = std::move(self->stop_done);
    self->stop_done = nullptr;
    if (done) done();
  });
}

SourceRunner::SourceRunner(const SourceRunnerOptions& options, Ports ports)
    : impl_(std::make_shared<Impl>(options, std::move(ports))) {}

SourceRunner::~SourceRunner() = default;

void SourceRunner::Start() {
  impl_->ports.executor.Post([impl = impl_] { impl->Attach(); });
}

void SourceRunner::Stop(absl::AnyInvocable<void()> done) {
  impl_->ports.connector.Cancel();
  impl_->ports.executor.Post([impl = impl_, done = std::move(done)]() mutable {
    TOCSIN_CHECK(!impl->stopping, "a source is stopped twice");
    impl->stopping = true;
    impl->stop_done = std::move(done);
    if (impl->appending) impl->ports.sink.GiveUp();
    impl->FinishStop();
  });
}

SourceStatus SourceRunner::status() const {
  MutexLock lock(impl_->mutex);
  return impl_->shown;
}

}  // namespace tocsin

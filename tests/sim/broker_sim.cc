#include "tests/sim/broker_sim.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "tests/sim/broker_sim_world.h"

namespace tocsin {
namespace broker_sim {

void Sim::CheckBooks(bool drained) {
  if (!opened_) return;
  bool came = false;
  life_->shards.Snapshots([&](const std::vector<PartitionSnapshot>& snapshots) {
    came = true;
    for (const PartitionSnapshot& snapshot : snapshots) {
      for (const TriggerBooks& books : snapshot.triggers) {
        if (books.pending > books.matched || (books.expired > 0 && !expiry_)) {
          Fail(fmt::format("{} on {}: {} matched, {} pending, {} expired", books.name,
                           snapshot.id.value(), books.matched, books.pending, books.expired));
        }
        if (drained && books.pending > 0 && books.parked_keys == 0 &&
            books.state == TriggerState::kActive) {
          Fail(
              fmt::format("{} on {}: {} pending after quiesce (ready {}, leased {}, delayed {}, "
                          "skipped keys {}, floor {}, end {})",
                          books.name, snapshot.id.value(), books.pending, books.ready, books.leased,
                          books.delayed, books.skipped_keys, books.floor.value(),
                          snapshot.durable_end.value()));
        }
      }
    }
  });
  PumpAll();
  if (!came) Fail("no snapshot came");
}

void Sim::Letters(bool redrive_all) {
  if (!opened_) return;
  for (std::uint32_t id = 0; id < kPartitions; ++id) {
    life_->shards.Post(PartitionId(id), [this, redrive_all](Partition& partition) {
      for (const LetterSummary& letter : partition.OpenLetters()) {
        ++result_.letters;
        if (letter.position.value() == 0 && !redrive_all) continue;
        if (letter.id.trigger == kNoTrigger) {  // there is nothing to deliver
          partition.Discard(letter.id, [](const absl::Status&) {});
          continue;
        }
        if (!redrive_all && !Chance(50)) continue;
        if (!redrive_all && Chance(20)) {
          DiscardLetter(partition, letter);
        } else {
          ++result_.redriven;
          partition.Redrive(letter.id,
                            [this, &partition, id = letter.id](const absl::Status& status) {
                              // What defined its trigger may be lost: there is nobody to deliver it
                              // to.
                              if (absl::IsFailedPrecondition(status) && log_damaged_) {
                                partition.Discard(id, [](const absl::Status&) {});
                              }
                            });
        }
      }
    });
  }
}

// Its event may never have been delivered: only the letter says which it is.
void Sim::DiscardLetter(Partition& partition, const LetterSummary& summary) {
  partition.ReadLetter(summary.id, [this, &partition, summary](const absl::StatusOr<Letter>& read) {
    EventView view;
    if (!read.ok() || !ParseEvent(read->event, view).ok()) return;
    std::erase_if(parked_, [id = FormatDeliveryId(summary.id)](const auto& parked) {
      return parked.second.id == id;
    });
    dropped_.insert(fmt::format("{} {}", PlanOf(summary.trigger), view.id));
    partition.Discard(summary.id, [](const absl::Status&) {});
  });
}

// Nothing is pending, and no letter is open.
bool Sim::Drained() {
  bool drained = true;
  life_->shards.Snapshots([&](const std::vector<PartitionSnapshot>& snapshots) {
    for (const PartitionSnapshot& snapshot : snapshots) {
      if (snapshot.open_letters > 0 || snapshot.outgoing > 0) drained = false;
      if (snapshot.delayed_events + snapshot.dynamic_schedules > 0) drained = false;
      for (const TriggerBooks& books : snapshot.triggers) {
        if (books.pending > 0) drained = false;
      }
    }
  });
  PumpAll();
  return drained && (trims_ || !Replaying());  // a full log keeps them waiting
}

void Sim::Quiesce() {
  storage_->Heal();
  held_ = false;
  breaks_ = false;
  detached_.clear();
  if (storage_->faulty()) Crash();
  if (!result_.failure.empty()) return;
  PumpAll();
  if (!opened_ && result_.failure.empty()) return Fail("the broker did not open");
  CheckCredit();
  NoteSchedules();
  schedules_ = false;
  for (const auto& worker : workers_) {
    if (worker->session != nullptr) life_->dispatcher.Detach(worker->session, false);
    worker->session.reset();  // they hold each other
  }
  workers_.clear();
  for (const auto& ghost : ghosts_) ghost->session.reset();
  ghosts_.clear();
  leased_.clear();
  // What is pending of it is to be delivered, too.
  if (routes_) api_told_ = "last";
  quiet_ = true;
  ++api_changes_;
  life_->shards.ApplyPlan(MakePlan());
  for (std::uint32_t id = 0; id < kPartitions; ++id) {
    life_->shards.Post(PartitionId(id), [this](Partition& partition) {
      for (const TriggerPlan& spec : Plans()) (void)partition.SetPaused(NameOf(spec.name), false);
    });
  }
  PumpAll();
  EndDelays();
  deaths_ = false;
  Attach();
  int idle = 0;  // rounds since something was delivered: time passes in them alone
  for (int round = 0; round < 40'000 && result_.failure.empty(); ++round) {
    PumpAll();
    bool busy = false;
    for (const auto& worker : workers_) {
      while (!worker->held.empty()) {
        busy = true;
        const SimWorker::Held held = worker->held.front();
        worker->held.pop_front();
        AnswerOne(*worker, held, true);
      }
    }
    PumpAll();
    if (options_.trace) fmt::print("round {} busy {}\n", round, busy);
    idle = busy ? 0 : idle + 1;
    if (!busy) {
      if (round % 20 == 19) {
        Letters(true);
        FireRest();
      }
      // Not before what waits for its time has had some.
      const bool sent = SendRest();
      if (round % 20 == 10 && idle > 3 && sent && Drained()) break;
      clock_.Advance(std::chrono::milliseconds(500));
      leased_.clear();
    }
  }
  if (result_.failure.empty()) CheckBooks(true);
  if (result_.failure.empty() && !Drained()) FailAtLetters();
  for (const SimStream& stream : streams_) {
    if (!stream.items.empty() && !trims_) Fail("what a stream sends is refused to the end");
  }
  if (result_.failure.empty()) CheckLog();
  if (result_.failure.empty()) CheckReplays();
  if (result_.failure.empty()) CheckAnswered();
}

// Whether nothing was left of the streams. A full log may refuse them to the end.
bool Sim::SendRest() {
  bool left = false;
  for (SimStream& stream : streams_) {
    if (stream.items.empty()) continue;
    left = true;
    PublishInStream(stream);
  }
  PumpAll();
  return !left || trims_;
}

void Sim::DrawRate(Random& random) {
  rate_.count = static_cast<std::uint32_t>(2 + random.Below(40));
}

void Sim::ChangeRate() {
  FillRate();
  DrawRate(random_);
  rate_left_ += 1 + 0.1 * rate_.count;  // what it goes on with is at most that
}

void Sim::FillRate() {
  const Instant now = clock_.Monotonic();
  rate_left_ += std::chrono::duration<double>(now - rate_at_).count() * rate_.count;
  rate_at_ = now;
}

// Nothing is on its way. What was granted may be read from the disk first, and then come in one go:
// what the rate keeps bounds what begins after a rest, over any span.
void Sim::NoteRest() {
  if (rated_.empty() || held_) return;
  FillRate();
  rate_left_ = std::min(rate_left_, 1 + 0.1 * rate_.count);
}

void Sim::CheckRate(std::string_view id) {
  Checked(SimCheck::kRate);
  FillRate();
  rate_left_ -= 1;
  // A batch goes as a whole.
  const double owed = rated_ == batched_ ? batch_.events_max - 1 : 0;
  if (rate_left_ < -owed - 1e-6) {
    Fail(fmt::format("{}: '{}' has begun more than {} a second", id, rated_, rate_.count));
  }
}

// Nothing is on its way: what a worker was granted is with it, or its credit shrinks for good.
void Sim::CheckCredit() {
  for (const SessionInfo& session : life_->dispatcher.Sessions()) {
    Checked(SimCheck::kCredit);
    if (session.granted == session.in_flight) continue;
    return Fail(fmt::format("worker session {} has {} in flight and was granted {}",
                            session.id.value(), session.in_flight, session.granted));
  }
}

void Sim::FailAtLetters() {
  std::string left = "after quiesce there is left:";
  for (std::uint32_t id = 0; id < kPartitions; ++id) {
    life_->shards.Post(PartitionId(id), [&left](Partition& partition) {
      for (const LetterSummary& letter : partition.OpenLetters()) {
        left +=
            fmt::format(" letter {} at {}", FormatDeliveryId(letter.id), letter.position.value());
        partition.Redrive(letter.id, [&left](const absl::Status& status) {
          left += fmt::format(" ({})", MessageOf(status));
        });
      }
      const PartitionSnapshot snapshot = partition.Snapshot();
      left += fmt::format(" {} emitted events, {} delayed ones, {} schedules", snapshot.outgoing,
                          snapshot.delayed_events, snapshot.dynamic_schedules);
      for (const TriggerBooks& books : snapshot.triggers) {
        if (books.pending == 0) continue;
        left += fmt::format(" {} of {} pending ({} parked keys, state {})", books.pending,
                            books.name, books.parked_keys, static_cast<int>(books.state));
      }
    });
  }
  PumpAll();
  Fail(left);
}

// Every answered event was acked by every trigger that was there all the time and wants it, if its
// answer was not to drop it and its letter was not discarded.
void Sim::CheckAnswered() {
  for (const auto& [number, ok] : answered_) {
    if (lost_events_.contains(fmt::format("e{}", number))) continue;
    if (log_damaged_ && deliver_.contains(number)) continue;  // its record may be damaged
    for (const TriggerPlan& spec : Plans()) {
      // Added later, it is given what is still stored.
      if (trims_ && spec.name == "late") continue;
      if (ever_detached_.contains(spec.name)) continue;
      if (spec.name == "some" && filter_ && number % 3 != 0) continue;
      const std::string name = fmt::format("{} e{}", spec.name, number);
      if (dropped_.contains(name)) continue;
      Checked(SimCheck::kAnsweredRan);
      if (!executed_events_.contains(name)) {
        return Fail(
            fmt::format("answered event e{} was never executed by '{}'", number, spec.name));
      }
    }
  }
}

// Most histories are short, so that there can be many: what they find is what many states find.
std::uint32_t Sim::DrawSteps() {
  const std::uint64_t kind = random_.Below(64);
  const auto drawn = static_cast<std::uint32_t>(kind < 54   ? 5 + random_.Below(30)
                                                : kind < 63 ? 36 + random_.Below(90)
                                                            : 400);
  return options_.steps > 0 ? options_.steps : drawn;
}

BrokerSimResult Sim::Run() {
  const std::array<bool*, kSimClasses.size()> classes = {
      &crashes_, &deaths_, &fails_,  &poison_,    &emits_,      &dups_,    &reloads_,   &full_,
      &letters_, &pauses_, &breaks_, &clock_set_, &schedules_,  &trims_,   &half_open_, &suspends_,
      &damage_,  &routes_, &delays_, &expiry_,    &streams_on_, &renames_, &rates_,     &batches_};
  // Without the classes that came later a seed is the history that it was.
  constexpr std::size_t kFirstClasses = 19;
  SeededRandom later(options_.seed ^ 0x72617465u);
  result_.steps = DrawSteps();
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const bool on = i < kFirstClasses ? Chance(i < 6 ? 75 : 50) : later.Below(100) < 30;
    *classes[i] = on && (options_.without >> i & 1) == 0;
  }
  damage_ = damage_ && options_.disk && Chance(50);
  renames_ = renames_ && !damage_;  // what defined a trigger may be lost with its name
  if (options_.canary == SimCanary::kLyingSync) storage_->LieAboutSyncs(true, false);
  if (options_.canary == SimCanary::kLyingDirSync) storage_->LieAboutSyncs(false, true);
  keys_ = 1 + random_.Below(8);
  filter_ = Chance(50);
  if (streams_on_ && later.Below(2) == 0) backlog_max_ = 1 + later.Below(8);
  if (rates_) {
    rated_ = Plans()[later.Below(3)].name;
    DrawRate(later);
  }
  if (batches_) {
    batched_ = Plans()[later.Below(2)].name;
    batch_.events_max = static_cast<std::uint32_t>(2 + later.Below(3));
    batch_.wait_max = std::chrono::milliseconds(1 + later.Below(1000));
  }
  detached_.insert("late");
  if (trims_) {
    log_bytes_max_ = storage_->small_log() * (1 + random_.Below(4));
    letter_bytes_max_ = storage_->small_log() / 2 * (1 + random_.Below(4));
  }
  Start();
  for (std::uint32_t step = 0; step < result_.steps && result_.failure.empty(); ++step) {
    if (broken_) Crash();
    if (!result_.failure.empty()) break;
    Step();
    if (Chance(60)) Pump(random_.Below(30));
  }
  if (result_.failure.empty()) Quiesce();
  executor_.Clear();
  storage_->DropTasks();
  for (const auto& worker : workers_) worker->session.reset();
  for (const auto& ghost : ghosts_) ghost->session.reset();
  result_.power_cuts = storage_->power_cuts();
  return result_;
}

void Sim::Step() {
  const std::uint64_t choice = random_.Below(100);
  if (choice < 25 && streams_on_ && Chance(30)) {
    PublishInStream(streams_[random_.Below(streams_.size())]);
  } else if (choice < 25) {
    Publish();
  } else if (choice < 55 && !workers_.empty()) {
    Answer(*workers_[random_.Below(workers_.size())]);
  } else if (choice < 60 && workers_.size() < 3) {
    Attach();
  } else if (choice < 63 && deaths_ && !workers_.empty()) {
    DetachWorker();
  } else if (choice < 65 && crashes_) {
    Crash();
  } else if (choice < 67 && renames_ && opened_ && (!reloads_ || Chance(50))) {
    Rename();
  } else if (choice < 67 && reloads_ && opened_) {
    Reload();
  } else if (choice < 69 && full_) {
    storage_->SetFull(Chance(50));
  } else if (choice < 70 && full_) {
    storage_->Hold(held_ = true);
  } else if (choice < 73 && full_) {
    storage_->Hold(held_ = false);
  } else if (choice < 75 && letters_) {
    Letters(false);
  } else if (choice < 77 && pauses_ && opened_) {
    const std::string name = NameOf(Plans()[random_.Below(Plans().size())].name);
    const bool paused = Chance(50);
    for (std::uint32_t id = 0; id < kPartitions; ++id) {
      life_->shards.Post(PartitionId(id), [name, paused](Partition& partition) {
        (void)partition.SetPaused(name, paused);
      });
    }
  } else if (choice < 78 && breaks_) {
    storage_->BreakSoon();
  } else if (choice < 79 && clock_set_) {
    clock_.StepWall(std::chrono::seconds(static_cast<std::int64_t>(random_.Below(7200)) - 3600));
  } else if (choice < 82) {
    Feed(random_.Below(lanes_.size()));
  } else if (choice < 86) {
    const Duration by = std::chrono::milliseconds(random_.Below(1500));
    // Leases end at the clock's word; what their holders say afterwards is stale.
    clock_.Advance(by);
    if (clock_.Monotonic() - last_expiry_check_ > std::chrono::seconds(3)) {
      last_expiry_check_ = clock_.Monotonic();
      leased_.clear();
    }
    Pump(1000);
  } else if (choice < 88) {
    CheckBooks(false);
  } else if (choice < 90 && !ghosts_.empty()) {
    GhostAnswers();
  } else if (choice < 91 && suspends_) {
    StandStill();
  } else if (choice < 93 && routes_ && opened_) {
    ChangeApi();
  } else if (choice < 94 && routes_ && opened_) {
    StartReplay();
  } else if (choice < 95 && routes_ && opened_) {
    RebasePlan();
  } else if (choice >= 95 && choice < 98 && delays_ && opened_) {
    Dynamic();
  } else {
    Pump(random_.Below(20));
  }
}

void Sim::DetachWorker() {
  const std::size_t index = random_.Below(workers_.size());
  const auto worker = workers_[index];
  for (const SimWorker::Held& held : worker->held) ForgetLease(held);
  life_->dispatcher.Detach(worker->session, Chance(30));
  workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(index));
  if (half_open_ && ghosts_.size() < 3) {
    ghosts_.push_back(worker);
  } else {
    worker->session.reset();
  }
}

void Sim::Reload() {
  const std::string& name = Plans()[random_.Below(Plans().size())].name;
  if (!detached_.erase(name)) {
    detached_.insert(name);
    ever_detached_.insert(name);
  }
  if (rates_ && !detached_.contains(rated_) && Chance(30)) ChangeRate();
  life_->shards.ApplyPlan(MakePlan());
  // A detached trigger's leases end unseen by their workers, when the plan gets there.
  for (std::uint32_t id = 0; id < kPartitions; ++id) {
    life_->shards.Post(PartitionId(id),
                       [this, scope = fmt::format("{}/{}/", id, name)](Partition&) {
                         std::erase_if(leased_, [&scope](const auto& lease) {
                           return lease.first.first.starts_with(scope);
                         });
                       });
  }
}

// Toggles, so that after a crash one of the two names is stored.
void Sim::Rename() {
  const std::string& name = Plans()[random_.Below(Plans().size())].name;
  if (detached_.contains(name) || ever_detached_.contains(name)) return;
  if (renamed_.erase(name) == 0) renamed_.insert(name);
  if (options_.trace) fmt::print("  rename to {}\n", NameOf(name));
  life_->shards.ApplyPlan(MakePlan());
}

// The machine is suspended (the wall clock goes on without the monotonic one), or the whole
// process stands still, as a virtual machine that is paused.
void Sim::StandStill() {
  const auto by = std::chrono::seconds(1 + random_.Below(3 * 3600));
  if (Chance(50)) {
    clock_.StepWall(by);
  } else {
    clock_.Advance(by);
    last_expiry_check_ = clock_.Monotonic();
    leased_.clear();
  }
}

}  // namespace broker_sim

BrokerSimResult RunBrokerSim(const BrokerSimOptions& options) {
  return broker_sim::Sim(options).Run();
}

}  // namespace tocsin

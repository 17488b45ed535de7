// What partitions have ready of triggers, and what the limits of the triggers keep back of it.

#include <algorithm>
#include <string>
#include <utility>

#include "broker/base/check.h"
#include "dispatch/dispatcher.h"
#include "dispatch/dispatcher_impl.h"

namespace tocsin {

void Dispatcher::Impl::LinkReady(Demand& demand) {
  TriggerState& trigger = *demand.trigger;
  FunctionPartition& fp = trigger.function->partitions[demand.partition];
  fp.function = trigger.function;
  fp.partition = demand.partition;
  demand.linked = &fp;
  fp.demands.PushBack(&demand);
  fp.ready += demand.ready;
  ++trigger.linked;
  WaitingChanged(fp);
}

void Dispatcher::Impl::Link(Demand& demand) {
  TriggerState& trigger = *demand.trigger;
  if (demand.linked == nullptr && !demand.blocked && demand.ready > 0) {
    if (trigger.Left(now) <= trigger.linked || !trigger.blocked.empty()) {
      demand.blocked = true;
      trigger.blocked.PushBack(&demand);
    } else {
      LinkReady(demand);
    }
  }
  if (demand.linked_alone == nullptr && demand.alone > 0) {
    FunctionPartition& fp = trigger.function->partitions[demand.partition];
    fp.function = trigger.function;
    fp.partition = demand.partition;
    demand.linked_alone = &fp;
    fp.alone.PushBack(&demand);
    ++trigger.function->alone_waiting;
  }
}

void Dispatcher::Impl::Unlink(Demand& demand) {
  if (demand.blocked) {
    demand.trigger->blocked.Remove(&demand);
    demand.blocked = false;
  }
  if (FunctionPartition* fp = std::exchange(demand.linked, nullptr); fp != nullptr) {
    fp->demands.Remove(&demand);
    fp->ready -= demand.ready;
    --demand.trigger->linked;
    WaitingChanged(*fp);
  }
  if (FunctionPartition* fp = std::exchange(demand.linked_alone, nullptr); fp != nullptr) {
    fp->alone.Remove(&demand);
    --fp->function->alone_waiting;
  }
}

void Dispatcher::Impl::SetDemand(Demand& demand, std::size_t ready, std::size_t alone) {
  if (demand.linked != nullptr && ready > 0) {  // keeps its place
    demand.linked->ready = demand.linked->ready - demand.ready + ready;
    demand.ready = ready;
  } else if (ready == 0 || demand.ready == 0) {
    if (demand.linked != nullptr || demand.blocked) {
      FunctionPartition* alone_in = std::exchange(demand.linked_alone, nullptr);
      Unlink(demand);
      demand.linked_alone = alone_in;
    }
    demand.ready = ready;
  } else {
    demand.ready = ready;  // blocked
  }
  if (alone == 0 && demand.linked_alone != nullptr) {
    demand.linked_alone->alone.Remove(&demand);
    --demand.linked_alone->function->alone_waiting;
    demand.linked_alone = nullptr;
  }
  demand.alone = alone;
  Link(demand);
}

// Concurrency or rate came free, or a bound rose: those that waited longest stand for it first.
void Dispatcher::Impl::Unblock(TriggerState& trigger, Wakes& wakes) {
  if (trigger.rate.Left(now) > 0) ForgetStarved(trigger);
  bool any = false;
  while (!trigger.blocked.empty() && trigger.Left(now) > trigger.linked) {
    Demand& demand = *trigger.blocked.front();
    trigger.blocked.Remove(&demand);
    demand.blocked = false;
    LinkReady(demand);
    any = true;
  }
  if (any) WakeWaiters(*trigger.function, nullptr, wakes);
  if (trigger.Left(now) > 0) {
    WakeAlone(*trigger.function, wakes);
  } else {
    NoteStarved(trigger, wakes);
  }
}

// One that its trigger's limits keep back.
const Demand* Dispatcher::Impl::Waiter(const TriggerState& trigger) {
  if (!trigger.blocked.empty()) return trigger.blocked.front();
  if (trigger.function->alone_waiting == 0) return nullptr;
  for (const auto& demand : trigger.demands) {
    if (demand != nullptr && demand->linked_alone != nullptr) return demand.get();
  }
  return nullptr;
}

// Nobody wakes those that wait for time to pass: one partition comes again for all of them, whether
// it has something of the trigger then or not.
void Dispatcher::Impl::NoteStarved(TriggerState& trigger, Wakes& wakes) {
  if (!trigger.rate.limited()) return;
  const Demand* waiter = Waiter(trigger);
  if (waiter == nullptr) {
    ForgetStarved(trigger);
    return;
  }
  if (trigger.due || trigger.rate.Left(now) > 0) return;
  trigger.due = trigger.rate.Next(now);
  trigger.keeper = exchanging.value_or(waiter->partition);
  starved.emplace(*trigger.due, trigger.number);
  Partition(trigger.keeper).kept.emplace(*trigger.due, trigger.number);
  if (!exchanging) WakePartition(trigger.keeper, wakes);
}

void Dispatcher::Impl::ForgetStarved(TriggerState& trigger) {
  if (!trigger.due) return;
  starved.erase({*trigger.due, trigger.number});
  Partition(trigger.keeper).kept.erase({*trigger.due, trigger.number});
  trigger.due.reset();
}

// Those whose time has come.
void Dispatcher::Impl::FeedStarved(Wakes& wakes) {
  while (!starved.empty() && starved.begin()->first <= now) {
    TriggerState& trigger = *triggers[starved.begin()->second.value()];
    ForgetStarved(trigger);
    Unblock(trigger, wakes);
  }
}

void Dispatcher::Impl::Withdraw(TriggerState& trigger, PartitionId partition, Wakes& wakes) {
  if (partition.value() >= trigger.demands.size()) return;
  Demand* demand = trigger.demands[partition.value()].get();
  if (demand == nullptr) return;
  SetDemand(*demand, 0, 0);
  if (trigger.function->alone_waiting == 0) Unreserve(*trigger.function, wakes);
  if (!trigger.blocked.empty() || trigger.due) Unblock(trigger, wakes);
  WakeWaiters(*trigger.function, nullptr, wakes);  // it claims nothing any more
}

void Dispatcher::Impl::Shortfall(const Grant& grant, Wakes& wakes) {
  Withdraw(*triggers[grant.trigger.value()], grant.partition, wakes);
  WakePartition(grant.partition, wakes);
}

TriggerNumber Dispatcher::SetTrigger(std::string_view name, std::string_view function,
                                     const TriggerLimits& limits, std::string_view was) {
  Impl::Wakes wakes;
  TriggerNumber number;
  {
    MutexLock lock(impl_->mutex);
    FunctionState& serving = impl_->Function(function);
    // Renamed: what waits and what is in flight is still its own.
    const auto former =
        was.empty() ? impl_->trigger_numbers.end() : impl_->trigger_numbers.find(std::string(was));
    if (former != impl_->trigger_numbers.end() &&
        !impl_->trigger_numbers.contains(std::string(name))) {
      const TriggerNumber kept = former->second;
      impl_->trigger_numbers.erase(former);
      impl_->trigger_numbers.emplace(std::string(name), kept);
    }
    const auto [found, added] = impl_->trigger_numbers.try_emplace(
        std::string(name), TriggerNumber(static_cast<std::uint32_t>(impl_->triggers.size())));
    number = found->second;
    if (added) {
      auto made = std::make_unique<TriggerState>();
      made->number = number;
      made->function = &serving;
      made->concurrency = limits.concurrency;
      made->batch = limits.batch;
      made->rate.Set(limits.rate, impl_->now);
      impl_->triggers.push_back(std::move(made));
      return number;
    }
    TriggerState& trigger = *impl_->triggers[number.value()];
    if (trigger.function == &serving && trigger.concurrency == limits.concurrency &&
        trigger.batch == limits.batch && trigger.rate.rate() == limits.rate) {
      return number;
    }
    for (const auto& demand : trigger.demands) {
      if (demand != nullptr) impl_->Unlink(*demand);
    }
    impl_->ForgetStarved(trigger);
    FunctionState& served = *std::exchange(trigger.function, &serving);
    if (served.alone_waiting == 0) impl_->Unreserve(served, wakes);
    trigger.concurrency = limits.concurrency;
    trigger.batch = limits.batch;
    trigger.rate.Set(limits.rate, impl_->now);
    for (const auto& demand : trigger.demands) {
      if (demand != nullptr) impl_->Link(*demand);
    }
    impl_->WakeWaiters(serving, nullptr, wakes);
    impl_->WakeAlone(serving, wakes);
    impl_->NoteStarved(trigger, wakes);
  }
  impl_->WakeAll(wakes);
  return number;
}

void Dispatcher::Withdraw(PartitionId partition, TriggerNumber trigger) {
  Impl::Wakes wakes;
  {
    MutexLock lock(impl_->mutex);
    TOCSIN_CHECK(trigger.value() < impl_->triggers.size());
    impl_->Withdraw(*impl_->triggers[trigger.value()], partition, wakes);
  }
  impl_->WakeAll(wakes);
}

}  // namespace tocsin

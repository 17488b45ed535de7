// One delivery through a TriggerQueue, from Offer to Ack: the part of a delivery's cost that each
// (event, trigger) pays on the partition's thread. Aim: under 150 ns without a key, 300 ns with
// one.

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "dispatch/trigger_queue.h"

namespace tocsin {
namespace {

// `keys` 0: events without a key. Batches of 64 offered, taken and acked, over `depth` that wait.
void OfferTakeAck(benchmark::State& state, std::size_t keys) {
  constexpr std::size_t kBatch = 64;
  TriggerQueue queue(PartitionId(0), TriggerOrdinal(0), Epoch(1), Offset(0), QueueLimits{},
                     TriggerPolicy{}, 1);
  queue.CaughtUp(Offset(0));
  std::vector<std::string> names;
  for (std::size_t i = 0; i < keys; ++i) names.push_back("customer-" + std::to_string(i * 7919));
  Instant now{};
  const WallTime wall{};
  std::uint64_t offset = 0;
  std::vector<Lease> leases;
  std::vector<Action> actions;
  const auto offer = [&] {
    Candidate candidate;
    candidate.offset = Offset(offset);
    candidate.match_index = offset;
    candidate.event_bytes = 500;
    const std::string_view key = keys == 0 ? std::string_view() : names[offset % keys];
    benchmark::DoNotOptimize(queue.Offer(candidate, key, nullptr, now));
    ++offset;
  };
  const auto depth = static_cast<std::size_t>(state.range(0));
  for (std::size_t i = 0; i < depth; ++i) offer();
  std::size_t delivered = 0;
  for (auto unused : state) {
    for (std::size_t i = 0; i < kBatch; ++i) offer();
    leases.clear();
    actions.clear();
    queue.TakeReady(kBatch, ~std::uint64_t{0}, false, now, wall, leases, actions);
    for (const Lease& lease : leases) {
      queue.SetHolder(lease.candidate.offset, SessionId(1), lease.candidate.offset.value());
    }
    now += std::chrono::microseconds(100);
    for (const Lease& lease : leases) {
      benchmark::DoNotOptimize(
          queue.Answer(lease.candidate.offset, lease.token, Ack{}, now, actions));
    }
    benchmark::DoNotOptimize(queue.Tick(now, wall, actions));
    delivered += leases.size();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(delivered));
}

void Keyless(benchmark::State& state) { OfferTakeAck(state, 0); }
void Keyed(benchmark::State& state) { OfferTakeAck(state, 10'000); }
BENCHMARK(Keyless)->Arg(0)->Arg(4096);
BENCHMARK(Keyed)->Arg(0)->Arg(4096);

}  // namespace
}  // namespace tocsin

BENCHMARK_MAIN();

// The load of soak.py: programs that outlive the broker and share one file of what happened.
//
//   soak_load publish STATE RATE   publishes numbered events until stdin ends; RATE events a
//   second,
//                                  0: as fast as it goes
//   soak_load work STATE           runs them
//   soak_load show STATE           what happened so far, as JSON
//   soak_load missing STATE        how many of those published never ran
//
// STATE is made by the first one and mapped by all, so that it survives any of them. Event n has
// the key n % 4096; every 10,007th fails once. A key's first runs must rise, and each event that
// was answered must run.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "broker/base/system_clock.h"
#include "sdk/cpp/publisher.h"
#include "sdk/cpp/worker.h"
#include "tests/integration/load_common.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kKeys = 4096;
constexpr std::uint64_t kFailsOnceEvery = 10'007;
constexpr std::uint64_t kUnansweredMax = 50'000;
constexpr std::uint64_t kEventsMax = std::uint64_t{4} << 30;  // bits of a file with holes
constexpr std::size_t kBuckets = 64 * 8;                      // eight to a doubling of microseconds

struct State {
  std::atomic<std::uint64_t> published, answered, duplicates, failed;
  std::atomic<std::uint64_t> executed, first_runs, disordered;
  std::array<std::atomic<std::uint64_t>, kKeys> next;        // by key: one more than the highest
  std::array<std::atomic<std::uint64_t>, kBuckets> latency;  // first runs by time since published
  std::array<std::atomic<std::uint64_t>, kEventsMax / 64> ran;  // a bit per event
};

State* Map(const char* path) {
  const int file = ::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ::ftruncate(file, sizeof(State)) != 0) return nullptr;
  void* at = ::mmap(nullptr, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  return at == MAP_FAILED ? nullptr : static_cast<State*>(at);
}

std::size_t Bucket(std::uint64_t micros) {
  const std::uint64_t value = std::max<std::uint64_t>(micros, 8);
  const auto log = static_cast<unsigned>(std::bit_width(value) - 1);
  return std::min<std::size_t>(log * 8 + ((value >> (log - 3)) & 7), kBuckets - 1);
}

std::uint64_t BucketEnd(std::size_t bucket) { return ((bucket % 8 + 9) << (bucket / 8)) / 8; }

std::uint64_t NowMicros(const Clock& clock) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(clock.Wall().time_since_epoch())
          .count());
}

int Publish(State& state, std::uint64_t rate) {
  SystemClock clock;
  sdk::PublisherOptions options;
  options.connection = QuickToReturn();
  sdk::Publisher publisher(options);
  const Instant began = clock.Monotonic();
  const std::uint64_t first = state.published;
  const std::string padding(96, 'x');
  for (std::uint64_t number = first; !InputEnds(0);) {
    const double seconds = std::chrono::duration<double>(clock.Monotonic() - began).count();
    const auto due = static_cast<std::uint64_t>(seconds * static_cast<double>(rate));
    if ((rate > 0 && number - first > due) ||
        number - state.answered - state.failed > kUnansweredMax) {
      if (InputEnds(1)) break;
      continue;
    }
    const std::string now = std::to_string(NowMicros(clock));
    for (int i = 0; i < 50; ++i, ++number) {
      sdk::Event event("soak", "/soak");
      event.set_id(std::to_string(number));
      event.set_partition_key("k" + std::to_string(number % kKeys));
      event.SetText(now + padding);
      state.published = number + 1;
      publisher.Publish(event, [&state](const sdk::PublishResult& result) {
        ++(result.status.ok() ? state.answered : state.failed);
        if (result.duplicate) ++state.duplicates;
      });
    }
  }
  const bool flushed = publisher.Flush(std::chrono::seconds(120));
  publisher.Close();
  return flushed && state.failed == 0 ? 0 : 1;
}

int Work(State& state) {
  const SystemClock clock;
  sdk::WorkerOptions options;
  options.connection = QuickToReturn();
  options.prefetch = 4000;
  sdk::Worker worker("soak", options);
  worker.On(
      "soak",
      [&](const sdk::Event& event, sdk::Context& context) {
        const std::uint64_t number = std::strtoull(std::string(event.id()).c_str(), nullptr, 10);
        ++state.executed;
        if (number % kFailsOnceEvery == 0 && context.attempt() == 1) {
          return sdk::RetryError("once", "this one fails once");
        }
        const std::uint64_t bit = std::uint64_t{1} << (number % 64);
        if ((state.ran[number / 64].fetch_or(bit) & bit) != 0) return sdk::Ack();
        ++state.first_runs;
        std::atomic<std::uint64_t>& next = state.next[number % kKeys];
        if (number < next) ++state.disordered;
        next = std::max<std::uint64_t>(next, number + 1);
        const std::uint64_t sent = std::strtoull(std::string(event.data()).c_str(), nullptr, 10);
        ++state.latency[Bucket(NowMicros(clock) - sent)];
        return sdk::Ack();
      },
      {.concurrency = 2});
  return worker.Run();
}

int Show(State& state) {
  std::printf(
      "{\"published\":%lu,\"answered\":%lu,\"duplicates\":%lu,\"failed\":%lu,\"executed\":%lu,"
      "\"first_runs\":%lu,\"disordered\":%lu,\"latency\":{",
      state.published.load(), state.answered.load(), state.duplicates.load(), state.failed.load(),
      state.executed.load(), state.first_runs.load(), state.disordered.load());
  const char* comma = "";
  for (std::size_t i = 0; i < kBuckets; ++i) {
    if (state.latency[i] == 0) continue;
    std::printf("%s\"%lu\":%lu", comma, BucketEnd(i), state.latency[i].load());
    comma = ",";
  }
  std::printf("}}\n");
  return 0;
}

int Missing(State& state) {
  std::uint64_t missing = 0;
  for (std::uint64_t number = 0; number < state.published; ++number) {
    if ((state.ran[number / 64] >> (number % 64) & 1) == 0) ++missing;
  }
  std::printf("%lu\n", missing);
  return missing == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tocsin

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  tocsin::State* state = argc > 2 ? tocsin::Map(argv[2]) : nullptr;
  if (state != nullptr && what == "publish" && argc == 4) {
    return tocsin::Publish(*state, std::strtoull(argv[3], nullptr, 10));
  }
  if (state != nullptr && what == "work") return tocsin::Work(*state);
  if (state != nullptr && what == "show") return tocsin::Show(*state);
  if (state != nullptr && what == "missing") return tocsin::Missing(*state);
  std::fprintf(stderr, "usage: see the head of soak_load.cc\n");
  return 2;
}

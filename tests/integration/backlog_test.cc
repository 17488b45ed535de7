// A million events behind absent workers: the broker stays small, and what it kept is drained in
// key order, exactly once; also over SIGKILLs of the broker, before and during the drain.
//
// TOCSIN_BACKLOG_EVENTS asks for another number of events.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/mutex.h"
#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "sdk/cpp/publisher.h"
#include "sdk/cpp/worker.h"
#include "tests/integration/broker_process.h"

namespace tocsin {
namespace {

#ifdef __SANITIZE_ADDRESS__  // keeps what is freed for a while, and is slow
constexpr std::uint64_t kRssMax = 3'000'000'000;
constexpr std::uint32_t kEvents = 100'000;
#else
constexpr std::uint64_t kRssMax = 300'000'000;
constexpr std::uint32_t kEvents = 1'000'000;
#endif
constexpr std::size_t kDataBytes = 256;
constexpr std::uint32_t kKeys = 10'000;
// Each has a hundred times the events of another, and they run one after the other: that is the
// drain's end.
constexpr std::uint32_t kHotKeys = 4;
constexpr Duration kDrainMax = std::chrono::seconds(240);
constexpr std::uint32_t kNone = 0xffffffff;

std::uint32_t EventCount() {
  const char* wanted = std::getenv("TOCSIN_BACKLOG_EVENTS");
  return wanted == nullptr ? kEvents : static_cast<std::uint32_t>(std::atoi(wanted));
}

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }
double Mebibytes(std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

std::uint32_t KeyOf(std::uint32_t number) {
  if (number % 25 == 0) return kKeys + number / 25 % kHotKeys;
  std::uint64_t mixed = (number + 1) * std::uint64_t{0x9E3779B97F4A7C15};
  return static_cast<std::uint32_t>((mixed ^ mixed >> 31) % kKeys);
}

std::string MakeEvent(std::uint32_t number) {
  sdk::Event event("backlog.event", "/backlog");
  event.set_id(fmt::format("e{}", number));
  event.set_partition_key(fmt::format("k{}", KeyOf(number)));
  std::string data(kDataBytes, '.');
  std::memcpy(data.data(), &number, sizeof number);
  event.SetBytes(data);
  return event.Encoded();
}

// What ran, in which order. Thread-safe.
class Runs {
 public:
  explicit Runs(std::uint32_t count)
      : before_(count), last_(kKeys + kHotKeys, kNone), count_(count) {
    std::vector<std::uint32_t> last(kKeys + kHotKeys, kNone);
    for (std::uint32_t number = 0; number < count; ++number) {
      before_[number] = std::exchange(last[KeyOf(number)], number);
    }
  }

  void Ran(std::string_view data) {
    std::uint32_t number = kNone;
    const MutexLock lock(mutex_);
    if (data.size() == kDataBytes) std::memcpy(&number, data.data(), sizeof number);
    if (number >= count_) {
      ++strange_;
      return;
    }
    ++executions_;
    std::uint32_t& last = last_[KeyOf(number)];
    if (last != kNone && number <= last) {
      ++repeats_;
    } else {
      if (before_[number] != last) ++overtakings_;
      last = number;
      ++distinct_;
    }
  }

  std::uint32_t distinct() const { return distinct_; }
  std::uint64_t executions() const { return executions_; }
  std::uint64_t repeats() const { return repeats_; }
  // First runs that came before an earlier event of their key.
  std::uint64_t overtakings() const { return overtakings_; }
  std::uint64_t strange() const { return strange_; }

 private:
  Mutex mutex_;
  std::vector<std::uint32_t> before_;  // the event before it of its key
  std::vector<std::uint32_t> last_ ABSL_GUARDED_BY(mutex_);
  const std::uint32_t count_;
  std::atomic<std::uint32_t> distinct_{0};
  std::atomic<std::uint64_t> executions_{0};
  std::atomic<std::uint64_t> repeats_{0};
  std::atomic<std::uint64_t> overtakings_{0};
  std::atomic<std::uint64_t> strange_{0};
};

sdk::ConnectionOptions ConnectTo(const std::string& target) {
  sdk::ConnectionOptions connection;
  connection.target = target;
  connection.backoff_min = std::chrono::milliseconds(20);
  connection.backoff_max = std::chrono::milliseconds(200);
  connection.log = [](std::string_view) {};
  return connection;
}

// A worker on a thread of its own, that acks everything.
class Draining {
 public:
  Draining(const std::string& target, Runs& runs)
      : worker_("draining", Options(target)), thread_("draining", clock_) {
    worker_.OnBatch("work",
                    [&runs](std::span<const sdk::Event> events, std::span<sdk::Context* const>) {
                      for (const sdk::Event& event : events) runs.Ran(event.data());
                      return sdk::BatchResult();
                    },
                    {.max_items = 500, .max_wait = std::chrono::milliseconds(0), .concurrency = 1});
    thread_.Post([this] { worker_.Run(); });
  }
  ~Draining() { worker_.Stop(); }
  // As a process that dies.
  void Abort() {
    worker_.Abort();
    thread_.Stop();
  }

 private:
  static sdk::WorkerOptions Options(const std::string& target) {
    sdk::WorkerOptions options;
    options.connection = ConnectTo(target);
    options.prefetch = 4000;
    options.handle_signals = false;
    return options;
  }

  SystemClock clock_;
  sdk::Worker worker_;
  ThreadExecutor thread_;
};

class BacklogTest : public ::testing::Test {
 protected:
  BacklogTest()
      : broker_(TOCSIN_PROGRAM, "",
                "functions:\n  work: {}\ntriggers:\n  all:\n    function: work\n") {}

  void StartBroker(const char* when) {
    Duration took{};
    const absl::Status started = broker_.Start(&took);
    ASSERT_TRUE(started.ok()) << started;
    Print("serves {:.3f} s after its start ({}), {:.0f} MiB", Seconds(took), when,
          Mebibytes(broker_.PeakRssBytes()));
  }
  void KillBroker() {
    CheckRss("killed");
    broker_.Kill();
  }
  void CheckRss(const char* when) {
    const std::uint64_t peak = broker_.PeakRssBytes();
    Print("peak RSS {:.0f} MiB, RSS {:.0f} MiB ({})", Mebibytes(peak),
          Mebibytes(broker_.RssBytes()), when);
    EXPECT_GT(peak, 0u) << "the broker is gone:\n" << broker_.Log();
    EXPECT_LT(peak, kRssMax) << when;
  }

  // Publishes all; `halfway` (may be empty) runs once, when half of them are answered and the
  // others are on their way.
  void PublishAll(const std::function<void()>& halfway) {
    const Instant begun = clock_.Monotonic();
    std::atomic<std::uint32_t> stored{0};
    std::atomic<std::uint32_t> failed{0};
    sdk::PublisherOptions options;
    options.connection = ConnectTo(broker_.target());
    sdk::Publisher publisher(std::move(options));
    bool told = halfway == nullptr;
    for (std::uint32_t number = 0; number < count_; ++number) {
      publisher.PublishEncoded(MakeEvent(number), [&](const sdk::PublishResult& result) {
        ++(result.status.ok() ? stored : failed);
      });
      if (!told && stored >= count_ / 2) {
        told = true;
        halfway();
      }
    }
    ASSERT_TRUE(publisher.Flush(std::chrono::minutes(3)));
    EXPECT_TRUE(told);
    EXPECT_EQ(stored, count_);
    EXPECT_EQ(failed, 0u);
    const double took = Seconds(clock_.Monotonic() - begun);
    Print("{} events published in {:.1f} s, {:.0f}/s; broker's CPU {:.1f} s", count_, took,
          count_ / took, Seconds(broker_.CpuTime()));
  }

  // Asks for the books until `pending` of them are left; each question is a call.
  void WaitUntilPending(std::uint64_t pending) {
    const Instant begun = clock_.Monotonic();
    std::optional<v1::TriggerStatus> books;
    while (clock_.Monotonic() - begun < kDrainMax) {
      books = broker_.Books("all");
      ASSERT_TRUE(books.has_value()) << broker_.Log();
      if (books->pending() <= pending) return;
      ASSERT_FALSE(broker_.EndsWithin(std::chrono::milliseconds(20))) << broker_.Log();
    }
    FAIL() << "not drained:\n" << books->DebugString();
  }
  void CheckDrained(const Runs& runs) {
    const std::optional<v1::TriggerStatus> books = broker_.Books("all");
    ASSERT_TRUE(books.has_value());
    EXPECT_EQ(books->matched(), count_);
    EXPECT_EQ(books->acked(), count_);
    EXPECT_EQ(books->pending() + books->dead() + books->dropped() + books->expired(), 0u);
    EXPECT_EQ(runs.distinct(), count_);
    EXPECT_EQ(runs.overtakings(), 0u);
    EXPECT_EQ(runs.strange(), 0u);
  }

  template <typename... Args>
  void Print(fmt::format_string<Args...> text, Args&&... args) {
    fmt::print("  {:6.1f} s  {}\n", Seconds(clock_.Monotonic() - begun_),
               fmt::format(text, std::forward<Args>(args)...));
    std::fflush(stdout);
  }

  SystemClock clock_;
  const Instant begun_ = clock_.Monotonic();
  const std::uint32_t count_ = EventCount();
  BrokerProcess broker_;
};

TEST_F(BacklogTest, AMillionEventsBehindAbsentWorkersDrainInKeyOrderExactlyOnce) {
  StartBroker("empty");
  PublishAll(nullptr);
  CheckRss("all are there, no worker is");
  Runs runs(count_);
  const Instant begun = clock_.Monotonic();
  const Draining draining(broker_.target(), runs);
  WaitUntilPending(0);
  const double took = Seconds(clock_.Monotonic() - begun);
  Print("drained in {:.1f} s, {:.0f}/s; broker's CPU {:.1f} s", took, count_ / took,
        Seconds(broker_.CpuTime()));
  CheckRss("drained");
  CheckDrained(runs);
  EXPECT_EQ(runs.executions(), count_) << "something ran twice although nothing failed";
}

TEST_F(BacklogTest, TheBacklogSurvivesKillsOfTheBrokerWhileItGrowsStandsAndDrains) {
  StartBroker("empty");
  PublishAll([this] {
    KillBroker();
    StartBroker("half of them are there");
  });
  EXPECT_EQ(broker_.Books("all")->pending(), count_);
  KillBroker();
  StartBroker("all are there");
  EXPECT_EQ(broker_.Books("all")->pending(), count_);

  Runs runs(count_);
  auto first = std::make_unique<Draining>(broker_.target(), runs);
  WaitUntilPending(count_ / 2);
  KillBroker();
  first->Abort();
  const std::uint64_t ran = runs.executions();
  StartBroker("half of them are settled");
  // What ran and has no durable settlement runs again, once; nothing else does.
  const std::uint64_t settled = broker_.Books("all")->acked();
  Print("{} ran, {} of them are settled", ran, settled);
  ASSERT_LE(settled, ran);

  const Instant begun = clock_.Monotonic();
  const Draining second(broker_.target(), runs);
  WaitUntilPending(0);
  const double took = Seconds(clock_.Monotonic() - begun);
  Print("the rest drained in {:.1f} s, {:.0f}/s", took,
        static_cast<double>(count_ - settled) / took);
  CheckRss("drained");
  CheckDrained(runs);
  EXPECT_EQ(runs.repeats(), ran - settled);
}

}  // namespace
}  // namespace tocsin

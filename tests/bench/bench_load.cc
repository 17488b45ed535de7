#include "tests/bench/bench_load.h"

#include <fmt/format.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <future>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "sdk/cpp/worker.h"
#include "tests/bench/bench_process.h"

namespace tocsin::bench {
namespace {

constexpr std::size_t kIdDigits = 20;
constexpr std::size_t kKeyDigits = 10;
constexpr std::size_t kBarrierEvents = 1024;  // 64 partitions have one each, but for 1 in 10^5
constexpr char kTrigger[] = "bench";
constexpr char kFunction[] = "count";
constexpr char kMatchedType[] = "bench.matched";
constexpr char kUnmatchedType[] = "bench.unmatched";

void PutDigits(std::string& text, std::size_t at, std::size_t digits, std::uint64_t value) {
  for (std::size_t i = digits; i-- > 0; value /= 10) {
    text[at + i] = static_cast<char>('0' + value % 10);
  }
}

// Handlers' side of a round.
struct Counting {
  std::atomic<std::size_t> handled{0};
  std::size_t wanted = 0;
  std::promise<void> all;
  void Add(std::size_t count) {
    if (handled.fetch_add(count) + count == wanted) all.set_value();
  }
};

}  // namespace

Pacer::Pacer(const Clock& clock, double rate)
    : clock_(clock),
      period_(static_cast<std::int64_t>(1e9 / rate)),
      timer_fd_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)),
      next_(clock.Monotonic() + std::chrono::milliseconds(1)) {
  TOCSIN_CHECK(timer_fd_ >= 0);
}

Pacer::~Pacer() { close(timer_fd_); }

Instant Pacer::WaitForNext() {
  const Instant due = next_;
  next_ += period_;
  const Duration left = due - clock_.Monotonic();
  if (left > Duration::zero()) {
    itimerspec spec{};
    spec.it_value.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000);
    spec.it_value.tv_nsec = static_cast<long>(left.count() % 1'000'000'000);
    timerfd_settime(timer_fd_, 0, &spec, nullptr);
    std::uint64_t expirations = 0;
    static_cast<void>(!read(timer_fd_, &expirations, sizeof expirations));
  }
  return due;
}

EventMaker::EventMaker(std::string type, std::size_t data_bytes, std::size_t keys) : keys_(keys) {
  sdk::Event event(type, "/bench");
  const std::string id(kIdDigits, '#');
  const std::string key = "key-" + std::string(kKeyDigits, '#');
  event.set_id(id).SetBytes(std::string(data_bytes, 'd'));
  if (keys > 0) event.set_partition_key(key);
  encoded_ = event.Encoded();
  id_at_ = encoded_.find(id);
  if (keys > 0) key_at_ = encoded_.find(key) + 4;
  data_at_ = encoded_.find(std::string(data_bytes, 'd'));
}

std::string EventMaker::Make(std::uint64_t number) const {
  std::string encoded = encoded_;
  PutDigits(encoded, id_at_, kIdDigits, number);
  // A stride, so that neighbours in a batch have different keys.
  if (keys_ > 0) PutDigits(encoded, key_at_, kKeyDigits, number * 7919 % keys_);
  return encoded;
}

std::string EventMaker::MakeStamped(std::uint64_t number, std::int64_t stamp) const {
  std::string encoded = Make(number);
  std::memcpy(encoded.data() + data_at_, &stamp, sizeof stamp);
  return encoded;
}

struct BrokerLoad::Impl {
  std::string target;
  std::function<double()> broker_cpu;
  SystemClock clock;
  std::unique_ptr<BrokerView> view;
  // Ids of events: of no load that the broker may have seen before.
  std::uint64_t next_number = static_cast<std::uint64_t>(clock.Wall().time_since_epoch().count());

  // Answered when everything before is durable. A partition's settlements may wait for its next
  // event, so each partition gets one.
  void Barrier(sdk::Publisher& publisher, const EventMaker& maker) {
    for (std::size_t i = 0; i < kBarrierEvents; ++i) {
      publisher.PublishEncoded(maker.Make(next_number++), [](const sdk::PublishResult& result) {
        TOCSIN_CHECK(result.status.ok(), "the last publish: {}",
                     std::string(result.status.message()));
      });
    }
    TOCSIN_CHECK(publisher.Flush(std::chrono::minutes(1)));
  }

  sdk::PublisherOptions PublisherFor(bool batched) const {
    sdk::PublisherOptions options;
    options.connection.target = target;
    if (!batched) {
      options.batch_events_max = 1;
      options.batches_in_flight_max = 1024;
    }
    return options;
  }

  sdk::WorkerOptions WorkerFor(std::uint32_t prefetch) const {
    sdk::WorkerOptions options;
    options.connection.target = target;
    options.connection.log = [](std::string_view) {};
    options.prefetch = prefetch;
    options.handle_signals = false;
    return options;
  }
};

BrokerLoad::BrokerLoad(std::string grpc_target, std::string http_target,
                       std::function<double()> broker_cpu)
    : impl_(std::make_unique<Impl>()) {
  impl_->target = std::move(grpc_target);
  impl_->broker_cpu = std::move(broker_cpu);
  impl_->view = std::make_unique<BrokerView>(impl_->target, std::move(http_target));
}

BrokerLoad::~BrokerLoad() = default;

LoadResult BrokerLoad::Run(const LoadSpec& spec) {
  Impl& impl = *impl_;
  const EventMaker maker(spec.consume ? kMatchedType : kUnmatchedType, spec.data_bytes, spec.keys);
  const EventMaker barrier(kUnmatchedType, 8, 0);
  Counting counting;
  counting.wanted = spec.events;
  std::vector<std::unique_ptr<RunningWorker>> workers;
  const std::uint64_t settled_before = impl.view->Acked(kTrigger);
  const auto attach = [&] {
    for (std::size_t i = 0; i < spec.workers; ++i) {
      workers.push_back(std::make_unique<RunningWorker>(
          impl.WorkerFor(spec.batched ? 16'384 : 4096), impl.clock, [&](sdk::Worker& w) {
            if (spec.batched) {
              w.OnBatch(
                  kFunction,
                  [&counting](std::span<const sdk::Event> events, std::span<sdk::Context* const>) {
                    counting.Add(events.size());
                    return sdk::BatchResult();
                  },
                  {.max_items = 1024, .max_wait = std::chrono::milliseconds(0), .concurrency = 1});
            } else {
              w.On(kFunction, [&counting](const sdk::Event&, sdk::Context&) {
                counting.Add(1);
                return sdk::Ack();
              });
            }
          }));
    }
    while (impl.view->Workers() < spec.workers) Rest(1);
  };
  if (spec.consume && !spec.stored_first) attach();
  std::vector<std::unique_ptr<sdk::Publisher>> publishers;
  std::vector<std::unique_ptr<ThreadExecutor>> threads;
  for (std::size_t i = 0; i < spec.publishers; ++i) {
    publishers.push_back(std::make_unique<sdk::Publisher>(impl.PublisherFor(spec.batched)));
    threads.push_back(std::make_unique<ThreadExecutor>("publisher", impl.clock));
    impl.Barrier(*publishers.back(), barrier);  // connected
  }
  const std::string metrics_before = impl.view->Metrics();
  const double broker_before = impl.broker_cpu();
  const double client_before = OwnCpuSeconds();

  Instant begin = impl.clock.Monotonic();
  std::atomic<std::size_t> refused{0};
  std::vector<std::future<void>> published;
  const std::size_t each = spec.events / spec.publishers;
  for (std::size_t i = 0; i < spec.publishers; ++i) {
    const std::uint64_t first = impl.next_number;
    const std::size_t count = i + 1 < spec.publishers ? each : spec.events - each * i;
    impl.next_number += count;
    auto done = std::make_shared<std::promise<void>>();
    published.push_back(done->get_future());
    threads[i]->Post([&, done, first, count, publisher = publishers[i].get()] {
      for (std::uint64_t number = first; number < first + count; ++number) {
        publisher->PublishEncoded(maker.Make(number), [&refused](const sdk::PublishResult& result) {
          if (!result.status.ok()) refused.fetch_add(1);
        });
      }
      publisher->Flush();
      done->set_value();
    });
  }
  for (std::future<void>& one : published) one.get();
  LoadResult result;
  result.publish_seconds = std::chrono::duration<double>(impl.clock.Monotonic() - begin).count();
  TOCSIN_CHECK(refused == 0, "{} publishes were refused", refused.load());
  if (spec.stored_first) {
    begin = impl.clock.Monotonic();
    attach();
  }
  if (spec.consume) {
    TOCSIN_CHECK(
        counting.all.get_future().wait_for(std::chrono::minutes(2)) == std::future_status::ready,
        "{} of {} events reached the handler", counting.handled.load(), spec.events);
    // The books count a settlement when it is appended; the barrier's answer says it is durable.
    while (impl.view->Acked(kTrigger) < settled_before + spec.events) Rest(1);
    impl.Barrier(*publishers.front(), barrier);
    TOCSIN_CHECK(counting.handled == spec.events, "{} deliveries of {} events",
                 counting.handled.load(), spec.events);
  }
  result.seconds = std::chrono::duration<double>(impl.clock.Monotonic() - begin).count();
  result.broker_cpu_seconds = impl.broker_cpu() - broker_before;
  result.client_cpu_seconds = OwnCpuSeconds() - client_before;
  const std::string metrics_after = impl.view->Metrics();
  const auto rise = [&](const char* name) {
    return Metric(metrics_after, name) - Metric(metrics_before, name);
  };
  const double requests = rise("tocsin_publish_requests_total");
  result.events_per_request = static_cast<double>(spec.events) / requests;
  result.request_bytes = rise("tocsin_published_bytes_total") / requests;
  result.syncs = rise("tocsin_journal_syncs_total");
  return result;
}

std::vector<Duration> BrokerLoad::RoundTrips(std::size_t count, std::size_t data_bytes) {
  Impl& impl = *impl_;
  sdk::Publisher publisher(impl.PublisherFor(true));
  std::vector<Duration> trips;
  trips.reserve(count);
  const std::string data(data_bytes, 'd');
  for (std::size_t i = 0; i < count; ++i) {
    sdk::Event event(kUnmatchedType, "/bench");
    event.SetBytes(data);
    const Instant begin = impl.clock.Monotonic();
    const sdk::PublishResult result = publisher.Publish(event).get();
    trips.push_back(impl.clock.Monotonic() - begin);
    TOCSIN_CHECK(result.status.ok(), "{}", std::string(result.status.message()));
  }
  return trips;
}

std::vector<Duration> BrokerLoad::Paced(std::size_t count, std::size_t data_bytes, double rate) {
  Impl& impl = *impl_;
  const EventMaker maker(kMatchedType, data_bytes, 0);
  Counting counting;
  counting.wanted = count;
  std::vector<Duration> latencies;
  latencies.reserve(count);
  RunningWorker worker(impl.WorkerFor(4096), impl.clock, [&](sdk::Worker& w) {
    w.On(kFunction, [&](const sdk::Event& event, sdk::Context&) {
      std::int64_t due = 0;
      std::memcpy(&due, event.data().data(), sizeof due);
      latencies.push_back(impl.clock.Monotonic().time_since_epoch() - Duration(due));
      counting.Add(1);
      return sdk::Ack();
    });
  });
  while (impl.view->Workers() == 0) Rest(5);
  sdk::Publisher publisher(impl.PublisherFor(true));
  impl.Barrier(publisher, EventMaker(kUnmatchedType, 8, 0));
  Pacer pacer(impl.clock, rate);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t due = pacer.WaitForNext().time_since_epoch().count();
    publisher.PublishEncoded(maker.MakeStamped(impl.next_number++, due),
                             [](const sdk::PublishResult& result) {
                               TOCSIN_CHECK(result.status.ok(), "a paced publish was refused");
                             });
  }
  TOCSIN_CHECK(
      counting.all.get_future().wait_for(std::chrono::minutes(1)) == std::future_status::ready,
      "{} of {} events reached the handler", counting.handled.load(), count);
  // A handler may have an event before its publisher has the answer.
  TOCSIN_CHECK(publisher.Flush(std::chrono::minutes(1)));
  return latencies;
}

std::vector<Duration> BrokerLoad::Invocations(std::size_t count, std::size_t data_bytes) {
  Impl& impl = *impl_;
  sdk::Publisher publisher(impl.PublisherFor(true));
  const EventMaker maker(kMatchedType, data_bytes, 0);
  for (std::size_t i = 0; i <= count; ++i) {
    publisher.PublishEncoded(maker.Make(impl.next_number++), [](const sdk::PublishResult& result) {
      TOCSIN_CHECK(result.status.ok(), "a publish was refused");
    });
  }
  TOCSIN_CHECK(publisher.Flush(std::chrono::minutes(1)));
  Counting counting;
  counting.wanted = count + 1;
  std::vector<Instant> calls;
  calls.reserve(count + 1);
  const RunningWorker worker(impl.WorkerFor(0), impl.clock, [&](sdk::Worker& w) {
    w.On(kFunction, [&](const sdk::Event&, sdk::Context&) {
      calls.push_back(impl.clock.Monotonic());
      counting.Add(1);
      return sdk::Ack();
    });
  });
  TOCSIN_CHECK(
      counting.all.get_future().wait_for(std::chrono::minutes(1)) == std::future_status::ready,
      "{} of {} events reached the handler", counting.handled.load(), count);
  std::vector<Duration> between;
  between.reserve(count);
  for (std::size_t i = 1; i < calls.size(); ++i) between.push_back(calls[i] - calls[i - 1]);
  return between;
}

LoadResult BrokerLoad::FanOut(std::size_t events, std::size_t data_bytes, std::size_t triggers,
                              std::size_t workers) {
  Impl& impl = *impl_;
  Counting counting;
  counting.wanted = events * triggers;
  const std::uint64_t acked_before = impl.view->AckedOfAll();
  std::vector<std::unique_ptr<RunningWorker>> running;
  for (std::size_t i = 0; i < workers; ++i) {
    const auto prefetch = static_cast<std::uint32_t>(4096 * triggers / workers);
    running.push_back(
        std::make_unique<RunningWorker>(impl.WorkerFor(prefetch), impl.clock, [&](sdk::Worker& w) {
          for (std::size_t function = i; function < triggers; function += workers) {
            w.OnBatch(
                fmt::format("fan{}", function),
                [&counting](std::span<const sdk::Event> got, std::span<sdk::Context* const>) {
                  counting.Add(got.size());
                  return sdk::BatchResult();
                },
                {.max_items = 1024, .max_wait = std::chrono::milliseconds(0), .concurrency = 1});
          }
        }));
  }
  while (impl.view->Workers() < workers) Rest(5);
  sdk::Publisher publisher(impl.PublisherFor(true));
  const EventMaker barrier(kUnmatchedType, 8, 0);
  impl.Barrier(publisher, barrier);
  const EventMaker maker("bench.fan", data_bytes, 0);
  const double broker_before = impl.broker_cpu();
  const Instant begin = impl.clock.Monotonic();
  for (std::size_t i = 0; i < events; ++i) {
    publisher.PublishEncoded(maker.Make(impl.next_number++), [](const sdk::PublishResult& result) {
      TOCSIN_CHECK(result.status.ok(), "a publish was refused");
    });
  }
  TOCSIN_CHECK(publisher.Flush());
  LoadResult result;
  result.publish_seconds = std::chrono::duration<double>(impl.clock.Monotonic() - begin).count();
  TOCSIN_CHECK(
      counting.all.get_future().wait_for(std::chrono::minutes(2)) == std::future_status::ready,
      "{} of {} deliveries reached a handler", counting.handled.load(), counting.wanted);
  while (impl.view->AckedOfAll() < acked_before + counting.wanted) Rest(1);
  impl.Barrier(publisher, barrier);
  result.seconds = std::chrono::duration<double>(impl.clock.Monotonic() - begin).count();
  result.broker_cpu_seconds = impl.broker_cpu() - broker_before;
  return result;
}

}  // namespace tocsin::bench

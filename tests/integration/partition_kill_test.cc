// F1 for all that a broker promises, with a real process on a real disk: a broker without its
// network (shards, partitions, dispatcher, journal, the threads of production) publishes to itself
// and has two workers; it is killed by SIGKILL at any moment, also while it opens.
//
// Through a pipe the child tells what was answered, what ran, what was confirmed. The parent checks
// as it hears it: one lease per key, the key's order within a life, nothing again whose settlement
// was confirmed, attempts that go on. In the last life of a directory everything is drained: then
// every answered event has been acked by every trigger, and so has each emitted one whose
// delivery's settlement was confirmed.

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "broker/base/check.h"
#include "broker/base/random.h"
#include "broker/base/system_clock.h"
#include "broker/base/system_file_system.h"
#include "broker/base/thread_executor.h"
#include "broker/journal/file_journal.h"
#include "broker/partition/shards.h"
#include "dispatch/dispatcher.h"
#include "dispatch/worker_session.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kPartitions = 2;
constexpr std::uint32_t kTriggers = 2;
constexpr std::uint32_t kKeys = 16;
constexpr std::uint32_t kAttempts = 3;
constexpr std::uint64_t kLives = 12;  // of one directory
constexpr std::uint64_t kEmittedBit = std::uint64_t{1} << 63;

enum class What : std::uint32_t {
  kAnswered,   // a published event
  kRuns,       // a delivery came
  kAcks,       // is about to be acked
  kFails,      // is about to be answered otherwise
  kConfirmed,  // its settlement is durable
  kFailed,     // its failed attempt is durable
  kEmitted,    // an event whose delivery's settlement is durable
  kDrained,
};

struct Told {
  What what = What::kDrained;
  std::uint32_t trigger = 0;
  std::uint64_t event = 0;
  std::uint64_t offset = 0;
  std::uint32_t partition = 0;
  std::uint32_t run = 0;
  std::uint32_t attempt = 0;
  std::uint32_t key = 0;
};

class Broker;

class Worker final : public WorkerLink {
 public:
  explicit Worker(Broker& broker) : broker_(broker) {}
  void Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) override;
  void Cancel(std::span<const std::uint64_t>) override {}
  void Drain(const std::string&) override {}

  std::shared_ptr<WorkerSession> session;

 private:
  Broker& broker_;
};

// The child: works until it is killed.
class Broker final : public PartitionObserver {
 public:
  Broker(const std::string& dir, int pipe, std::uint64_t life, bool drain)
      : pipe_(pipe), life_(life), drain_(drain), random_(SystemSeed()) {
    fs_ = *OpenSystemFileSystem(dir);
    FileJournalOptions options;
    options.partitions = kPartitions;
    options.segment_bytes = 1 << 20;
    options.letter_segment_bytes = 1 << 18;
    options.batch_bytes_max = 1 << 18;
    options.reserve_bytes = 0;
    auto journal = OpenFileJournal(std::move(options), *fs_, clock_, journal_random_);
    TOCSIN_CHECK(journal.ok(), "{}", journal.status().ToString());
    journal_ = *std::move(journal);
    ShardsOptions shards;
    shards.partition.partitions = kPartitions;
    shards.partition.queues.entries_max = 256;
    shards.partition.queues.key_entries_max = 8;
    shards.partition.cache_bytes_max = 64 << 10;
    shards.partition.checkpoint_every = std::chrono::milliseconds(100);
    shards.partition.retention_age = std::chrono::seconds(1);
    shards_ = std::make_unique<Shards>(
        shards, Shards::Ports{*journal_, {&first_, &second_}, clock_, {&one_, &two_}, *this});
    dispatcher_ = std::make_unique<Dispatcher>(*shards_, *shards_);
    shards_->SetDispatcher(*dispatcher_);
    shards_->Open(Plan(), [this](const absl::Status& status) {
      TOCSIN_CHECK(status.ok(), "{}", status.ToString());
      load_.Post([this] { Begin(); });
    });
  }

  void Warn(PartitionId, std::string_view, const std::string&) override {}
  void Failed(PartitionId, const absl::Status& status) override {
    TOCSIN_CHECK(false, "{}", status.ToString());
  }

  void Tell(const Told& told) const {
    TOCSIN_CHECK(write(pipe_, &told, sizeof(told)) == sizeof(told));
  }
  // From a shard's thread, under the session's lock.
  void Came(Worker& worker, const OutgoingDelivery& delivery) {
    EventView view;
    TOCSIN_CHECK(ParseEvent(delivery.event, view).ok());
    Told told;
    told.what = What::kRuns;
    told.trigger = delivery.id.trigger.value();
    told.event = std::stoull(std::string(view.id));
    told.offset = delivery.id.offset.value();
    told.partition = delivery.id.partition.value();
    told.run = delivery.id.run;
    told.attempt = delivery.attempt;
    told.key = static_cast<std::uint32_t>(std::stoul(std::string(view.PartitionKey())));
    Tell(told);
    load_.Post([this, &worker, told, handle = delivery.handle] { Answer(worker, told, handle); });
  }

 private:
  std::shared_ptr<RoutePlan> Plan() {
    auto plan = std::make_shared<RoutePlan>();
    plan->generation = 1;
    std::vector<RouteSpec> routes;
    for (std::uint32_t i = 0; i < kTriggers; ++i) {
      TriggerSpec spec;
      spec.name = fmt::format("t{}", i);
      spec.policy.function = "work";
      spec.policy.retry.attempts_max = kAttempts;
      spec.policy.retry.backoff = std::chrono::milliseconds(5);
      spec.policy.on_exhausted = i == 0 ? OnExhausted::kSkip : OnExhausted::kPark;
      spec.config_json = fmt::format("{{\"name\":\"{}\"}}", spec.name);
      spec.config_hash = spec.name;
      plan->triggers.push_back(spec);
      plan->numbers.push_back(dispatcher_->SetTrigger(spec.name, "work", 0));
      RouteSpec route;
      route.name = spec.name;
      routes.push_back(std::move(route));
    }
    plan->table = RouteTable::Build(std::move(routes));
    return plan;
  }

  void Begin() {
    for (int i = 0; i < 2; ++i) {
      workers_.push_back(std::make_shared<Worker>(*this));
      SessionHello hello;
      hello.worker = "kill";
      hello.functions = {"work"};
      hello.credit.events = 64;
      workers_.back()->session = dispatcher_->Attach(hello, workers_.back(), clock_.Monotonic());
    }
    Housekeep();
    for (int i = 0; i < 4 && !drain_; ++i) Publish();
  }

  // Redrives what died, and looks whether all is done.
  void Housekeep() {
    for (std::uint32_t id = 0; id < kPartitions; ++id) {
      shards_->Post(PartitionId(id), [](Partition& partition) {
        for (const LetterSummary& letter : partition.OpenLetters()) {
          if (letter.position.value() == 0) continue;  // not durable yet
          partition.Redrive(letter.id, [](const absl::Status&) {});
        }
      });
    }
    if (drain_) {
      shards_->Snapshots([this](const std::vector<PartitionSnapshot>& all) {
        std::uint64_t left = 0;
        for (const PartitionSnapshot& one : all) {
          left += one.open_letters + one.outgoing;
          for (const TriggerBooks& books : one.triggers) left += books.pending;
        }
        if (left == 0) Tell({});
      });
    }
    load_.PostAt(clock_.Monotonic() + std::chrono::milliseconds(20), [this] { Housekeep(); });
  }

  static std::string MakeEvent(std::uint64_t number, std::size_t bytes) {
    EventBuilder builder(std::to_string(number), "/kill", "kill");
    builder.Attribute("partitionkey", std::to_string(number % kKeys));
    builder.TextData(std::string(bytes, 'x'));
    return std::move(builder).Encode();
  }

  void Publish() {
    auto keep = std::make_shared<std::vector<std::string>>();
    std::array<PublishBatch, kPartitions> batches;
    std::array<std::vector<std::uint64_t>, kPartitions> numbers;
    const std::uint64_t count = 1 + random_.Below(16);
    for (std::uint64_t i = 0; i < count; ++i) {
      keep->push_back(MakeEvent(life_ << 32 | next_++, random_.Below(400)));
    }
    for (std::uint64_t i = 0; i < count; ++i) {
      PublishedEvent event;
      PartitionId home;
      TOCSIN_CHECK(
          PreparePublished((*keep)[i], EventLimits(), 16, 0, kPartitions, event, home).ok());
      event.index = static_cast<std::uint32_t>(i);
      PublishBatch& batch = batches[home.value()];
      batch.bytes += event.bytes.size();
      batch.events.push_back(std::move(event));
      numbers[home.value()].push_back(life_ << 32 | (next_ - count + i));
    }
    auto left = std::make_shared<std::atomic<int>>(1);
    const auto finish = [this, left] {
      if (--*left == 0) load_.Post([this] { Publish(); });
    };
    for (std::uint32_t home = 0; home < kPartitions; ++home) {
      if (batches[home].events.empty()) continue;
      ++*left;
      batches[home].keep_alive = keep;
      batches[home].done = [this, finish, mine = numbers[home]](const PublishOutcome& outcome) {
        if (outcome.status.ok() && outcome.verdicts.empty()) {
          for (const std::uint64_t number : mine) {
            Told told;
            told.what = What::kAnswered;
            told.event = number;
            Tell(told);
          }
        }
        finish();
      };
      if (!shards_->TryPublish(PartitionId(home), batches[home]).ok()) finish();
    }
    finish();
  }

  void Answer(Worker& worker, Told told, std::uint64_t handle) {
    FrameAnswers frame;
    frame.started_through = std::max(started_, handle);
    const std::uint64_t choice = drain_ ? 100 : random_.Below(100);
    HandleAnswer answer;
    answer.handle = handle;
    told.what = choice < 12 ? What::kFails : What::kAcks;
    Tell(told);
    told.what = choice < 10 ? What::kFailed : What::kConfirmed;
    std::uint64_t emitted = 0;
    if (choice < 10) {
      answer.outcome = Retry{"flaky", "again", std::nullopt};
    } else if (choice < 12) {
      answer.outcome = Reject{"never"};
    } else {
      answer.outcome = Ack{};
      if (choice < 17 && told.event < kEmittedBit && told.run == 0) {
        emitted = kEmittedBit | std::uint64_t{told.partition} << 60 |
                  std::uint64_t{told.trigger} << 56 | told.offset;
        answer.emitted.push_back(MakeEvent(emitted, 20));
      }
    }
    frame.others.push_back(std::move(answer));
    (void)worker.session->OnAnswers(std::move(frame), clock_.Monotonic(), [this, told, emitted] {
      Tell(told);
      if (emitted == 0) return;
      Told other = told;
      other.what = What::kEmitted;
      other.event = emitted;
      Tell(other);
    });
  }

  const int pipe_;
  const std::uint64_t life_;
  const bool drain_;
  SystemClock clock_;
  SeededRandom random_;
  SeededRandom journal_random_{SystemSeed()}, one_{SystemSeed()}, two_{SystemSeed()};
  std::uint64_t next_ = 0;
  std::uint64_t started_ = 0;
  std::unique_ptr<FileSystem> fs_;
  ThreadExecutor first_{"shard-0", clock_}, second_{"shard-1", clock_}, load_{"load", clock_};
  std::unique_ptr<FileJournal> journal_;
  std::unique_ptr<Shards> shards_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::vector<std::shared_ptr<Worker>> workers_;
};

void Worker::Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) {
  for (const OutgoingDelivery& delivery : deliveries) broker_.Came(*this, delivery);
}

// What the parent knows of a directory, over its lives.
class Ledger {
 public:
  void BeginLife() {
    leased_.clear();
    seen_.clear();
    highest_.clear();
  }

  void Hear(const Told& told) {
    const Id id{told.partition, told.offset, told.trigger, told.run};
    const Key key{told.partition, told.trigger, told.key};
    switch (told.what) {
      case What::kAnswered:
        answered_.insert(told.event);
        break;
      case What::kRuns: {
        ++runs_;
        EXPECT_FALSE(settled_.contains(id)) << Name(id) << " came after it was settled for good";
        EXPECT_LE(told.attempt, kAttempts);
        const auto failed = failed_.find(id);
        EXPECT_TRUE(failed == failed_.end() || told.attempt > failed->second) << Name(id);
        EXPECT_TRUE(leased_.emplace(key, id).second)
            << Name(id) << " came while " << Name(leased_[key]) << " of its key is under way";
        if (seen_.insert(id).second && told.run == 0) {
          std::uint64_t& highest = highest_[key];
          EXPECT_GE(told.offset + 1, highest) << Name(id) << " came after a later one of its key";
          highest = told.offset + 1;
        }
        break;
      }
      case What::kAcks:
        acked_.emplace(told.event, told.trigger);
        leased_.erase(key);
        break;
      case What::kFails:
        leased_.erase(key);
        break;
      case What::kConfirmed:
        settled_.insert(id);
        break;
      case What::kFailed:
        failed_[id] = std::max(failed_[id], told.attempt);
        break;
      case What::kEmitted:
        emitted_.insert(told.event);
        break;
      case What::kDrained:
        break;
    }
  }

  void CheckAll() const {
    for (const std::set<std::uint64_t>* events : {&answered_, &emitted_}) {
      for (const std::uint64_t event : *events) {
        for (std::uint32_t trigger = 0; trigger < kTriggers; ++trigger) {
          ASSERT_TRUE(acked_.contains({event, trigger}))
              << event << " was answered or emitted, and never acked by trigger " << trigger;
        }
      }
    }
  }
  std::size_t answered() const { return answered_.size(); }
  std::size_t emitted() const { return emitted_.size(); }
  std::uint64_t runs() const { return runs_; }

 private:
  using Id = std::tuple<std::uint32_t, std::uint64_t, std::uint32_t, std::uint32_t>;
  using Key = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>;
  static std::string Name(const Id& id) {
    return fmt::format("{}/{}/{}/{}", std::get<0>(id), std::get<1>(id), std::get<2>(id),
                       std::get<3>(id));
  }

  std::set<std::uint64_t> answered_, emitted_;
  std::set<std::pair<std::uint64_t, std::uint32_t>> acked_;
  std::set<Id> settled_, seen_;
  std::map<Id, std::uint32_t> failed_;
  std::map<Key, Id> leased_;
  std::map<Key, std::uint64_t> highest_;
  std::uint64_t runs_ = 0;
};

std::uint64_t FromEnvironment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

// One life; `drain`: until nothing is left, else until the kill.
void Live(const std::string& dir, SeededRandom& random, std::uint64_t life, bool drain,
          Ledger& ledger) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    const Broker broker(dir, ends[1], life, drain);
    while (true) pause();
  }
  close(ends[1]);
  ledger.BeginLife();
  // At a moment while it opens, or when so much was heard.
  const bool early = !drain && random.Below(4) == 0;
  if (early) {
    pollfd nothing{};
    timespec wait{0, static_cast<long>(random.Below(8'000'000))};
    (void)ppoll(&nothing, 0, &wait, nullptr);
    kill(child, SIGKILL);
  }
  const std::uint64_t kill_after = 1 + random.Below(6000);
  std::uint64_t heard = 0;
  Told told;
  while (read(ends[0], &told, sizeof(told)) == sizeof(told)) {
    ledger.Hear(told);
    if (drain ? told.what == What::kDrained : ++heard == kill_after) kill(child, SIGKILL);
  }
  close(ends[0]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the broker ended itself";
}

// TOCSIN_KILLS asks for more.
TEST(PartitionKillTest, F1WhateverMomentABrokerIsKilledAtItsPromisesHold) {
  const std::uint64_t seed = FromEnvironment("TOCSIN_SEED", SystemSeed());
  const std::uint64_t kills = FromEnvironment("TOCSIN_KILLS", 2 * kLives);
  fmt::print("TOCSIN_SEED={}, {} kills\n", seed, kills);
  SeededRandom random(seed);
  std::uint64_t answered = 0, emitted = 0, runs = 0;
  for (std::uint64_t done = 0; done < kills && !HasFailure(); done += kLives) {
    std::string dir = (std::filesystem::temp_directory_path() / "tocsin-kill-XXXXXX").string();
    ASSERT_NE(mkdtemp(dir.data()), nullptr);
    Ledger ledger;
    for (std::uint64_t life = 0; life < kLives && !HasFailure(); ++life) {
      Live(dir, random, life, life + 1 == kLives, ledger);
    }
    if (!HasFailure()) ledger.CheckAll();
    answered += ledger.answered();
    emitted += ledger.emitted();
    runs += ledger.runs();
    std::filesystem::remove_all(dir);
  }
  fmt::print("{} events answered, {} emitted, {} runs\n", answered, emitted, runs);
  EXPECT_GT(answered, 0u);
  EXPECT_GT(emitted, 0u);
}

}  // namespace
}  // namespace tocsin

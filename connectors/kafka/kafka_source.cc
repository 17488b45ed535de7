#include "connectors/kafka/kafka_source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "broker/base/mutex.h"
#include "broker/base/status.h"
#include "connectors/kafka/kafka_client.h"
#include "connectors/kafka/kafka_lane.h"

namespace tocsin {
namespace {

constexpr Duration kLookAgain = std::chrono::seconds(1);
constexpr Duration kCommitsWait = std::chrono::seconds(2);
constexpr Duration kServeEvery = std::chrono::milliseconds(100);

class KafkaSource final : public SourceLanes {
 public:
  KafkaSource(const KafkaSpec& spec, KafkaSourcePorts ports, std::shared_ptr<KafkaClient> client,
              RecordMapper mapper)
      : spec_(spec),
        ports_(std::move(ports)),
        state_(std::make_shared<State>()),
        client_(std::move(client)),
        mapper_(std::make_shared<const RecordMapper>(std::move(mapper))) {}

  // The lanes are gone; what they left on the threads is done before the client goes.
  ~KafkaSource() override {
    {
      MutexLock lock(mutex_);
      stopped_ = true;
    }
    ports_.control->Stop();
    ports_.lanes->Post([client = client_] {
      if (client->group() != nullptr) client->group()->Leave();
    });
    ports_.lanes->Stop();
  }

  void Start(OnLanes on_lanes) override {
    state_->on_lanes = std::move(on_lanes);
    ports_.lanes->Post([this] { Serve(); });
    if (spec_.group.empty()) {
      ports_.control->Post([this] { Discover(); });
      return;
    }
    ports_.lanes->Post([this] {
      const absl::Status joined = client_->group()->Join(
          [this](const std::set<KafkaPartition>& partitions) { Tell(partitions); });
      if (!joined.ok()) SetProblem(joined);
    });
  }

  std::unique_ptr<SourceConnector> MakeLane(const std::string& key) override {
    // The keys are those that Tell() gave.
    return std::make_unique<KafkaLane>(KafkaPartition::FromKey(key).value_or(KafkaPartition()),
                                       client_, mapper_, ports_.owner);
  }

  void Gone(const std::string& key) override {
    const auto partition = KafkaPartition::FromKey(key);
    if (!partition || client_->group() == nullptr) return;
    ports_.lanes->Post(
        [client = client_, partition = *partition] { client->group()->Released(partition); });
  }

  void Stop() override {
    state_->on_lanes = nullptr;
    {
      MutexLock lock(mutex_);
      stopped_ = true;
    }
    if (client_->group() == nullptr) return;
    // Who stops waits for what is being committed, but not long for a group that is away.
    ports_.lanes->PostAt(ports_.clock.Monotonic() + kCommitsWait,
                         [client = client_] { client->group()->GiveUp(); });
  }

  absl::Status problem() const override {
    {
      MutexLock lock(mutex_);
      if (!problem_.ok()) return problem_;
    }
    return client_->problem();
  }

 private:
  // What callbacks on the owner's executor need, which may outlive this object.
  struct State {
    OnLanes on_lanes;  // of the owner's executor; null: stopped
  };

  bool stopped() const {
    MutexLock lock(mutex_);
    return stopped_;
  }
  void SetProblem(absl::Status problem) {
    MutexLock lock(mutex_);
    problem_ = std::move(problem);
  }
  void Tell(const std::set<KafkaPartition>& partitions) {
    std::vector<std::string> keys;
    keys.reserve(partitions.size());
    for (const KafkaPartition& partition : partitions) keys.push_back(partition.Key());
    ports_.owner.Post([state = state_, keys = std::move(keys)] {
      if (state->on_lanes) state->on_lanes(keys);
    });
  }

  // On `lanes`: callbacks of the library.
  void Serve() {
    if (stopped() && (client_->group() == nullptr || !client_->group()->committing())) return;
    client_->Serve();
    ports_.lanes->PostAt(ports_.clock.Monotonic() + kServeEvery, [this] { Serve(); });
  }

  // On `control`.
  void Discover() {
    if (stopped()) return;
    std::vector<std::string> missing;
    absl::StatusOr<std::set<KafkaPartition>> found = client_->AskPartitions(missing);
    Duration wait = spec_.discover;
    if (!found.ok()) {
      SetProblem(found.status());
      wait = std::min(wait, kLookAgain);
    } else {
      if (!missing.empty()) {
        SetProblem(
            absl::NotFoundError(fmt::format("there is no topic {}", fmt::join(missing, ", "))));
        wait = std::min(wait, kLookAgain);
      } else if (found->empty()) {
        SetProblem(absl::NotFoundError("no topic matches yet"));
        wait = std::min(wait, kLookAgain);
      } else {
        SetProblem(absl::OkStatus());
      }
      // A named topic that is gone keeps its lanes, which say so.
      for (const KafkaPartition& known : known_) {
        if (std::find(spec_.topics.begin(), spec_.topics.end(), known.topic) !=
            spec_.topics.end()) {
          found->insert(known);
        }
      }
      if (*found != known_) {
        known_ = *found;
        Tell(known_);
      }
    }
    ports_.control->PostAt(ports_.clock.Monotonic() + wait, [this] { Discover(); });
  }

  const KafkaSpec spec_;
  KafkaSourcePorts ports_;
  const std::shared_ptr<State> state_;
  const std::shared_ptr<KafkaClient> client_;
  const std::shared_ptr<const RecordMapper> mapper_;
  std::set<KafkaPartition> known_;  // of `control`

  mutable Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status problem_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<SourceLanes>> MakeKafkaSource(const KafkaSpec& spec,
                                                             KafkaSourcePorts ports) {
  TOCSIN_ASSIGN_OR_RETURN(
      RecordMapper mapper,
      RecordMapper::Make(spec.name, "kafka", spec.envelope, spec.event, KafkaTemplateNames()));
  TOCSIN_ASSIGN_OR_RETURN(std::shared_ptr<KafkaClient> client,
                          KafkaClient::Make(spec, {ports.clock, *ports.lanes, *ports.control}));
  return std::make_unique<KafkaSource>(spec, std::move(ports), std::move(client),
                                       std::move(mapper));
}

absl::StatusOr<std::string> CheckKafka(const KafkaSpec& spec, KafkaSourcePorts ports) {
  KafkaSpec alone = spec;
  alone.group.clear();
  TOCSIN_ASSIGN_OR_RETURN(const std::shared_ptr<KafkaClient> client,
                          KafkaClient::Make(alone, {ports.clock, *ports.lanes, *ports.control}));
  const auto explained = [&client](const absl::Status& status) {
    client->Serve();
    const absl::Status why = client->problem();
    return why.ok() ? status : why;
  };
  const absl::StatusOr<std::string> cluster = client->AskClusterId();
  if (!cluster.ok()) return explained(cluster.status());
  std::vector<std::string> missing;
  const absl::StatusOr<std::set<KafkaPartition>> found = client->AskPartitions(missing);
  if (!found.ok()) return explained(found.status());
  if (!missing.empty()) {
    return absl::NotFoundError(
        fmt::format("cluster {} has no topic {}", *cluster, fmt::join(missing, ", ")));
  }
  return fmt::format("cluster {}: {} partitions", *cluster, found->size());
}

}  // namespace tocsin

#include "broker/server/source_kinds.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/thread_executor.h"
#include "connectors/database/postgres/postgres_source.h"
#include "connectors/file/file_connector.h"
#include "connectors/file/system_tree.h"
#include "connectors/file/tail_connector.h"
#include "connectors/kafka/kafka_source.h"
#include "connectors/redis/redis_source.h"
#include "connectors/zeromq/zeromq_connector.h"

namespace tocsin {
namespace {

// A source of one lane, with the key "".
class OneLane : public SourceLanes {
 public:
  using Maker = absl::AnyInvocable<std::unique_ptr<SourceConnector>()>;
  OneLane(Executor& owner, Maker maker) : owner_(owner), maker_(std::move(maker)) {}

  void Start(OnLanes on_lanes) override {
    owner_.Post([on_lanes = std::move(on_lanes)]() mutable { on_lanes({""}); });
  }
  std::unique_ptr<SourceConnector> MakeLane(const std::string&) override { return maker_(); }
  void Gone(const std::string&) override {}
  void Stop() override {}
  absl::Status problem() const override { return absl::OkStatus(); }

 private:
  Executor& owner_;
  Maker maker_;
};

// What a file connector works on lives here, so longer than it.
struct FileParts {
  std::unique_ptr<DirectoryTree> tree;
  std::unique_ptr<ThreadExecutor> thread;
};

std::string ThreadName(const SourceConfig& source) { return fmt::format("s-{}", source.name); }

KafkaSourcePorts KafkaPorts(const std::string& name, const Clock& clock, Executor& owner) {
  return {.clock = clock,
          .owner = owner,
          .lanes = std::make_unique<ThreadExecutor>(fmt::format("s-{}", name), clock),
          .control = std::make_unique<ThreadExecutor>(fmt::format("c-{}", name), clock)};
}

struct Maker {
  SourceConfig source;
  const Clock& clock;
  Executor& owner;
  using Made = absl::StatusOr<std::unique_ptr<SourceLanes>>;

  BlockingConnector::Ports Ports() const {
    return {clock, owner, std::make_unique<ThreadExecutor>(ThreadName(source), clock)};
  }

  Made operator()(const FileSpec& spec) const {
    auto parts = std::make_unique<FileParts>();
    TOCSIN_ASSIGN_OR_RETURN(parts->tree, MakeSystemTree(spec.path, clock));
    parts->thread = std::make_unique<ThreadExecutor>(ThreadName(source), clock);
    return std::make_unique<OneLane>(
        owner,
        [spec, parts = std::move(parts), &clock = clock,
         &owner = owner]() -> std::unique_ptr<SourceConnector> {
          return std::make_unique<FileConnector>(
              spec, FileConnector::Ports{*parts->tree, clock, owner, *parts->thread});
        });
  }
  Made operator()(const RedisSpec& spec) const {
    // Once now, so that what cannot be made is told at the start.
    TOCSIN_RETURN_IF_ERROR(MakeRedisConnector(spec, Ports()).status());
    return std::make_unique<OneLane>(
        owner, [spec, self = *this] { return *MakeRedisConnector(spec, self.Ports()); });
  }
  Made operator()(const TailSpec& spec) const {
    TOCSIN_RETURN_IF_ERROR(MakeTailConnector(spec, Ports()).status());
    return std::make_unique<OneLane>(
        owner, [spec, self = *this] { return *MakeTailConnector(spec, self.Ports()); });
  }
  Made operator()(const KafkaSpec& spec) const {
    return MakeKafkaSource(spec, KafkaPorts(source.name, clock, owner));
  }
  Made operator()(ZeromqSpec spec) const {
    spec.reconnect_max = std::min(spec.reconnect_max, source.backoff_max);
    TOCSIN_RETURN_IF_ERROR(MakeZeromqConnector(spec, Ports()).status());
    return std::make_unique<OneLane>(
        owner, [spec, self = *this] { return *MakeZeromqConnector(spec, self.Ports()); });
  }
  Made operator()(const PostgresSpec& spec) const {
    const auto make = [spec, self = *this] {
      return MakePostgresConnector(
          spec, self.Ports(),
          std::make_unique<ThreadExecutor>(fmt::format("r-{}", self.source.name), self.clock));
    };
    TOCSIN_RETURN_IF_ERROR(make().status());
    return std::make_unique<OneLane>(owner, [make] { return *make(); });
  }
  Made operator()(const TimerSpec&) const {
    return absl::InternalError("a timer has no connector: the partitions run it");
  }
};

}  // namespace

std::string_view KindOfSource(const SourceSpec& spec) {
  struct Name {
    std::string_view operator()(const FileSpec&) const { return "file"; }
    std::string_view operator()(const TailSpec&) const { return "tail"; }
    std::string_view operator()(const TimerSpec&) const { return "timer"; }
    std::string_view operator()(const KafkaSpec&) const { return "kafka"; }
    std::string_view operator()(const RedisSpec&) const { return "redis"; }
    std::string_view operator()(const ZeromqSpec&) const { return "zeromq"; }
    std::string_view operator()(const PostgresSpec&) const { return "postgres"; }
  };
  return std::visit(Name(), spec);
}

absl::StatusOr<std::unique_ptr<SourceLanes>> MakeSourceLanes(const SourceConfig& source,
                                                             const Clock& clock, Executor& owner) {
  return std::visit(Maker{source, clock, owner}, source.spec);
}

}  // namespace tocsin

#include "broker/server/source_check.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <variant>

#include "broker/base/status.h"
#include "broker/base/thread_executor.h"
#include "broker/schedule/schedule.h"
#include "connectors/database/postgres/postgres_source.h"
#include "connectors/file/system_tree.h"
#include "connectors/kafka/kafka_source.h"
#include "connectors/redis/redis_source.h"
#include "connectors/zeromq/zeromq_connector.h"

namespace tocsin {
namespace {

struct Checker {
  const Clock& clock;
  using Checked = absl::StatusOr<std::string>;

  Checked operator()(const FileSpec& spec) const {
    TOCSIN_ASSIGN_OR_RETURN(const std::unique_ptr<DirectoryTree> tree,
                            MakeSystemTree(spec.path, clock));
    TOCSIN_ASSIGN_OR_RETURN(const TreeRoot root, tree->Open());
    if (root.remote && spec.mode == WatchMode::kInotify) {
      return absl::FailedPreconditionError(
          fmt::format("{} is on a network file system; say `mode: poll` (or `auto`)", spec.path));
    }
    TOCSIN_ASSIGN_OR_RETURN(const std::vector<TreeEntry> entries, tree->List(""));
    return fmt::format("{} is there, with {} entries{}", spec.path, entries.size(),
                       root.remote ? "; on a network file system, so it is polled" : "");
  }
  Checked operator()(const TailSpec& spec) const {
    const int file = ::open(spec.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0) {
      return absl::NotFoundError(
          fmt::format("{} cannot be opened: {}", spec.path, std::strerror(errno)));
    }
    ::close(file);
    return fmt::format("{} can be read", spec.path);
  }
  Checked operator()(const TimerSpec& spec) const {
    TOCSIN_RETURN_IF_ERROR(Schedule::Parse(spec.schedule).status());
    return fmt::format("`{}` in {}", spec.schedule.cron, spec.schedule.timezone);
  }
  Checked operator()(const RedisSpec& spec) const { return CheckRedis(spec, clock); }
  Checked operator()(const KafkaSpec& spec) const {
    ThreadExecutor owner("owner", clock);
    return CheckKafka(spec, {.clock = clock,
                             .owner = owner,
                             .lanes = std::make_unique<ThreadExecutor>("lanes", clock),
                             .control = std::make_unique<ThreadExecutor>("control", clock)});
  }
  Checked operator()(const ZeromqSpec& spec) const { return CheckZeromq(spec, clock); }
  Checked operator()(const PostgresSpec& spec) const { return CheckPostgres(spec, clock); }
};

}  // namespace

absl::StatusOr<std::string> CheckSource(const SourceConfig& source, const Clock& clock) {
  return std::visit(Checker{clock}, source.spec);
}

}  // namespace tocsin

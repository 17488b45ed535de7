#include "connectors/redis/redis_source.h"

#include <fmt/format.h>
#include <hiredis/hiredis.h>

#include <utility>

#include "broker/base/status.h"
#include "connectors/redis/redis_channels.h"
#include "connectors/redis/redis_group.h"
#include "connectors/redis/redis_link.h"
#include "connectors/redis/redis_list.h"
#include "connectors/redis/redis_stream.h"

namespace tocsin {

absl::StatusOr<std::unique_ptr<SourceConnector>> MakeRedisConnector(
    const RedisSpec& spec, BlockingConnector::Ports ports) {
  TOCSIN_ASSIGN_OR_RETURN(RedisRecords records, RedisRecords::Make(spec));
  switch (spec.take) {
    case RedisTake::kStream:
      if (!spec.group.empty()) {
        return std::make_unique<RedisGroup>(spec, std::move(records), std::move(ports));
      }
      return std::make_unique<RedisStream>(spec, std::move(records), std::move(ports));
    case RedisTake::kList:
      return std::make_unique<RedisList>(spec, std::move(records), std::move(ports));
    case RedisTake::kChannels:
    case RedisTake::kKeyevents:
      return std::make_unique<RedisChannels>(spec, std::move(records), std::move(ports));
  }
  return absl::InternalError("a kind of redis source is not known");
}

absl::StatusOr<std::string> CheckRedis(const RedisSpec& spec, const Clock& clock) {
  TOCSIN_ASSIGN_OR_RETURN(const std::unique_ptr<RedisLink> link, RedisLink::Open(spec, clock));
  if (spec.take == RedisTake::kChannels) {
    TOCSIN_RETURN_IF_ERROR(link->Call({"PING"}).status());
    return fmt::format("{}: logged in; channels need not be there", spec.Endpoint());
  }
  if (spec.take == RedisTake::kKeyevents) {
    link->Send({"CONFIG", "GET", "notify-keyspace-events"});
    TOCSIN_ASSIGN_OR_RETURN(const RedisReply reply, link->Receive());
    const auto pair = ElementsOf(reply.get());
    if (pair.size() != 2) {
      return fmt::format("{}: logged in; its notify-keyspace-events cannot be asked",
                         spec.Endpoint());
    }
    const std::string_view flags = TextOf(pair[1]);
    if (flags.find('E') == std::string_view::npos) {
      return absl::FailedPreconditionError(
          fmt::format("{}: notify-keyspace-events is '{}': it sends no notifications; `CONFIG SET "
                      "notify-keyspace-events EA`",
                      spec.Endpoint(), flags));
    }
    return fmt::format("{}: notifications '{}'", spec.Endpoint(), flags);
  }
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply type, link->Call({"TYPE", spec.key}));
  const std::string_view is = TextOf(type.get());
  const std::string_view wanted = spec.take == RedisTake::kList ? "list" : "stream";
  if (is != wanted && is != "none") {
    return absl::FailedPreconditionError(
        fmt::format("{}: `{}` is a {}, not a {}", spec.Endpoint(), spec.key, is, wanted));
  }
  if (is == "none") {
    return fmt::format("{}: {} `{}` is not there yet", spec.Endpoint(), wanted, spec.key);
  }
  const std::string command = wanted == "list" ? "LLEN" : "XLEN";
  TOCSIN_ASSIGN_OR_RETURN(const RedisReply length, link->Call({command, spec.key}));
  return fmt::format("{}: {} `{}` with {} {}", spec.Endpoint(), wanted, spec.key,
                     NumberOf(length.get()).value_or(0), wanted == "list" ? "elements" : "entries");
}

}  // namespace tocsin

// RedisRecord: what Redis gives, as records for the mapper.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "connectors/record_event.h"
#include "connectors/redis/redis_spec.h"

struct redisReply;

namespace tocsin {

class RedisRecords {
 public:
  static absl::StatusOr<RedisRecords> Make(const RedisSpec& spec);

  // Each gives the bytes that the batch grew by.
  // An entry of a stream: `fields` is an array of names and values.
  std::size_t AddEntry(std::string_view id, const redisReply* fields, SourceBatch& batch) const;
  // An element of a list, by its number.
  std::size_t AddElement(std::uint64_t number, std::string_view value, SourceBatch& batch) const;
  std::size_t AddMessage(std::string_view id, std::string_view channel, std::string_view payload,
                         WallTime now, SourceBatch& batch) const;
  // `event` is `expired`, `set`, ...
  std::size_t AddKeyevent(std::string_view id, std::string_view event, std::string_view key,
                          WallTime now, SourceBatch& batch) const;

 private:
  RedisRecords(RedisSpec spec, RecordMapper mapper)
      : spec_(std::move(spec)), mapper_(std::move(mapper)) {}

  RedisSpec spec_;
  RecordMapper mapper_;
};

// The milliseconds of an id that the server made (`1700000000000-0`); nullopt for ids of one's own.
std::optional<WallTime> TimeOfEntry(std::string_view id);

}  // namespace tocsin

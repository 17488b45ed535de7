// RedisLink: one connection to a Redis server, logged in and on its database.
//
// Threading: one thread. Every wait is bounded by the spec's timeout or by the caller.

#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "connectors/redis/redis_spec.h"

struct redisContext;
struct redisReply;

namespace tocsin {

struct RedisFree {
  void operator()(redisContext* context) const;
  void operator()(redisReply* reply) const;
};
using RedisReply = std::unique_ptr<redisReply, RedisFree>;

// The text of a string or status reply; empty for others.
std::string_view TextOf(const redisReply* reply);
// The elements of an array reply; none for others.
std::span<redisReply* const> ElementsOf(const redisReply* reply);
// The value behind a name in a flat array of names and values; nullptr if it is not there.
const redisReply* FieldOf(const redisReply* reply, std::string_view name);
// Of an integer reply, or of text that is a number.
std::optional<std::int64_t> NumberOf(const redisReply* reply);

// OK unless the reply is an error of the server:
//   kPermissionDenied     NOAUTH, WRONGPASS, NOPERM
//   kNotFound             NOGROUP, no such key
//   kUnavailable          LOADING, BUSY, MASTERDOWN, READONLY, too many clients
//   kFailedPrecondition   WRONGTYPE and the rest
absl::Status StatusOf(const redisReply* reply, const RedisSpec& spec, std::string_view doing);

class RedisLink {
 public:
  //   kUnavailable       no connection, or the server is not ready
  //   kPermissionDenied  the login was refused
  static absl::StatusOr<std::unique_ptr<RedisLink>> Open(const RedisSpec& spec, const Clock& clock);

  // Sends with the next Receive(), Await() or Flush().
  void Send(std::initializer_list<std::string_view> words);
  void Send(std::span<const std::string_view> words);
  absl::Status Flush();

  // The next answer; an error of the server is an answer.
  //   kUnavailable  the connection is gone, or there was no answer in time
  absl::StatusOr<RedisReply> Receive();

  // Send and Receive; an error of the server is a Status.
  absl::StatusOr<RedisReply> Call(std::initializer_list<std::string_view> words);

  // The next answer if it comes before `until`. `woken` is called whenever `wake_fd` is readable,
  // and empties it; if it gives false, nothing more is waited for.
  absl::StatusOr<RedisReply> Await(Instant until, int wake_fd, absl::FunctionRef<bool()> woken);

 private:
  RedisLink(const RedisSpec& spec, const Clock& clock) : spec_(spec), clock_(clock) {}
  absl::StatusOr<RedisReply> Buffered();
  absl::Status Broken() const;

  const RedisSpec& spec_;
  const Clock& clock_;
  std::unique_ptr<redisContext, RedisFree> context_;
};

}  // namespace tocsin

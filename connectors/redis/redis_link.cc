#include "connectors/redis/redis_link.h"

#include <fmt/format.h>
#include <hiredis/hiredis.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>

#include "broker/base/status.h"

namespace tocsin {
namespace {

timeval ToTimeval(Duration duration) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
  timeval out{};
  out.tv_sec = us / 1'000'000;
  out.tv_usec = us % 1'000'000;
  return out;
}

int MillisecondsUntil(Instant until, Instant now) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

}  // namespace

void RedisFree::operator()(redisContext* context) const { redisFree(context); }
void RedisFree::operator()(redisReply* reply) const { freeReplyObject(reply); }

std::string_view TextOf(const redisReply* reply) {
  if (reply == nullptr || reply->str == nullptr) return {};
  if (reply->type != REDIS_REPLY_STRING && reply->type != REDIS_REPLY_STATUS) return {};
  return {reply->str, reply->len};
}

std::span<redisReply* const> ElementsOf(const redisReply* reply) {
  if (reply == nullptr || reply->type != REDIS_REPLY_ARRAY) return {};
  return {reply->element, reply->elements};
}

const redisReply* FieldOf(const redisReply* reply, std::string_view name) {
  const auto elements = ElementsOf(reply);
  for (std::size_t i = 0; i + 1 < elements.size(); i += 2) {
    if (TextOf(elements[i]) == name) return elements[i + 1];
  }
  return nullptr;
}

std::optional<std::int64_t> NumberOf(const redisReply* reply) {
  if (reply == nullptr) return std::nullopt;
  if (reply->type == REDIS_REPLY_INTEGER) return reply->integer;
  const std::string_view text = TextOf(reply);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

absl::Status StatusOf(const redisReply* reply, const RedisSpec& spec, std::string_view doing) {
  if (reply == nullptr || reply->type != REDIS_REPLY_ERROR) return absl::OkStatus();
  const std::string_view said(reply->str, reply->len);
  const std::string text = fmt::format("{}: {}: {}", spec.Endpoint(), doing, said);
  const auto is = [said](std::string_view word) { return said.starts_with(word); };
  if (is("NOAUTH") || is("WRONGPASS") || is("NOPERM") || is("ERR invalid password") ||
      is("ERR AUTH") || is("ERR Client sent AUTH")) {
    return absl::PermissionDeniedError(text + "; look at `user`, `password` and the server's ACL");
  }
  if (is("NOGROUP") || said.find("no such key") != std::string_view::npos) {
    return absl::NotFoundError(text);
  }
  if (said.find("FENCED") != std::string_view::npos) {
    return absl::FailedPreconditionError(fmt::format(
        "{}: somebody else takes from the same processing list; give each source its own "
        "(`processing`)",
        spec.Endpoint()));
  }
  if (is("LOADING") || is("BUSY ") || is("MASTERDOWN") || is("READONLY") || is("TRYAGAIN") ||
      is("CLUSTERDOWN") || is("ERR max number of clients")) {
    return absl::UnavailableError(text);
  }
  return absl::FailedPreconditionError(text);
}

absl::StatusOr<std::unique_ptr<RedisLink>> RedisLink::Open(const RedisSpec& spec,
                                                           const Clock& clock) {
  std::unique_ptr<RedisLink> link(new RedisLink(spec, clock));
  const timeval timeout = ToTimeval(spec.timeout);
  link->context_.reset(spec.unix_socket.empty()
                           ? redisConnectWithTimeout(spec.host.c_str(), spec.port, timeout)
                           : redisConnectUnixWithTimeout(spec.unix_socket.c_str(), timeout));
  if (link->context_ == nullptr) return absl::UnavailableError("no memory for a connection");
  if (link->context_->err != 0) return link->Broken();
  if (redisSetTimeout(link->context_.get(), timeout) != REDIS_OK) return link->Broken();
  // A server that vanished without a word is noticed.
  if (spec.unix_socket.empty() && redisEnableKeepAlive(link->context_.get()) != REDIS_OK) {
    return link->Broken();
  }
  if (!spec.password.empty()) {
    if (spec.user.empty()) {
      TOCSIN_RETURN_IF_ERROR(link->Call({"AUTH", spec.password}).status());
    } else {
      TOCSIN_RETURN_IF_ERROR(link->Call({"AUTH", spec.user, spec.password}).status());
    }
  }
  if (spec.database != 0) {
    TOCSIN_RETURN_IF_ERROR(link->Call({"SELECT", std::to_string(spec.database)}).status());
  }
  return link;
}

absl::Status RedisLink::Broken() const {
  const char* said = context_->errstr;
  const bool timed_out = context_->err == REDIS_ERR_IO && (errno == EAGAIN || errno == EWOULDBLOCK);
  return absl::UnavailableError(
      fmt::format("{}: {}", spec_.Endpoint(), timed_out ? "no answer in time" : said));
}

void RedisLink::Send(std::span<const std::string_view> words) {
  std::vector<const char*> texts;
  std::vector<std::size_t> sizes;
  texts.reserve(words.size());
  sizes.reserve(words.size());
  for (const std::string_view word : words) {
    texts.push_back(word.data() == nullptr ? "" : word.data());
    sizes.push_back(word.size());
  }
  // Only memory can be lacking here; a broken connection shows when it is written.
  (void)redisAppendCommandArgv(context_.get(), static_cast<int>(words.size()), texts.data(),
                               sizes.data());
}

void RedisLink::Send(std::initializer_list<std::string_view> words) {
  Send(std::span<const std::string_view>(words.begin(), words.size()));
}

absl::Status RedisLink::Flush() {
  int done = 0;
  while (done == 0) {
    if (redisBufferWrite(context_.get(), &done) != REDIS_OK) return Broken();
  }
  return absl::OkStatus();
}

absl::StatusOr<RedisReply> RedisLink::Receive() {
  void* reply = nullptr;
  errno = 0;
  if (redisGetReply(context_.get(), &reply) != REDIS_OK || reply == nullptr) return Broken();
  return RedisReply(static_cast<redisReply*>(reply));
}

absl::StatusOr<RedisReply> RedisLink::Call(std::initializer_list<std::string_view> words) {
  Send(words);
  TOCSIN_ASSIGN_OR_RETURN(RedisReply reply, Receive());
  TOCSIN_RETURN_IF_ERROR(StatusOf(reply.get(), spec_, *words.begin()));
  return reply;
}

absl::StatusOr<RedisReply> RedisLink::Buffered() {
  void* reply = nullptr;
  if (redisGetReplyFromReader(context_.get(), &reply) != REDIS_OK) return Broken();
  return RedisReply(static_cast<redisReply*>(reply));
}

absl::StatusOr<RedisReply> RedisLink::Await(Instant until, int wake_fd,
                                            absl::FunctionRef<bool()> woken) {
  TOCSIN_RETURN_IF_ERROR(Flush());
  while (true) {
    TOCSIN_ASSIGN_OR_RETURN(RedisReply reply, Buffered());
    if (reply != nullptr) return reply;
    pollfd waited[2] = {{context_->fd, POLLIN, 0}, {wake_fd, POLLIN, 0}};
    const Instant now = clock_.Monotonic();
    const int ready = ::poll(waited, 2, MillisecondsUntil(until, now));
    if (ready < 0 && errno != EINTR) return absl::UnavailableError("poll failed");
    if (ready > 0 && waited[1].revents != 0 && !woken()) return RedisReply();
    if (ready > 0 && waited[0].revents != 0) {
      errno = 0;
      if (redisBufferRead(context_.get()) != REDIS_OK) return Broken();
      continue;
    }
    if (ready <= 0 && clock_.Monotonic() >= until) return RedisReply();
  }
}

}  // namespace tocsin

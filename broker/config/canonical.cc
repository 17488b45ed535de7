#include <openssl/evp.h>

#include "broker/base/check.h"
#include "broker/base/json_scan.h"
#include "broker/base/time_text.h"
#include "broker/config/config.h"

namespace tocsin {
namespace {

std::string_view OrderName(Order order) {
  switch (order) {
    case Order::kKey:
      return "key";
    case Order::kPartition:
      return "partition";
    case Order::kNone:
      return "none";
  }
  return "";
}

std::string Quoted(std::string_view text) {
  std::string out;
  AppendJsonString(out, text);
  return out;
}

std::string OptionalSpan(const std::optional<Duration>& span) {
  return span ? Quoted(FormatDuration(*span)) : "null";
}

std::string BatchJson(const BatchPolicy& batch) {
  if (batch.events_max == 1) return "";
  return fmt::format(R"("batch":{{"max_events":{},"max_wait":{}}},)", batch.events_max,
                     Quoted(FormatDuration(batch.wait_max)));
}

std::string RateJson(const Rate& rate) {
  if (rate.count == 0) return "";
  const char unit = rate.per >= std::chrono::hours(24)    ? 'd'
                    : rate.per >= std::chrono::hours(1)   ? 'h'
                    : rate.per >= std::chrono::minutes(1) ? 'm'
                                                          : 's';
  return fmt::format(R"("rate":"{}/{}",)", rate.count, unit);
}

}  // namespace

// Changing this text changes every trigger's config hash, which makes all of them new generations
// at the next start: add a key only where it is not at its default.
std::string CanonicalTriggerJson(const TriggerPolicy& policy, const RouteSpec& route) {
  std::string sources;
  for (const std::string& source : route.sources) {
    if (!sources.empty()) sources += ',';
    sources += Quoted(source);
  }
  return fmt::format(
      R"({{"backlog":{{"max_age":{},"max_size":{},"when_full":"{}"}},{}"concurrency":{},)"
      R"("filters":{},"function":{},"on_exhausted":"{}","order":"{}",{}{})"
      R"("retry":{{"attempts":{},"backoff":{},"factor":{},"jitter":"{}","max_age":{},)"
      R"("max_backoff":{}}},"sources":[{}],"timeout":{},"timeout_max":{}{}}})",
      OptionalSpan(policy.backlog.age_max),
      policy.backlog.size_max ? fmt::format("{}", *policy.backlog.size_max) : "null",
      policy.backlog.when_full == WhenFull::kDrop ? "drop" : "refuse", BatchJson(policy.batch),
      policy.concurrency, route.filter == nullptr ? "null" : route.filter->ToJson(),
      Quoted(policy.function), policy.on_exhausted == OnExhausted::kPark ? "park" : "skip",
      OrderName(policy.order),
      route.pattern == nullptr ? "" : fmt::format(R"("pattern":{},)", route.pattern->ToJson()),
      RateJson(policy.rate), policy.retry.attempts_max,
      Quoted(FormatDuration(policy.retry.backoff)), policy.retry.factor,
      policy.retry.jitter == Jitter::kNone ? "none" : "full", OptionalSpan(policy.retry.age_max),
      Quoted(FormatDuration(policy.retry.backoff_max)), sources,
      Quoted(FormatDuration(policy.timeout)), Quoted(FormatDuration(policy.timeout_max)),
      route.transform == nullptr ? ""
                                 : fmt::format(R"(,"transform":{})", route.transform->ToJson()));
}

std::string Sha256Hex(std::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  TOCSIN_CHECK(EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr) == 1,
               "SHA-256 failed");
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string text;
  text.reserve(std::size_t{size} * 2);
  for (unsigned int i = 0; i < size; ++i) {
    text.push_back(kHex[digest[i] >> 4]);
    text.push_back(kHex[digest[i] & 15]);
  }
  return text;
}

}  // namespace tocsin

// TriggerSpec: what is known of a trigger apart from its filters: its function and its policies.
// The one struct that holds their defaults; config, dispatch and partition all use it.

#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "broker/base/clock.h"

namespace tocsin {

enum class Order : std::uint8_t { kKey, kPartition, kNone };
enum class OnExhausted : std::uint8_t { kSkip, kPark };
enum class Jitter : std::uint8_t { kFull, kNone };
enum class WhenFull : std::uint8_t { kRefuse, kDrop };

struct RetryPolicy {
  std::uint32_t attempts_max = 8;  // 0: unlimited, to be spelled out
  Duration backoff = std::chrono::seconds(1);
  double factor = 2.0;
  Duration backoff_max = std::chrono::minutes(5);
  Jitter jitter = Jitter::kFull;
  std::optional<Duration> age_max;  // from the first attempt's start

  bool operator==(const RetryPolicy&) const = default;
};

struct BacklogPolicy {
  std::optional<Duration> age_max;        // from the append
  std::optional<std::uint64_t> size_max;  // pending deliveries per partition
  WhenFull when_full = WhenFull::kRefuse;

  bool operator==(const BacklogPolicy&) const = default;
};

// At most `count` deliveries begin in each `per`, evenly.
struct Rate {
  std::uint32_t count = 0;  // 0: not limited
  Duration per = std::chrono::seconds(1);

  bool operator==(const Rate&) const = default;
};

// Deliveries that go to one worker together. Each still has a lease and an answer of its own.
struct BatchPolicy {
  std::uint32_t events_max = 1;                        // 1: each goes by itself
  Duration wait_max = std::chrono::milliseconds(200);  // of the first one, for more

  bool operator==(const BatchPolicy&) const = default;
};

struct TriggerPolicy {
  std::string function;
  Duration timeout = std::chrono::seconds(30);    // lease of one attempt
  Duration timeout_max = std::chrono::hours(12);  // with every Extend
  std::uint32_t concurrency = 0;                  // in flight in this process; 0: credit bounds it
  Rate rate;                                      // attempts begun by this process
  BatchPolicy batch;
  Order order = Order::kKey;
  RetryPolicy retry;
  OnExhausted on_exhausted = OnExhausted::kSkip;
  BacklogPolicy backlog;

  bool operator==(const TriggerPolicy&) const = default;
};

struct TriggerSpec {
  std::string name;
  std::string was;          // former name, or empty
  bool from_start = false;  // a new trigger starts at the stored events' start, not at the end
  bool paused = false;      // at its first definition
  TriggerPolicy policy;
  std::string config_json;  // canonical JSON of the effective configuration
  std::string config_hash;  // SHA-256 of it, hexadecimal
};

struct QueueLimits {
  std::size_t entries_max = 8192;
  std::size_t key_entries_max = 64;
  std::size_t skipped_keys_max = 4096;
  std::uint64_t spread_max = std::uint64_t{16} << 20;  // offsets
  std::size_t park_max_keys = 1024;
};

}  // namespace tocsin

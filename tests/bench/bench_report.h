// What a benchmark says: figures over rounds as median and range, for people and as JSON.

#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "broker/base/clock.h"

namespace tocsin::bench {

// Of one figure over the rounds.
struct Spread {
  double median = 0;
  double low = 0;
  double high = 0;
};
Spread SpreadOf(std::vector<double> values);
nlohmann::json ToJson(const Spread& spread);

// Of many latencies, in microseconds.
struct Percentiles {
  std::size_t count = 0;
  double p50 = 0, p90 = 0, p99 = 0, p999 = 0, max = 0;
};
Percentiles PercentilesOf(std::vector<Duration> values);
nlohmann::json ToJson(const Percentiles& percentiles);

// "1.24 M/s", "97.3 k/s".
std::string Rate(double per_second);
// "1.24 M/s [1.10 .. 1.31]"
std::string Rates(const Spread& spread);
std::string Numbers(const Spread& spread, int digits);

// The machine and how busy others keep it.
nlohmann::json DescribeMachine(const std::string& data_dir);

}  // namespace tocsin::bench

// Metrics: counters, gauges and histograms with labels, printed in Prometheus' text format 0.0.4.
//
// A metric is registered once and then updated without a lock: a Counter or Gauge is one atomic
// cell on its own cache line, a Histogram one atomic cell per bucket. Callers on the hot path add
// once per batch. Registration and printing take a mutex. Handles live as long as the registry.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"

namespace tocsin {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

class Counter {
 public:
  void Add(std::uint64_t count = 1) { value_.fetch_add(count, std::memory_order_relaxed); }
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<std::uint64_t> value_{0};
};

class Gauge {
 public:
  void Set(double value) { value_.store(value, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<double> value_{0};
};

class Histogram {
 public:
  // `bounds` rise; one more bucket (+Inf) is added.
  explicit Histogram(std::vector<double> bounds);
  void Observe(double value);

  const std::vector<double>& bounds() const { return bounds_; }
  std::vector<std::uint64_t> CumulativeCounts() const;
  double Sum() const;

 private:
  const std::vector<double> bounds_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> counts_;
  std::atomic<double> sum_{0};
};

// Thread-safe.
class MetricsRegistry {
 public:
  MetricsRegistry();
  ~MetricsRegistry();
  MetricsRegistry(const MetricsRegistry&) = delete;
  MetricsRegistry& operator=(const MetricsRegistry&) = delete;

  // The same name and labels give the same handle. Names must begin with `tocsin_`, counters end
  // in `_total`, and one name has one type and help text: anything else is a bug (TOCSIN_CHECK).
  Counter* AddCounter(const std::string& name, const std::string& help, MetricLabels labels = {});
  Gauge* AddGauge(const std::string& name, const std::string& help, MetricLabels labels = {});
  Histogram* AddHistogram(const std::string& name, const std::string& help,
                          std::vector<double> bounds, MetricLabels labels = {});

  // One sample of a family that is computed when printed (per trigger, per source).
  struct Sample {
    MetricLabels labels;
    double value = 0;
  };
  enum class SampleKind { kCounter, kGauge };
  // `collect` runs on the printing thread and must not block for long.
  void AddCollector(const std::string& name, const std::string& help, SampleKind kind,
                    absl::AnyInvocable<std::vector<Sample>()> collect);

  // Text format 0.0.4, families sorted by name.
  std::string Print() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Powers of two from 50 us to about 26 s, in seconds: for latencies.
std::vector<double> LatencyBounds();

}  // namespace tocsin

#include "broker/base/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <string_view>

#include "broker/base/check.h"
#include "broker/base/mutex.h"

namespace tocsin {
namespace {

enum class Kind { kCounter, kGauge, kHistogram };

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kCounter:
      return "counter";
    case Kind::kGauge:
      return "gauge";
    case Kind::kHistogram:
      return "histogram";
  }
  return "untyped";
}

bool IsName(std::string_view name) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  if (name.empty() || !letter(name[0])) return false;
  return std::all_of(name.begin(), name.end(),
                     [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

std::string Escape(std::string_view text, bool quotes) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c == '\\') {
      out += "\\\\";
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '"' && quotes) {
      out += "\\\"";
    } else {
      out += c;
    }
  }
  return out;
}

std::string Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  if (value == std::floor(value) && std::fabs(value) < 9e15) return fmt::format("{:.0f}", value);
  return fmt::format("{}", value);
}

// {a="1",b="2"}, or nothing if there are no labels. `extra` is printed last and not escaped.
std::string LabelText(const MetricLabels& labels, std::string_view extra = {}) {
  if (labels.empty() && extra.empty()) return {};
  std::string out = "{";
  for (const auto& [name, value] : labels) {
    if (out.size() > 1) out += ',';
    out += fmt::format("{}=\"{}\"", name, Escape(value, true));
  }
  if (!extra.empty()) {
    if (out.size() > 1) out += ',';
    out += extra;
  }
  out += '}';
  return out;
}

void CheckLabels(const std::string& name, const MetricLabels& labels) {
  for (const auto& [label, value] : labels) {
    TOCSIN_CHECK(IsName(label), "metric {} has a label named '{}'", name, label);
  }
}

template <typename Metric>
struct Series {
  MetricLabels labels;
  std::unique_ptr<Metric> metric;
};

template <typename Metric>
Metric* Find(const std::vector<Series<Metric>>& all, const MetricLabels& labels) {
  for (const Series<Metric>& series : all) {
    if (series.labels == labels) return series.metric.get();
  }
  return nullptr;
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)),
      counts_(std::make_unique<std::atomic<std::uint64_t>[]>(bounds_.size() + 1)) {
  TOCSIN_CHECK(std::is_sorted(bounds_.begin(), bounds_.end()), "histogram bounds must rise");
}

void Histogram::Observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<std::size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

std::vector<std::uint64_t> Histogram::CumulativeCounts() const {
  std::vector<std::uint64_t> counts(bounds_.size() + 1);
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    total += counts_[i].load(std::memory_order_relaxed);
    counts[i] = total;
  }
  return counts;
}

double Histogram::Sum() const { return sum_.load(std::memory_order_relaxed); }

struct MetricsRegistry::Impl {
  struct Family {
    std::string help;
    Kind kind = Kind::kGauge;
    std::vector<Series<Counter>> counters;
    std::vector<Series<Gauge>> gauges;
    std::vector<Series<Histogram>> histograms;
    std::vector<absl::AnyInvocable<std::vector<Sample>()>> collectors;
  };

  mutable Mutex mutex;
  std::map<std::string, Family> families ABSL_GUARDED_BY(mutex);

  Family& Add(const std::string& name, const std::string& help, Kind kind)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    TOCSIN_CHECK(IsName(name) && name.starts_with("tocsin_"), "metric name '{}'", name);
    TOCSIN_CHECK((kind == Kind::kCounter) == name.ends_with("_total"),
                 "counters, and only they, end in _total: '{}'", name);
    auto [found, added] = families.try_emplace(name);
    if (added) {
      found->second.help = help;
      found->second.kind = kind;
    }
    TOCSIN_CHECK(found->second.kind == kind, "metric {} has two types", name);
    TOCSIN_CHECK(found->second.help == help, "metric {} has two help texts", name);
    return found->second;
  }
};

MetricsRegistry::MetricsRegistry() : impl_(std::make_unique<Impl>()) {}
MetricsRegistry::~MetricsRegistry() = default;

Counter* MetricsRegistry::AddCounter(const std::string& name, const std::string& help,
                                     MetricLabels labels) {
  CheckLabels(name, labels);
  const MutexLock lock(impl_->mutex);
  Impl::Family& family = impl_->Add(name, help, Kind::kCounter);
  if (Counter* known = Find(family.counters, labels)) return known;
  family.counters.push_back({std::move(labels), std::make_unique<Counter>()});
  return family.counters.back().metric.get();
}

Gauge* MetricsRegistry::AddGauge(const std::string& name, const std::string& help,
                                 MetricLabels labels) {
  CheckLabels(name, labels);
  const MutexLock lock(impl_->mutex);
  Impl::Family& family = impl_->Add(name, help, Kind::kGauge);
  if (Gauge* known = Find(family.gauges, labels)) return known;
  family.gauges.push_back({std::move(labels), std::make_unique<Gauge>()});
  return family.gauges.back().metric.get();
}

Histogram* MetricsRegistry::AddHistogram(const std::string& name, const std::string& help,
                                         std::vector<double> bounds, MetricLabels labels) {
  CheckLabels(name, labels);
  const MutexLock lock(impl_->mutex);
  Impl::Family& family = impl_->Add(name, help, Kind::kHistogram);
  if (Histogram* known = Find(family.histograms, labels)) {
    TOCSIN_CHECK(known->bounds() == bounds, "metric {} has two sets of bounds", name);
    return known;
  }
  family.histograms.push_back({std::move(labels), std::make_unique<Histogram>(std::move(bounds))});
  return family.histograms.back().metric.get();
}

void MetricsRegistry::AddCollector(const std::string& name, const std::string& help,
                                   SampleKind kind,
                                   absl::AnyInvocable<std::vector<Sample>()> collect) {
  const MutexLock lock(impl_->mutex);
  Impl::Family& family =
      impl_->Add(name, help, kind == SampleKind::kCounter ? Kind::kCounter : Kind::kGauge);
  family.collectors.push_back(std::move(collect));
}

std::string MetricsRegistry::Print() const {
  const MutexLock lock(impl_->mutex);
  std::string out;
  auto to = std::back_inserter(out);
  for (auto& [name, family] : impl_->families) {
    fmt::format_to(to, "# HELP {} {}\n# TYPE {} {}\n", name, Escape(family.help, false), name,
                   KindName(family.kind));
    for (const Series<Counter>& series : family.counters) {
      fmt::format_to(to, "{}{} {}\n", name, LabelText(series.labels), series.metric->value());
    }
    for (const Series<Gauge>& series : family.gauges) {
      fmt::format_to(to, "{}{} {}\n", name, LabelText(series.labels),
                     Number(series.metric->value()));
    }
    for (auto& collect : family.collectors) {
      for (const Sample& sample : collect()) {
        fmt::format_to(to, "{}{} {}\n", name, LabelText(sample.labels), Number(sample.value));
      }
    }
    for (const Series<Histogram>& series : family.histograms) {
      const Histogram& histogram = *series.metric;
      const std::vector<std::uint64_t> counts = histogram.CumulativeCounts();
      for (std::size_t i = 0; i < counts.size(); ++i) {
        const std::string bound = i < histogram.bounds().size()
                                      ? fmt::format("le=\"{}\"", Number(histogram.bounds()[i]))
                                      : "le=\"+Inf\"";
        fmt::format_to(to, "{}_bucket{} {}\n", name, LabelText(series.labels, bound), counts[i]);
      }
      fmt::format_to(to, "{}_sum{} {}\n", name, LabelText(series.labels), Number(histogram.Sum()));
      fmt::format_to(to, "{}_count{} {}\n", name, LabelText(series.labels), counts.back());
    }
  }
  return out;
}

std::vector<double> LatencyBounds() {
  std::vector<double> bounds;
  double bound = 50e-6;
  for (int i = 0; i < 20; ++i, bound *= 2) bounds.push_back(bound);
  return bounds;
}

}  // namespace tocsin

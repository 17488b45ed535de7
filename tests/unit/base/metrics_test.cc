#include "broker/base/metrics.h"

#include <gtest/gtest.h>

#include <limits>

namespace tocsin {
namespace {

TEST(MetricsTest, PrintsFamiliesSortedInTextFormat) {
  MetricsRegistry registry;
  registry.AddGauge("tocsin_pending", "Deliveries waiting.", {{"trigger", "a\"b\\c\nd"}})->Set(2.5);
  Counter* counter = registry.AddCounter("tocsin_events_total", "Events appended.");
  counter->Add();
  counter->Add(41);
  EXPECT_EQ(registry.Print(),
            "# HELP tocsin_events_total Events appended.\n"
            "# TYPE tocsin_events_total counter\n"
            "tocsin_events_total 42\n"
            "# HELP tocsin_pending Deliveries waiting.\n"
            "# TYPE tocsin_pending gauge\n"
            "tocsin_pending{trigger=\"a\\\"b\\\\c\\nd\"} 2.5\n");
}

TEST(MetricsTest, AHistogramCountsEachBucketAndAllBelow) {
  MetricsRegistry registry;
  Histogram* histogram = registry.AddHistogram("tocsin_wait_seconds", "Waited.", {0.5, 1, 2});
  histogram->Observe(0.5);  // a bound is inside its bucket
  histogram->Observe(1.5);
  histogram->Observe(9);
  EXPECT_EQ(registry.Print(),
            "# HELP tocsin_wait_seconds Waited.\n"
            "# TYPE tocsin_wait_seconds histogram\n"
            "tocsin_wait_seconds_bucket{le=\"0.5\"} 1\n"
            "tocsin_wait_seconds_bucket{le=\"1\"} 1\n"
            "tocsin_wait_seconds_bucket{le=\"2\"} 2\n"
            "tocsin_wait_seconds_bucket{le=\"+Inf\"} 3\n"
            "tocsin_wait_seconds_sum 11\n"
            "tocsin_wait_seconds_count 3\n");
}

TEST(MetricsTest, TheSameNameAndLabelsGiveTheSameHandle) {
  MetricsRegistry registry;
  Counter* first = registry.AddCounter("tocsin_x_total", "X.", {{"a", "1"}});
  EXPECT_EQ(registry.AddCounter("tocsin_x_total", "X.", {{"a", "1"}}), first);
  EXPECT_NE(registry.AddCounter("tocsin_x_total", "X.", {{"a", "2"}}), first);
}

TEST(MetricsTest, CollectorsRunWhenPrinted) {
  MetricsRegistry registry;
  double value = 1;
  registry.AddCollector("tocsin_live", "Live.", MetricsRegistry::SampleKind::kGauge, [&value] {
    return std::vector<MetricsRegistry::Sample>{{{{"k", "v"}}, value}};
  });
  EXPECT_NE(registry.Print().find("tocsin_live{k=\"v\"} 1\n"), std::string::npos);
  value = std::numeric_limits<double>::infinity();
  EXPECT_NE(registry.Print().find("tocsin_live{k=\"v\"} +Inf\n"), std::string::npos);
}

TEST(MetricsDeathTest, NamesThatBreakTheRulesAreBugs) {
  MetricsRegistry registry;
  EXPECT_DEATH(registry.AddCounter("tocsin_events", "E."), "_total");
  EXPECT_DEATH(registry.AddGauge("other_events", "E."), "metric name");
  registry.AddGauge("tocsin_g", "G.");
  EXPECT_DEATH(registry.AddGauge("tocsin_g", "Other."), "two help texts");
}

TEST(MetricsTest, LatencyBoundsReachFromFiftyMicrosecondsToTwentySixSeconds) {
  const std::vector<double> bounds = LatencyBounds();
  EXPECT_DOUBLE_EQ(bounds.front(), 50e-6);
  EXPECT_NEAR(bounds.back(), 26.2, 0.1);
}

}  // namespace
}  // namespace tocsin

// Cron cases of other projects, where their dialect is ours.

#include "tests/support/vectors.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "broker/base/time_text.h"
#include "broker/schedule/schedule.h"

namespace tocsin {
namespace {

std::vector<std::string> Fields(const std::string& expression) {
  std::istringstream in(expression);
  std::vector<std::string> fields;
  for (std::string field; in >> field;) fields.push_back(field);
  return fields;
}

bool Restricted(const std::string& field) { return field[0] != '*' && field[0] != '?'; }

// Cronos wants both day fields to match; Vixie either, when both are restricted.
bool SameDayRule(const std::vector<std::string>& fields) {
  if (fields.size() < 5) return true;
  const std::size_t day = fields.size() - 3;
  return !(Restricted(fields[day]) && Restricted(fields.back()));
}

ScheduleSpec Spec(const std::string& cron, const std::string& timezone = "UTC") {
  ScheduleSpec spec;
  spec.cron = cron;
  spec.timezone = timezone;
  return spec;
}

TEST(CronVectorsTest, NextInstantsAgreeWithCronos) {
  int compared = 0;
  for (const nlohmann::json& test : ReadVectors("cron/cronos_next.json")) {
    const std::string expression = test.at("expr");
    const std::vector<std::string> fields = Fields(expression);
    // A stable hash is not comparable; through a gap, wildcard hours follow our wall clock.
    if (expression.find('H') != std::string::npos || !SameDayRule(fields)) continue;
    if (test.at("id").get<std::string>().find("macro-jitter") != std::string::npos) continue;
    if (test.at("source_test").get<std::string>().find("JitterSeed") != std::string::npos) continue;
    const bool wild_hours = fields.size() >= 5 && fields[fields.size() - 4] == "*";
    if (wild_hours &&
        test.at("source_test").get<std::string>().find("JumpsForward") != std::string::npos) {
      continue;
    }
    // `?` is a day field's in our dialect.
    if (fields.size() >= 5 && fields[fields.size() - 4] == "?") continue;
    const std::string zone = test.at("tz").is_null() ? "UTC" : test.at("tz").get<std::string>();
    SCOPED_TRACE(test.dump());
    const auto schedule = Schedule::Parse(Spec(expression, zone));
    const nlohmann::json& expected = test.at("expected_next");
    if (!schedule.ok()) {  // what can never occur is refused
      ++compared;
      EXPECT_TRUE(expected.empty() || expected[0].is_null()) << schedule.status();
      continue;
    }
    const absl::StatusOr<WallTime> start = ParseRfc3339(test.at("start").get<std::string>());
    if (!start.ok()) continue;  // a start without an offset
    // A start a tenth of a microsecond after the instant is after it, though we cut it off.
    const bool after = test.at("start").get<std::string>().find(".0000001") != std::string::npos;
    const bool inclusive = test.at("start_inclusive").get<bool>() && !after;
    const WallTime from = *start - std::chrono::microseconds(inclusive ? 1 : 0);
    const std::optional<WallTime> next = (*schedule)->NextAfter(from, WallTime());
    ++compared;
    if (expected.empty() || expected[0].is_null()) {
      EXPECT_FALSE(next.has_value() && *next < *start + std::chrono::hours(24 * 365 * 80))
          << FormatRfc3339(*next);
      continue;
    }
    ASSERT_TRUE(next.has_value());
    // At the very end of a gap Cronos takes what fell into it as past; we run it there.
    if (*next == *start &&
        test.at("source_test").get<std::string>().find("JumpsForward") != std::string::npos) {
      continue;
    }
    EXPECT_EQ(FormatRfc3339(*next), FormatRfc3339(*ParseRfc3339(expected[0].get<std::string>())));
  }
  EXPECT_GT(compared, 600);
}

TEST(CronVectorsTest, ExpressionsRefusedByCronosAreRefused) {
  int refused = 0;
  for (const nlohmann::json& test : ReadVectors("cron/cronos_invalid.json")) {
    const std::string expression = test.at("expr");
    if (Fields(expression).size() == 7) continue;  // Cronos has no year
    EXPECT_FALSE(Schedule::Parse(Spec(expression)).ok()) << expression;
    ++refused;
  }
  EXPECT_GT(refused, 300);
}

TEST(CronVectorsTest, EquivalentExpressionsHaveTheSameInstants) {
  for (const nlohmann::json& test : ReadVectors("cron/cronos_equivalence.json")) {
    // Those called unequal are unequal as expressions; their instants may agree, e.g. 31 and L in
    // January.
    if (!test.contains("equal") || !test.at("equal").get<bool>()) continue;
    const std::string left = test.at("left");
    const std::string right = test.at("right");
    if (!SameDayRule(Fields(left)) || !SameDayRule(Fields(right))) continue;
    if (Fields(left)[0] == "?" || Fields(right)[0] == "?") continue;  // a day field's, with us
    SCOPED_TRACE(left + " and " + right);
    const auto a = Schedule::Parse(Spec(left));
    const auto b = Schedule::Parse(Spec(right));
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    const WallTime anchor;
    const WallTime end = anchor + std::chrono::hours(24 * 1500);
    bool equal = (*a)->CountBetween(anchor, end, anchor) == (*b)->CountBetween(anchor, end, anchor);
    std::optional<WallTime> at = anchor;
    for (int i = 0; i < 500 && equal && at.has_value(); ++i) {
      equal = (*a)->NextAfter(*at, anchor) == (*b)->NextAfter(*at, anchor);
      at = (*a)->NextAfter(*at, anchor);
    }
    EXPECT_EQ(equal, test.at("equal").get<bool>());
  }
}

TEST(CronVectorsTest, QuartzYearsAndLastDays) {
  for (const nlohmann::json& test : ReadVectors("cron/quartz.json")) {
    if (test.at("kind") != "satisfied_by") continue;
    SCOPED_TRACE(test.dump());
    const auto schedule = Schedule::Parse(Spec(test.at("expr")));
    ASSERT_TRUE(schedule.ok()) << schedule.status();
    const WallTime at = *ParseRfc3339(test.at("at").get<std::string>() + "Z");
    const auto next = (*schedule)->NextAfter(at - std::chrono::microseconds(1), WallTime());
    EXPECT_EQ(next == at, test.at("expected").get<bool>());
  }
}

}  // namespace
}  // namespace tocsin

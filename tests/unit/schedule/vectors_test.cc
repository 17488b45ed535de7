// Cron cases of other projects. Every case is either compared or belongs to a named deviation,
// whose reason is in docs/reference/cron.md; how many belong to each is fixed here, so that none is
// left out unnoticed.

#include "tests/support/vectors.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>

#include "broker/base/time_text.h"
#include "broker/schedule/schedule.h"

namespace tocsin {
namespace {

using Counts = std::map<std::string, int>;

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

// `?` outside the day fields, where it is no part of our dialect.
bool HasStrayQuestionMark(const std::vector<std::string>& fields) {
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const bool day = i + 3 == fields.size() || i + 1 == fields.size();
    if (!day && fields[i] == "?") return true;
  }
  return false;
}

ScheduleSpec Spec(const std::string& cron, const std::string& timezone = "UTC") {
  ScheduleSpec spec;
  spec.cron = cron;
  spec.timezone = timezone;
  return spec;
}

// Empty: compared.
std::string CronosDeviation(const nlohmann::json& test) {
  const std::string expression = test.at("expr");
  const std::string from = test.at("source_test");
  const std::vector<std::string> fields = Fields(expression);
  if (expression.find('H') != std::string::npos || from.find("JitterSeed") != std::string::npos) {
    return "hash";
  }
  if (!SameDayRule(fields)) return "both_days";
  if (HasStrayQuestionMark(fields)) return "question_mark";
  const bool forward = from.find("JumpsForward") != std::string::npos;
  if (forward && fields.size() >= 5 && fields[fields.size() - 4] == "*") return "wild_hours";
  return "";
}

TEST(CronVectorsTest, NextInstantsAgreeWithCronos) {
  Counts counts;
  for (const nlohmann::json& test : ReadVectors("cron/cronos_next.json")) {
    SCOPED_TRACE(test.dump());
    const std::string deviation = CronosDeviation(test);
    if (!deviation.empty()) {
      ++counts[deviation];
      continue;
    }
    const std::string zone = test.at("tz").is_null() ? "UTC" : test.at("tz").get<std::string>();
    const auto schedule = Schedule::Parse(Spec(test.at("expr"), zone));
    const nlohmann::json& expected = test.at("expected_next");
    const bool never = expected.empty() || expected[0].is_null();
    if (!schedule.ok()) {
      EXPECT_TRUE(never) << schedule.status();
      ++counts["refused_as_never"];
      continue;
    }
    const WallTime start = *ParseRfc3339(test.at("start").get<std::string>());
    // A start a tenth of a microsecond after the instant is after it, though we cut it off.
    const bool after = test.at("start").get<std::string>().find(".0000001") != std::string::npos;
    const bool inclusive = test.at("start_inclusive").get<bool>() && !after;
    const WallTime from = start - std::chrono::microseconds(inclusive ? 1 : 0);
    const std::optional<WallTime> next = (*schedule)->NextAfter(from, WallTime());
    if (never) {
      EXPECT_FALSE(next.has_value() && *next < start + std::chrono::hours(24 * 365 * 80))
          << FormatRfc3339(*next);
      ++counts["compared"];
      continue;
    }
    ASSERT_TRUE(next.has_value());
    const std::string wanted = FormatRfc3339(*ParseRfc3339(expected[0].get<std::string>()));
    const bool forward =
        test.at("source_test").get<std::string>().find("JumpsForward") != std::string::npos;
    if (forward && *next == start && FormatRfc3339(*next) != wanted) {
      ++counts["gap_end"];
      continue;
    }
    EXPECT_EQ(FormatRfc3339(*next), wanted);
    ++counts["compared"];
  }
  EXPECT_EQ(counts, (Counts{{"compared", 991},
                            {"both_days", 111},
                            {"gap_end", 2},
                            {"hash", 51},
                            {"question_mark", 2},
                            {"refused_as_never", 12},
                            {"wild_hours", 7}}));
}

TEST(CronVectorsTest, ExpressionsRefusedByCronosAreRefused) {
  Counts counts;
  for (const nlohmann::json& test : ReadVectors("cron/cronos_invalid.json")) {
    const std::string expression = test.at("expr");
    if (Fields(expression).size() == 7) {
      EXPECT_TRUE(Schedule::Parse(Spec(expression)).ok()) << expression;
      ++counts["year"];
      continue;
    }
    EXPECT_FALSE(Schedule::Parse(Spec(expression)).ok()) << expression;
    ++counts["refused"];
  }
  EXPECT_EQ(counts, (Counts{{"refused", 328}, {"year", 2}}));
}

bool SameInstants(const Schedule& a, const Schedule& b) {
  const WallTime anchor;
  const WallTime end = anchor + std::chrono::hours(24 * 1500);
  bool equal = a.CountBetween(anchor, end, anchor) == b.CountBetween(anchor, end, anchor);
  std::optional<WallTime> at = anchor;
  for (int i = 0; i < 500 && equal && at.has_value(); ++i) {
    equal = a.NextAfter(*at, anchor) == b.NextAfter(*at, anchor);
    at = a.NextAfter(*at, anchor);
  }
  return equal;
}

TEST(CronVectorsTest, EquivalentExpressionsHaveTheSameInstants) {
  Counts counts;
  for (const nlohmann::json& test : ReadVectors("cron/cronos_equivalence.json")) {
    // Two expressions, or one and its canonical form.
    const bool pair = test.contains("left");
    const std::string left = test.at(pair ? "left" : "expr");
    const std::string right = test.at(pair ? "right" : "canonical");
    SCOPED_TRACE(left + " and " + right);
    if (pair && !test.at("equal").get<bool>()) {
      ++counts["unequal_as_expressions"];
      continue;
    }
    if (!SameDayRule(Fields(left)) || !SameDayRule(Fields(right))) {
      ++counts["both_days"];
      continue;
    }
    if (HasStrayQuestionMark(Fields(left)) || HasStrayQuestionMark(Fields(right))) {
      ++counts["question_mark"];
      continue;
    }
    const auto a = Schedule::Parse(Spec(left));
    const auto b = Schedule::Parse(Spec(right));
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    EXPECT_TRUE(SameInstants(**a, **b));
    ++counts["compared"];
  }
  EXPECT_EQ(counts, (Counts{{"compared", 185}, {"both_days", 4}, {"unequal_as_expressions", 10}}));
}

TEST(CronVectorsTest, QuartzYearsLastDaysAndRefusals) {
  // Vixie's day rule has a meaning for both day fields; Quartz wants a `?` in one.
  const std::set<std::string> both_days = {"0 0 * * * *", "0 0 * 4 * *", "0 0 * * * 4"};
  Counts counts;
  for (const nlohmann::json& test : ReadVectors("cron/quartz.json")) {
    SCOPED_TRACE(test.dump());
    const std::string kind = test.at("kind");
    const std::string expression = test.at("expr");
    const auto schedule = Schedule::Parse(Spec(expression));
    const bool accepted = kind != "invalid" || both_days.contains(expression);
    ASSERT_EQ(schedule.ok(), accepted) << schedule.status();
    if (kind == "satisfied_by") {
      const WallTime at = *ParseRfc3339(test.at("at").get<std::string>() + "Z");
      const auto next = (*schedule)->NextAfter(at - std::chrono::microseconds(1), WallTime());
      EXPECT_EQ(next == at, test.at("expected").get<bool>());
    } else if (kind == "property") {
      std::optional<WallTime> at = *ParseRfc3339("2024-01-01T00:00:00Z");
      for (int i = 0; i < 26; ++i) {
        const auto next = (*schedule)->NextAfter(*at, WallTime());
        ASSERT_TRUE(next.has_value() && *next > *at);
        at = next;
      }
    }
    ++counts[kind == "invalid" && accepted ? "both_days" : kind];
  }
  EXPECT_EQ(
      counts,
      (Counts{
          {"satisfied_by", 9}, {"property", 2}, {"valid", 2}, {"invalid", 30}, {"both_days", 3}}));
}

// Calendar expressions are another dialect, but those that a cron expression can say are to fire at
// the same instants with `dst.gap: skip`.
TEST(CronVectorsTest, CalendarExpressionsOfSystemdElapseAtTheSameInstants) {
  const std::map<std::string, std::string> as_cron = {
      {"*-*-* 02:30:00", "30 2 * * *"},
      {"*-*-* 01:30:00", "30 1 * * *"},
      {"*-*-* *:30:00", "30 * * * *"},
      {"*-*-* *:00/15", "*/15 * * * *"},
      {"*-*-* 02:15:00", "15 2 * * *"},
      {"*-*-* 01:45:00", "45 1 * * *"},
      {"*-*-* 00:00:00", "0 0 * * *"},
      {"*-02-29 00:00:00", "0 0 29 2 *"},
      {"*-*~01 00:00:00", "0 0 L * *"},
      {"Mon..Fri *-*-* 09:00:00", "0 9 * * MON-FRI"},
      {"*-01,04,07,10-01 00:00:00", "0 0 1 1,4,7,10 *"}};
  Counts counts;
  for (const nlohmann::json& test : ReadVectors("cron/systemd252_elapses.json")) {
    SCOPED_TRACE(test.dump());
    const auto cron = as_cron.find(test.at("expr").get<std::string>());
    if (cron == as_cron.end()) {
      ++counts["no_cron_form"];
      continue;
    }
    const std::string base = test.at("base_time_local");
    ScheduleSpec spec = Spec(cron->second, test.at("tz"));
    spec.dst_gap = DstGap::kSkip;
    const auto schedule = Schedule::Parse(spec);
    ASSERT_TRUE(schedule.ok()) << schedule.status();
    // The base is wall clock: @at finds its instant.
    const auto at =
        Schedule::Parse(Spec("@at " + base.substr(0, 10) + "T" + base.substr(11), test.at("tz")));
    ASSERT_TRUE(at.ok()) << at.status();
    std::optional<WallTime> next = *(*at)->NextAfter(WallTime(), WallTime());
    std::vector<std::string> ours, theirs;
    const char* key = test.at("elapses_utc").is_null() ? "elapses_local" : "elapses_utc";
    for (const nlohmann::json& one : test.at(key)) {
      const std::string text = one;  // "Sat 2024-03-30 01:30:00 UTC"
      theirs.push_back(text.substr(4, 10) + "T" + text.substr(15, 8) + "Z");
      next = (*schedule)->NextAfter(*next, WallTime());
      ASSERT_TRUE(next.has_value());
      ours.push_back(FormatRfc3339(*next));
    }
    if (cron->second == "30 * * * *" && base.starts_with("2024-10-27")) {
      EXPECT_NE(ours, theirs);
      ++counts["wild_hours_in_overlap"];
      continue;
    }
    EXPECT_EQ(ours, theirs);
    ++counts["compared"];
  }
  EXPECT_EQ(counts, (Counts{{"compared", 13}, {"no_cron_form", 4}, {"wild_hours_in_overlap", 1}}));
}

}  // namespace
}  // namespace tocsin

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/schedule/schedule.h"
#include "broker/schedule/time_zone.h"

namespace tocsin {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

ScheduleSpec Spec(const std::string& cron, const std::string& timezone = "UTC") {
  ScheduleSpec spec;
  spec.name = "nightly";
  spec.cron = cron;
  spec.timezone = timezone;
  return spec;
}

std::vector<std::string> Instants(const ScheduleSpec& spec, const std::string& after, int count) {
  const auto schedule = Schedule::Parse(spec);
  EXPECT_TRUE(schedule.ok()) << schedule.status();
  std::vector<std::string> instants;
  std::optional<WallTime> at = *ParseRfc3339(after);
  while (static_cast<int>(instants.size()) < count) {
    at = (*schedule)->NextAfter(*at, *ParseRfc3339("2020-01-01T00:00:00Z"));
    if (!at.has_value()) break;
    instants.push_back(FormatRfc3339(*at));
  }
  return instants;
}

std::string Refusal(const ScheduleSpec& spec) {
  const auto schedule = Schedule::Parse(spec);
  EXPECT_FALSE(schedule.ok()) << spec.cron;
  return std::string(MessageOf(schedule.status()));
}

// FAULTS F50.
TEST(CronTest, F50AbsurdSpecsAreRefusedWithColumnAndReason) {
  EXPECT_THAT(Refusal(Spec("0 0 30 2 *")), HasSubstr("never occur"));
  EXPECT_THAT(Refusal(Spec("0 0 31 4,6,9,11 *")), HasSubstr("never occur"));
  EXPECT_THAT(Refusal(Spec("*/0 * * * *")), HasSubstr("column 3: minute field '*/0'"));
  EXPECT_THAT(Refusal(Spec("* */1000000000 * * *")), HasSubstr("column 5: hour field"));
  EXPECT_THAT(Refusal(Spec("* * 1/999999999 * *")), HasSubstr("between 1 and 31"));
  EXPECT_THAT(Refusal(Spec("61 * * * *")), HasSubstr("column 1: minute field '61': 61 is out of"));
  EXPECT_THAT(Refusal(Spec("0 0 0 1 1 * 9999")), HasSubstr("out of range 1970 to 2199"));
  EXPECT_THAT(Refusal(Spec("0 0 * JANUARY *")), HasSubstr("three letters"));
  EXPECT_THAT(Refusal(Spec("0 0 * *")), HasSubstr("this one has 4"));
  EXPECT_THAT(Refusal(Spec("")), HasSubstr("this one has 0"));
  EXPECT_THAT(Refusal(Spec("@dialy")), HasSubstr("unknown '@dialy'"));
  EXPECT_THAT(Refusal(Spec("@every 1ns")), HasSubstr("between 100ms and 100 years"));
  EXPECT_THAT(Refusal(Spec("@every soon")), HasSubstr("takes a duration"));
  EXPECT_THAT(Refusal(Spec("@at tomorrow")), HasSubstr("takes a time"));
  EXPECT_THAT(Refusal(Spec("@at 9999-01-01T00:00:00Z")), HasSubstr("between 1970 and 2199"));
  ScheduleSpec late = Spec("@hourly");
  late.jitter = std::chrono::hours(25);
  EXPECT_THAT(Refusal(late), HasSubstr("jitter is between 0s and 24h"));
  EXPECT_THAT(Refusal(Spec(std::string(5000, '*'))), HasSubstr("at most 1024"));
}

TEST(CronTest, UnknownZoneIsRefusedWithTheNearestName) {
  EXPECT_THAT(Refusal(Spec("@daily", "Europe/Berlim")), HasSubstr("mean 'Europe/Berlin'"));
  EXPECT_THAT(Refusal(Spec("@daily", "berlin")), HasSubstr("mean 'Europe/Berlin'"));
  EXPECT_THAT(Refusal(Spec("@daily", "../../etc/passwd")), HasSubstr("unknown time zone"));
  EXPECT_THAT(Refusal(Spec("@daily", "localtime")), HasSubstr("unknown time zone"));
}

TEST(CronTest, EitherDayFieldMatchesWhenBothAreRestricted) {
  EXPECT_THAT(Instants(Spec("0 0 13 * FRI"), "2026-02-01T00:00:00Z", 5),
              ElementsAre("2026-02-06T00:00:00Z", "2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z",
                          "2026-02-27T00:00:00Z", "2026-03-06T00:00:00Z"));
  // A field that begins with * is unrestricted, steps and all: both must match.
  EXPECT_THAT(Instants(Spec("0 0 */2 * MON"), "2026-02-01T00:00:00Z", 2),
              ElementsAre("2026-02-09T00:00:00Z", "2026-02-23T00:00:00Z"));
}

TEST(CronTest, NamesRangesListsAndStepsMix) {
  EXPECT_THAT(Instants(Spec("5/20,59 22-1 * jan-Mar,DEC fri-mon"), "2026-01-02T23:30:00Z", 5),
              ElementsAre("2026-01-02T23:45:00Z", "2026-01-02T23:59:00Z", "2026-01-03T00:05:00Z",
                          "2026-01-03T00:25:00Z", "2026-01-03T00:45:00Z"));
  EXPECT_EQ(Instants(Spec("0 12 * * 7"), "2026-01-01T00:00:00Z", 3),
            Instants(Spec("0 12 * * 0"), "2026-01-01T00:00:00Z", 3));
}

TEST(CronTest, LastNearestAndNthDays) {
  EXPECT_THAT(Instants(Spec("0 0 L * *"), "2028-01-31T00:00:00Z", 2),
              ElementsAre("2028-02-29T00:00:00Z", "2028-03-31T00:00:00Z"));
  EXPECT_THAT(Instants(Spec("0 0 15W * ?"), "2026-08-01T00:00:00Z", 2),
              ElementsAre("2026-08-14T00:00:00Z", "2026-09-15T00:00:00Z"));
  EXPECT_THAT(Instants(Spec("0 0 1W * ?"), "2026-08-01T00:00:00Z", 1),
              ElementsAre("2026-08-03T00:00:00Z"));  // never leaves the month
  EXPECT_THAT(Instants(Spec("0 0 ? * MON#1,FRI#5"), "2026-01-01T00:00:00Z", 3),
              ElementsAre("2026-01-05T00:00:00Z", "2026-01-30T00:00:00Z", "2026-02-02T00:00:00Z"));
  EXPECT_THAT(Instants(Spec("0 0 ? * 5L"), "2026-01-01T00:00:00Z", 1),
              ElementsAre("2026-01-30T00:00:00Z"));
}

TEST(CronTest, HashedFieldsAreStableAndInRange) {
  const auto first = Instants(Spec("H H(2-4) * * *"), "2026-01-01T00:00:00Z", 3);
  EXPECT_EQ(first, Instants(Spec("H H(2-4) * * *"), "2026-01-01T00:00:00Z", 3));
  const std::string hour = first[0].substr(11, 2);
  EXPECT_TRUE(hour >= "02" && hour <= "04") << hour;
  ScheduleSpec other = Spec("H H * * *");
  int different = 0;
  for (int i = 0; i < 20; ++i) {
    other.name = "n" + std::to_string(i);
    different += Instants(other, "2026-01-01T00:00:00Z", 1) !=
                 Instants(Spec("H H * * *"), "2026-01-01T00:00:00Z", 1);
  }
  EXPECT_GT(different, 15);
}

TEST(CronTest, SpringAndAutumnOfFixedAndWildcardHours) {
  const std::string berlin = "Europe/Berlin";
  EXPECT_THAT(Instants(Spec("30 2 * * *", berlin), "2026-03-28T12:00:00Z", 2),
              ElementsAre("2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"));
  EXPECT_THAT(Instants(Spec("30 2 * * *", berlin), "2026-10-24T12:00:00Z", 2),
              ElementsAre("2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"));
  EXPECT_THAT(Instants(Spec("30 * * * *", berlin), "2026-03-29T00:00:00Z", 2),
              ElementsAre("2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"));
  EXPECT_THAT(Instants(Spec("30 * * * *", berlin), "2026-10-25T00:00:00Z", 3),
              ElementsAre("2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"));
  // Several fixed times in the gap fire once, together with one at its end.
  EXPECT_THAT(Instants(Spec("0,30 2,3 * * *", berlin), "2026-03-29T00:00:00Z", 2),
              ElementsAre("2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"));
}

TEST(CronTest, RulesGoOnBeyondTheYearsOfTheZoneFile) {
  EXPECT_THAT(Instants(Spec("0 12 1 7 *", "Europe/Berlin"), "2149-12-01T00:00:00Z", 1),
              ElementsAre("2150-07-01T10:00:00Z"));
  EXPECT_TRUE(Instants(Spec("0 12 1 7 *"), "2199-08-01T00:00:00Z", 1).empty());
}

// FAULTS F45: an update of the zone database changes a zone's rules.
TEST(CronTest, F45ANewFileOfAZoneIsSeenByTheNextParse) {
  namespace fs = std::filesystem;
  std::string dir = (fs::temp_directory_path() / "tocsin-zones-XXXXXX").string();
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  const char* before = std::getenv("TZDIR");
  const fs::path system = before != nullptr ? before : "/usr/share/zoneinfo";
  const auto install = [&](const char* zone) {
    fs::copy_file(system / zone, fs::path(dir) / "new");
    fs::rename(fs::path(dir) / "new", fs::path(dir) / "Here");
  };
  install("Europe/Berlin");
  setenv("TZDIR", dir.c_str(), 1);
  const auto noon = [] {
    return Instants(Spec("0 12 * * *", "Here"), "2026-01-01T00:00:00Z", 1).at(0);
  };
  EXPECT_EQ(noon(), "2026-01-01T11:00:00Z");
  const auto old = *Schedule::Parse(Spec("0 12 * * *", "Here"));
  EXPECT_THAT(TimeZone::Changed({"Here"}), IsEmpty());
  install("Asia/Kolkata");
  EXPECT_THAT(TimeZone::Changed({"Here", "Elsewhere"}), ElementsAre("Here"));
  EXPECT_EQ(noon(), "2026-01-01T06:30:00Z");
  EXPECT_THAT(TimeZone::Changed({"Here"}), IsEmpty());
  // A schedule that exists keeps the rules that it was made with.
  EXPECT_EQ(old->NextAfter(*ParseRfc3339("2026-01-01T00:00:00Z"), WallTime()),
            *ParseRfc3339("2026-01-01T11:00:00Z"));
  install("America/New_York");
  EXPECT_EQ(noon(), "2026-01-01T17:00:00Z");
  if (before != nullptr) {
    setenv("TZDIR", before, 1);
  } else {
    unsetenv("TZDIR");
  }
  fs::remove_all(dir);
}

TEST(CronTest, ADayThatWasLeftOutFiresAtItsEnd) {
  // Samoa had no 30 December 2011.
  const auto schedule = Schedule::Parse(Spec("0 9 30 12 *", "Pacific/Apia"));
  ASSERT_TRUE(schedule.ok());
  EXPECT_EQ((*schedule)->NextAfter(*ParseRfc3339("2011-12-01T00:00:00Z"), WallTime()),
            *ParseRfc3339("2011-12-30T10:00:00Z"));
}

TEST(CronTest, EveryCountsFromTheAnchor) {
  const auto schedule = Schedule::Parse(Spec("@every 90s"));
  ASSERT_TRUE(schedule.ok());
  const WallTime anchor = *ParseRfc3339("2026-01-01T00:00:07.5Z");
  EXPECT_EQ((*schedule)->NextAfter(anchor, anchor), *ParseRfc3339("2026-01-01T00:01:37.5Z"));
  EXPECT_EQ((*schedule)->NextAfter(*ParseRfc3339("2026-01-02T00:00:00Z"), anchor),
            *ParseRfc3339("2026-01-02T00:00:07.5Z"));
  EXPECT_EQ((*schedule)->CountBetween(anchor, *ParseRfc3339("2027-01-01T00:00:07.5Z"), anchor),
            365U * 86400 / 90);
}

TEST(CronTest, AtFiresOnceAtTheWallClockOfItsZone) {
  EXPECT_THAT(Instants(Spec("@at 2026-07-01T12:00:00", "Europe/Berlin"), "2026-01-01T00:00:00Z", 9),
              ElementsAre("2026-07-01T10:00:00Z"));
  EXPECT_THAT(Instants(Spec("@at 2026-07-01T12:00:00+05:30"), "2026-01-01T00:00:00Z", 9),
              ElementsAre("2026-07-01T06:30:00Z"));
  EXPECT_THAT(Instants(Spec("@at 2026-03-29T02:30:00", "Europe/Berlin"), "2026-01-01T00:00:00Z", 9),
              ElementsAre("2026-03-29T01:00:00Z"));
  EXPECT_THAT(Instants(Spec("@at 2026-10-25T02:30:00", "Europe/Berlin"), "2026-01-01T00:00:00Z", 9),
              ElementsAre("2026-10-25T00:30:00Z"));
  ScheduleSpec strict = Spec("@at 2026-03-29T02:30:00", "Europe/Berlin");
  strict.dst_gap = DstGap::kSkip;
  EXPECT_THAT(Refusal(strict), HasSubstr("does not exist"));
}

TEST(CronTest, MacrosMeanWhatTheySay) {
  EXPECT_THAT(Instants(Spec("@weekly"), "2026-01-01T00:00:00Z", 1),
              ElementsAre("2026-01-04T00:00:00Z"));
  EXPECT_THAT(Instants(Spec("@Yearly"), "2026-01-01T00:00:00Z", 1),
              ElementsAre("2027-01-01T00:00:00Z"));
  EXPECT_THAT(Instants(Spec("@hourly"), "2026-01-01T00:00:00Z", 1),
              ElementsAre("2026-01-01T01:00:00Z"));
}

}  // namespace
}  // namespace tocsin

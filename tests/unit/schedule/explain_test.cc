#include "broker/schedule/explain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "broker/base/time_text.h"

namespace tocsin {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

ScheduleSpec Spec(const std::string& cron, const std::string& zone = "UTC") {
  ScheduleSpec spec;
  spec.name = "s";
  spec.cron = cron;
  spec.timezone = zone;
  return spec;
}

TEST(ExplainTest, ExpressionsAreSaidInWords) {
  const std::pair<const char*, const char*> cases[] = {
      {"30 2 * * *", "at 02:30, every day"},
      {"0 9 * * MON-FRI", "at 09:00, on Monday to Friday"},
      {"0 6,18 1 * *", "at 06:00, 18:00, on day 1 of the month"},
      {"15 30 2 * * *", "at 02:30:15, every day"},
      {"* * * * *", "every minute, every day"},
      {"*/15 * * * *", "every 15th minute, every day"},
      {"5 * * * *", "at minute 5 of every hour, every day"},
      {"*/10 8-17 * * 1-5", "every 10th minute of hour 8 to 17, on Monday to Friday"},
      {"0 0 13 * FRI", "at 00:00, on day 13 of the month or on Friday"},
      {"0 0 */2 * MON", "at 00:00, on every 2nd day of the month and only on Monday"},
      {"0 0 L * *", "at 00:00, on the last day of the month"},
      {"0 0 15W * ?", "at 00:00, on the weekday nearest to the 15th of the month"},
      {"0 0 LW * ?", "at 00:00, on the weekday nearest to the last day of the month"},
      {"0 0 ? * 5L", "at 00:00, on the last Friday of the month"},
      {"0 0 ? * MON#2", "at 00:00, on the 2nd Monday of the month"},
      {"0 0 1 1,jul *", "at 00:00, on day 1 of the month, in January, July"},
      {"0 0 0 1 1 * 2030", "at 00:00, on day 1 of the month, in January, in 2030"},
      {"H H(1-5) * * *",
       "at minute one minute that the name decides of hour one hour that the name "
       "decides, within 1-5, every day"},
      {"@hourly", "at minute 0 of every hour, every day"},
      {"@every 90s", "every 90s"},
      {"@at 2026-03-29T02:30:00", "once, at 2026-03-29T02:30:00"},
      {"@reboot", "once, at the broker's first start after a boot of the machine"},
  };
  for (const auto& [cron, words] : cases) {
    const auto meaning = ExplainSchedule(Spec(cron));
    ASSERT_TRUE(meaning.ok()) << cron << meaning.status();
    EXPECT_EQ(meaning->summary, words) << cron;
  }
  EXPECT_FALSE(ExplainSchedule(Spec("61 * * * *")).ok());
}

TEST(ExplainTest, EveryFieldHasItsMeaning) {
  const auto meaning = *ExplainSchedule(Spec("*/20 5/10 22-2 * JAN-mar,12 7"));
  std::vector<std::string> texts;
  for (const FieldMeaning& field : meaning.fields) {
    texts.push_back(field.field + ": " + field.meaning);
  }
  EXPECT_THAT(texts, ElementsAre("second: every 20th second", "minute: every 10th minute from 5 on",
                                 "hour: 22 to 2", "day of month: every day",
                                 "month: January to March, December", "day of week: Sunday"));
}

TEST(ExplainTest, NotesTellOfDaysAndClocks) {
  EXPECT_THAT(ExplainSchedule(Spec("0 0 13 * FRI"))->notes, ElementsAre(HasSubstr("either")));
  EXPECT_THAT(ExplainSchedule(Spec("30 2 * * *", "Europe/Berlin"))->notes,
              ElementsAre(HasSubstr("once, the first time")));
  EXPECT_THAT(ExplainSchedule(Spec("*/30 1-3 * * *", "Europe/Berlin"))->notes,
              ElementsAre(HasSubstr("both times")));
  EXPECT_THAT(ExplainSchedule(Spec("30 2 * * *"))->notes, IsEmpty());
}

TEST(ExplainTest, InstantsAtAClockChangeHaveANote) {
  const auto note = [](const std::string& cron, const std::string& at) {
    return *ClockChangeNote(Spec(cron, "Europe/Berlin"), *ParseRfc3339(at));
  };
  EXPECT_EQ(note("30 2 * * *", "2026-03-29T01:00:00Z"),
            "the clocks go from 02:00 to 03:00: at the gap's end");
  EXPECT_EQ(note("0 3 * * *", "2026-03-29T01:00:00Z"), "");
  EXPECT_EQ(note("30 2 * * *", "2026-10-25T00:30:00Z"),
            "the clocks go back: the first 02:30, the second does not fire");
  EXPECT_EQ(note("30 * * * *", "2026-10-25T00:30:00Z"), "the clocks go back: the first 02:30");
  EXPECT_EQ(note("30 * * * *", "2026-10-25T01:30:00Z"), "the clocks went back: the second 02:30");
  EXPECT_EQ(note("30 * * * *", "2026-10-25T02:30:00Z"), "");
  EXPECT_EQ(note("@every 1h", "2026-10-25T01:30:00Z"), "");
}

TEST(ExplainTest, TimesAreWrittenAndReadInTheirZone) {
  EXPECT_EQ(*FormatInZone(*ParseRfc3339("2026-07-01T10:00:00Z"), "Europe/Berlin"),
            "2026-07-01T12:00:00+02:00");
  EXPECT_EQ(*FormatInZone(*ParseRfc3339("2026-07-01T10:00:00Z"), "America/St_Johns"),
            "2026-07-01T07:30:00-02:30");
  EXPECT_EQ(*ParseInZone("2026-07-01T12:00:00", "Europe/Berlin"),
            *ParseRfc3339("2026-07-01T10:00:00Z"));
  EXPECT_EQ(*ParseInZone("2026-07-01T12:00:00Z", "Europe/Berlin"),
            *ParseRfc3339("2026-07-01T12:00:00Z"));
  EXPECT_FALSE(ParseInZone("noon", "UTC").ok());
  EXPECT_FALSE(ParseInZone("2026-07-01T12:00:00Z", "Nowhere").ok());
}

}  // namespace
}  // namespace tocsin

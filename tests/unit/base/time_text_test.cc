#include "broker/base/time_text.h"

#include <gtest/gtest.h>

#include <limits>

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::nanoseconds;
using std::chrono::seconds;

WallTime Micros(std::int64_t micros) { return WallTime(std::chrono::microseconds(micros)); }

TEST(Rfc3339Test, FormatsMicrosecondsOnlyIfThereAreAny) {
  EXPECT_EQ(FormatRfc3339(Micros(0)), "1970-01-01T00:00:00Z");
  EXPECT_EQ(FormatRfc3339(Micros(1'500'000)), "1970-01-01T00:00:01.500000Z");
  EXPECT_EQ(FormatRfc3339(Micros(-1)), "1969-12-31T23:59:59.999999Z");
  EXPECT_EQ(FormatRfc3339Nanos(0, 1), "1970-01-01T00:00:00.000000001Z");
  EXPECT_EQ(FormatRfc3339Nanos(-1, 120'000'000), "1969-12-31T23:59:59.120Z");
}

TEST(Rfc3339Test, EveryFormattedTimeIsReadBack) {
  for (std::int64_t micros = -60'000'000'000'000'000; micros < 250'000'000'000'000'000;
       micros += 1'234'567'891'234'567) {
    const absl::StatusOr<WallTime> time = ParseRfc3339(FormatRfc3339(Micros(micros)));
    ASSERT_TRUE(time.ok()) << time.status();
    EXPECT_EQ(*time, Micros(micros));
  }
}

TEST(Rfc3339Test, RefusesWhatIsNoTime) {
  for (const char* text :
       {"", "2026", "2026-02-29T00:00:00Z", "2026-03-29 01:00:00Z", "2026-03-29T01:00:00",
        "2026-03-29T01:00:60Z", "2026-03-29T24:00:00Z", "2026-03-29T01:00:00.Z",
        "2026-03-29T01:00:00+14:01", "2026-03-29T01:00:00+1:00", "2026-03-29T01:00:00Zx",
        "2026-00-10T01:00:00Z", "-026-03-29T01:00:00Z"}) {
    EXPECT_FALSE(ParseRfc3339(text).ok()) << text;
  }
  EXPECT_EQ(*ParseRfc3339("2026-03-29t01:00:00z"), *ParseRfc3339("2026-03-29T03:00:00+02:00"));
}

TEST(DurationTest, ReadsWhatPeopleWrite) {
  EXPECT_EQ(*ParseDuration("1m30s"), seconds(90));
  EXPECT_EQ(*ParseDuration("200ms"), milliseconds(200));
  EXPECT_EQ(*ParseDuration("1h"), hours(1));
  EXPECT_EQ(*ParseDuration("7d"), hours(168));
  EXPECT_EQ(*ParseDuration("2w"), hours(336));
  EXPECT_EQ(*ParseDuration("1.5s"), milliseconds(1500));
  EXPECT_EQ(*ParseDuration("0.000000001s"), nanoseconds(1));
  EXPECT_EQ(*ParseDuration("PT90S"), seconds(90));
  EXPECT_EQ(*ParseDuration("P1DT2H3M4.5S"), hours(26) + minutes(3) + milliseconds(4500));
  EXPECT_EQ(*ParseDuration("P2W"), hours(336));
  EXPECT_EQ(*ParseDuration("0"), Duration::zero());
  EXPECT_EQ(*ParseDuration("0s"), Duration::zero());
}

TEST(DurationTest, RefusesWhatHasNoUnitOrNoMeaning) {
  for (const char* text :
       {"",   "5", "-1s", "s",   "1 s", "1s1h", "1s1s", "1e3s",   "1.s",  ".5s", "5 minutes",
        "1M", "P", "PT",  "P1Y", "P1M", "PT1D", "P1H",  "PT1S1M", "300y", "1h+"}) {
    EXPECT_FALSE(ParseDuration(text).ok()) << text;
  }
}

TEST(DurationTest, RefusesOverflowInsteadOfWrapping) {
  EXPECT_TRUE(ParseDuration("9223372036s").ok());
  EXPECT_FALSE(ParseDuration("9223372037s").ok());
  EXPECT_FALSE(ParseDuration("99999999999999999999999d").ok());
  EXPECT_FALSE(ParseDuration("106751d24h").ok());
}

TEST(DurationTest, EveryFormattedDurationIsReadBack) {
  for (const Duration duration :
       {Duration(1), Duration(999), Duration(seconds(90)), Duration(hours(168)),
        Duration(milliseconds(1500)), Duration(std::numeric_limits<std::int64_t>::max())}) {
    EXPECT_EQ(*ParseDuration(FormatDuration(duration)), duration) << FormatDuration(duration);
  }
  EXPECT_EQ(FormatDuration(hours(168)), "7d");
  EXPECT_EQ(FormatDuration(seconds(90)), "1m30s");
  EXPECT_EQ(FormatDuration(Duration::zero()), "0s");
  EXPECT_EQ(FormatDuration(minutes(-1)), "-1m");
}

TEST(BytesTest, ReadsAndFormatsSizes) {
  EXPECT_EQ(*ParseBytes("64MiB"), 64u << 20);
  EXPECT_EQ(*ParseBytes("10GiB"), std::uint64_t{10} << 30);
  EXPECT_EQ(*ParseBytes("1kB"), 1000u);
  EXPECT_EQ(*ParseBytes("512"), 512u);
  EXPECT_EQ(*ParseBytes("1.5KiB"), 1536u);
  for (const char* text : {"", "MiB", "-1", "1 MiB", "1K", "1mib", "99999999PiB"}) {
    EXPECT_FALSE(ParseBytes(text).ok()) << text;
  }
  EXPECT_EQ(FormatBytes(std::uint64_t{10} << 30), "10GiB");
  EXPECT_EQ(FormatBytes(1000), "1kB");
  EXPECT_EQ(FormatBytes(1537), "1537");
  EXPECT_EQ(FormatBytes(0), "0");
  for (const std::uint64_t bytes : {1u, 1000u, 1024u, 4096u, 5'000'000u, 1234567u}) {
    EXPECT_EQ(*ParseBytes(FormatBytes(bytes)), bytes);
  }
}

}  // namespace
}  // namespace tocsin

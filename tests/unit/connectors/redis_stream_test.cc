#include "connectors/redis/redis_stream.h"

#include <gtest/gtest.h>

#include "broker/base/status.h"

namespace tocsin {
namespace {

using Kind = StreamVerdict::Kind;

TEST(RedisStreamTest, PositionsComeBackAndOthersAreRefused) {
  const StreamPosition position{"1700000000000-7", 42, "1600000000000-0"};
  const auto back = DecodeStreamPosition(EncodeStreamPosition(position));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->last, position.last);
  EXPECT_EQ(back->read, 42U);
  EXPECT_EQ(back->first, position.first);
  EXPECT_EQ(DecodeStreamPosition(EncodeStreamPosition({"0-0", 0, ""}))->first, "");
  for (const char* bad : {"", "stream 1-0 x 1-0", "stream 1-0 1", "list 7", "stream 1-0 1 - -"}) {
    EXPECT_FALSE(DecodeStreamPosition(bad).has_value()) << bad;
  }
}

TEST(RedisStreamTest, IdsAreComparedAsNumbers) {
  EXPECT_EQ(CompareEntryIds("9-0", "10-0"), -1);
  EXPECT_EQ(CompareEntryIds("10-9", "10-10"), -1);
  EXPECT_EQ(CompareEntryIds("10-10", "10-9"), 1);
  EXPECT_EQ(CompareEntryIds("5-5", "5-5"), 0);
}

// A stream of entries 1-0, 2-0, ...: `added` of them ever, the first `trimmed` gone.
StreamFacts Facts(std::uint64_t added, std::uint64_t trimmed, bool counts = true) {
  StreamFacts facts;
  facts.length = added - trimmed;
  if (facts.length > 0) facts.first = std::to_string(trimmed + 1) + "-0";
  facts.last_generated = std::to_string(added) + "-0";
  facts.last_deleted = "0-0";
  if (counts) facts.added = added;
  return facts;
}
StreamPosition At(std::uint64_t read) { return {std::to_string(read) + "-0", read, "1-0"}; }

TEST(RedisStreamTest, TrimmingIsAGapOnlyWhereItTookWhatWasNotRead) {
  EXPECT_EQ(JudgeStream(Facts(10, 0), At(4)).kind, Kind::kGoesOn);
  EXPECT_EQ(JudgeStream(Facts(10, 3), At(4)).kind, Kind::kGoesOn);
  EXPECT_EQ(JudgeStream(Facts(10, 4), At(4)).kind, Kind::kGoesOn);  // exactly what was read
  const StreamVerdict gap = JudgeStream(Facts(10, 7), At(4));
  EXPECT_EQ(gap.kind, Kind::kGap);
  EXPECT_EQ(gap.lost, 3U);
  EXPECT_EQ(JudgeStream(Facts(10, 10), At(4)).lost, 6U);
  EXPECT_EQ(JudgeStream(Facts(10, 10), At(10)).kind, Kind::kGoesOn);
}

TEST(RedisStreamTest, AStreamThatEndsBeforeThePositionIsAnother) {
  EXPECT_EQ(JudgeStream(Facts(3, 0), At(4)).kind, Kind::kAnother);
  // Made anew with later ids, as a server makes them: it was given fewer than were read.
  StreamFacts anew = Facts(2, 0);
  anew.first = "100-0";
  anew.last_generated = "101-0";
  EXPECT_EQ(JudgeStream(anew, At(4)).kind, Kind::kAnother);
  // Or more: then what is there is more than what can have come.
  anew.added = anew.length = 9;
  EXPECT_EQ(JudgeStream(anew, At(4)).kind, Kind::kAnother);
}

TEST(RedisStreamTest, EntriesDeletedOneByOneAreNoGap) {
  StreamFacts facts = Facts(10, 0);
  facts.length = 3;
  facts.first = "8-0";
  facts.last_deleted = "7-0";
  EXPECT_EQ(JudgeStream(facts, At(4)).kind, Kind::kGoesOn);
}

TEST(RedisStreamTest, ServersThatDoNotCountMakeItAPossibility) {
  EXPECT_EQ(JudgeStream(Facts(10, 7, false), At(4)).kind, Kind::kMaybeGap);
  EXPECT_EQ(JudgeStream(Facts(10, 3, false), At(4)).kind, Kind::kGoesOn);
  EXPECT_EQ(JudgeStream(Facts(10, 7, false), {"0-0", 0, ""}).kind, Kind::kGoesOn);
}

TEST(RedisSpecTest, UrlsAreTakenApart) {
  RedisSpec spec;
  ASSERT_TRUE(ParseRedisUrl("redis://me:p%40ss%3A@example.com:6380/3", spec).ok());
  EXPECT_EQ(spec.user, "me");
  EXPECT_EQ(spec.password, "p@ss:");
  EXPECT_EQ(spec.Endpoint(), "example.com:6380");
  EXPECT_EQ(spec.database, 3U);
  spec = RedisSpec();
  ASSERT_TRUE(ParseRedisUrl("redis://:secret@[::1]/", spec).ok());
  EXPECT_EQ(spec.user, "");
  EXPECT_EQ(spec.password, "secret");
  EXPECT_EQ(spec.Endpoint(), "[::1]:6379");
  spec = RedisSpec();
  ASSERT_TRUE(ParseRedisUrl("unix:///run/redis.sock?db=2", spec).ok());
  EXPECT_EQ(spec.Endpoint(), "/run/redis.sock");
  EXPECT_EQ(spec.database, 2U);
}

// A password is often in the URL: no error may show it.
TEST(RedisSpecTest, BadUrlsAreRefusedWithoutShowingThem) {
  for (const char* url : {"http://u:hunter2@h", "redis://u:hunter2%4@h", "redis://u:hunter2@",
                          "redis://u:hunter2@h:70000", "redis://u:hunter2@h:0",
                          "redis://u:hunter2@h:", "redis://u:hunter2@h/x", "unix://hunter2",
                          "unix:///s?password=hunter2", "rediss://u:hunter2@h"}) {
    RedisSpec spec;
    const absl::Status status = ParseRedisUrl(url, spec);
    EXPECT_FALSE(status.ok()) << url;
    EXPECT_EQ(MessageOf(status).find("hunter2"), std::string_view::npos) << status;
  }
  RedisSpec spec;
  EXPECT_TRUE(absl::IsUnimplemented(ParseRedisUrl("rediss://h", spec)));
}

}  // namespace
}  // namespace tocsin

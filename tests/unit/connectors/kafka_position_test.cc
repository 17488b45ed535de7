#include "connectors/kafka/kafka_position.h"

#include <gtest/gtest.h>

#include "connectors/kafka/kafka_client.h"

namespace tocsin {
namespace {

TEST(KafkaPositionTest, PositionsComeBackAndOthersAreRefused) {
  const KafkaPosition position{"abC-_9", 18, 17, 0xdeadbeef12345678U};
  const auto back = DecodeKafkaPosition(EncodeKafkaPosition(position));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->cluster, position.cluster);
  EXPECT_EQ(back->next, 18);
  EXPECT_EQ(back->last, 17);
  EXPECT_EQ(back->fingerprint, position.fingerprint);
  EXPECT_EQ(DecodeKafkaPosition(EncodeKafkaPosition({"c", 0, -1, 0}))->last, -1);
  for (const char* bad : {"", "kafka c 1 2", "kafka c 1 1 0", "kafka  1 0 0", "kafka c x 0 0",
                          "kafka c -1 -1 0", "stream 1-0 1 1-0", "kafka c 1 0 0 0"}) {
    EXPECT_FALSE(DecodeKafkaPosition(bad).has_value()) << bad;
  }
}

// A topic made anew is known by it.
TEST(KafkaPositionTest, FingerprintTellsRecordsApart) {
  const std::uint64_t one = KafkaFingerprint(1000, "k", "v");
  EXPECT_EQ(one, KafkaFingerprint(1000, "k", "v"));
  EXPECT_NE(one, KafkaFingerprint(1001, "k", "v"));
  EXPECT_NE(one, KafkaFingerprint(1000, "l", "v"));
  EXPECT_NE(one, KafkaFingerprint(1000, "k", "w"));
  EXPECT_NE(one, KafkaFingerprint(1000, std::nullopt, "v"));
  EXPECT_NE(KafkaFingerprint(1, "", "v"), KafkaFingerprint(1, std::nullopt, "v"));
  EXPECT_NE(KafkaFingerprint(1, "k", ""), KafkaFingerprint(1, "k", std::nullopt));
  EXPECT_NE(KafkaFingerprint(1, "ab", "c"), KafkaFingerprint(1, "a", "bc"));
}

TEST(KafkaPartitionTest, KeysComeBack) {
  const auto back = KafkaPartition::FromKey(KafkaPartition{"a.b_c-d", 12}.Key());
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->topic, "a.b_c-d");
  EXPECT_EQ(back->partition, 12);
  for (const char* bad : {"", "/1", "a", "a/", "a/x", "a/-1"}) {
    EXPECT_FALSE(KafkaPartition::FromKey(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace tocsin

#include "broker/base/wire.h"

#include <gtest/gtest.h>

#include <limits>

#include "broker/base/base64.h"
#include "broker/base/hash.h"

namespace tocsin {
namespace {

TEST(WireTest, VarintsAreReadBack) {
  for (const std::uint64_t value :
       {std::uint64_t{0}, std::uint64_t{127}, std::uint64_t{128}, std::uint64_t{1} << 35,
        std::numeric_limits<std::uint64_t>::max()}) {
    std::string bytes;
    PutVarint(bytes, value);
    EXPECT_EQ(bytes.size(), VarintSize(value));
    WireReader reader(bytes);
    std::uint64_t read = 0;
    ASSERT_TRUE(reader.ReadVarint(read));
    EXPECT_EQ(read, value);
    EXPECT_TRUE(reader.AtEnd());
  }
}

TEST(WireTest, MalformedBytesAreRefused) {
  std::uint64_t number = 0;
  EXPECT_FALSE(WireReader("").ReadVarint(number));
  EXPECT_FALSE(WireReader("\x80").ReadVarint(number));
  EXPECT_FALSE(WireReader(std::string(10, '\xFF') + '\x01').ReadVarint(number));
  EXPECT_FALSE(WireReader("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02").ReadVarint(number));
  std::string_view bytes;
  EXPECT_FALSE(WireReader("\x05tiny").ReadBytes(bytes));
  // A length near 2^64 must not wrap the bounds check.
  EXPECT_FALSE(WireReader("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01x").ReadBytes(bytes));
  std::uint32_t field = 0;
  WireType type{};
  EXPECT_FALSE(WireReader(std::string_view("\x02", 1)).ReadTag(field, type));  // field 0
  EXPECT_FALSE(WireReader("\x0B").ReadTag(field, type));                       // a group
  EXPECT_FALSE(WireReader("\x0E").ReadTag(field, type));
  std::uint32_t word = 0;
  EXPECT_FALSE(WireReader("abc").ReadU32(word));
}

TEST(WireTest, FixedWidthIntegersAreLittleEndian) {
  std::string bytes;
  PutU32(bytes, 0x04030201);
  EXPECT_EQ(bytes, "\x01\x02\x03\x04");
  PutU64(bytes, 7);
  WireReader reader(bytes);
  std::uint32_t word = 0;
  std::uint64_t wide = 0;
  ASSERT_TRUE(reader.ReadU32(word));
  ASSERT_TRUE(reader.ReadU64(wide));
  EXPECT_EQ(word, 0x04030201u);
  EXPECT_EQ(wide, 7u);
}

// A change here moves every key to another partition.
TEST(HashTest, KeysKeepTheirHash) {
  EXPECT_EQ(HashKey(""), 0x2D06800538D394C2u);
  EXPECT_EQ(HashKey("order-4711"), HashKey("order-4711"));
  EXPECT_NE(HashKey("order-4711"), HashKey("order-4712"));
  EXPECT_NE(HashKey("order-4711", 1), HashKey("order-4711"));
}

TEST(HashTest, TheBorderBetweenSourceAndIdCounts) {
  EXPECT_NE(HashSourceAndId("ab", "c", 0), HashSourceAndId("a", "bc", 0));
  EXPECT_NE(HashSourceAndId("a", "b", 0), HashSourceAndId("a", "b", 1));
  const std::string large(2000, 'x');
  EXPECT_NE(HashSourceAndId(large, "a", 0), HashSourceAndId(large, "b", 0));
  EXPECT_EQ(HashSourceAndId(large, "a", 0), HashSourceAndId(large, "a", 0));
}

TEST(Base64Test, EncodesAndDecodesStrictly) {
  EXPECT_EQ(EncodeBase64(""), "");
  EXPECT_EQ(EncodeBase64("f"), "Zg==");
  EXPECT_EQ(EncodeBase64("fo"), "Zm8=");
  EXPECT_EQ(EncodeBase64("foobar"), "Zm9vYmFy");
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  EXPECT_EQ(DecodeBase64(EncodeBase64(all)), all);
  for (const char* text :
       {"Zg", "Zg=", "Zg==Zg==", "Zh==", "Zm9=", "Z===", "====", "Zm 8", "Zm8\n"}) {
    EXPECT_EQ(DecodeBase64(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace tocsin

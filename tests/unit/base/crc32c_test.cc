#include "broker/base/crc32c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "broker/base/random.h"

namespace tocsin {
namespace {

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

TEST(Crc32cTest, GivesTheValuesOfRfc3720) {
  EXPECT_EQ(Crc32c(Bytes(std::string(32, '\0'))), 0x8a9136aau);
  EXPECT_EQ(Crc32c(Bytes(std::string(32, '\xff'))), 0x62a8ab43u);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising += static_cast<char>(i);
  EXPECT_EQ(Crc32c(Bytes(rising)), 0x46dd794eu);
  EXPECT_EQ(Crc32c(Bytes("123456789")), 0xe3069283u);
  EXPECT_EQ(Crc32c({}), 0u);
}

TEST(Crc32cTest, TheTableAgreesWithTheProcessor) {
  SeededRandom random(7);
  for (std::size_t size = 0; size < 200; ++size) {
    std::string text;
    for (std::size_t i = 0; i < size; ++i) text += static_cast<char>(random.Next());
    EXPECT_EQ(Crc32c(Bytes(text), 5), Crc32cByTable(Bytes(text), 5)) << size;
  }
}

TEST(Crc32cTest, TheSeedContinuesWhatCameBefore) {
  const std::string text = "events arrive in pieces";
  const std::uint32_t whole = Crc32c(Bytes(text));
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    const std::uint32_t first = Crc32c(Bytes(text.substr(0, cut)));
    EXPECT_EQ(Crc32c(Bytes(text.substr(cut)), first), whole);
  }
}

}  // namespace
}  // namespace tocsin

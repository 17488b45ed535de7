#include "broker/journal/record.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "broker/base/status.h"

namespace tocsin {
namespace {

TEST(RecordTest, RecordsComeBackInOrder) {
  std::string body;
  RecordWriter writer(body);
  const std::string big(70000, 'x');
  writer.Add(RecordType::kEvent, "head", big);
  writer.Add(RecordType::kScheduleSkipped, "");
  writer.Add(RecordType::kSettled, "ranges");
  EXPECT_EQ(writer.count(), 3u);

  RecordReader reader(body);
  RecordView record;
  ASSERT_TRUE(reader.Next(record));
  EXPECT_EQ(record.type, RecordType::kEvent);
  EXPECT_EQ(record.body, "head" + big);
  EXPECT_EQ(record.position, 0u);
  ASSERT_TRUE(reader.Next(record));
  EXPECT_EQ(record.type, RecordType::kScheduleSkipped);
  EXPECT_EQ(record.body, "");
  ASSERT_TRUE(reader.Next(record));
  EXPECT_EQ(record.body, "ranges");
  EXPECT_FALSE(reader.Next(record));
  EXPECT_TRUE(reader.status().ok());
}

// On disk: a change here is a change of the format.
TEST(RecordTest, TheBytesAreThoseOfFormatOne) {
  std::string body;
  RecordWriter writer(body);
  writer.Add(RecordType::kEvent, "ab");
  writer.Add(RecordType::kScheduleSkipped, "c");
  EXPECT_EQ(body, std::string("\x81\x02"
                              "ab"
                              "\x0c\x01"
                              "c"));
  std::string longer;
  RecordWriter(longer).Add(RecordType::kOwnerOpened, std::string(300, 'z'));
  EXPECT_EQ(longer.substr(0, 3), std::string("\x8f\xac\x02"));
}

TEST(RecordTest, AnUnknownTypeIsSkippedAndCounted) {
  std::string body = "\x25\x03xyz";
  RecordWriter(body).Add(RecordType::kSettled, "s");
  RecordReader reader(body);
  RecordView record;
  ASSERT_TRUE(reader.Next(record));
  EXPECT_EQ(record.type, RecordType::kSettled);
  EXPECT_EQ(reader.skipped(), 1u);
}

TEST(RecordTest, AnUnknownCriticalTypeIsRefusedByName) {
  std::string body;
  RecordWriter(body).Add(RecordType::kSettled, "s");
  body += "\xa5\x03xyz";
  RecordReader reader(body);
  RecordView record;
  EXPECT_TRUE(reader.Next(record));
  EXPECT_FALSE(reader.Next(record));
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(reader.status()).find("type 37"), std::string_view::npos);
}

TEST(RecordTest, EveryTruncationIsAnErrorOrAWholeRecordLess) {
  std::string body;
  RecordWriter writer(body);
  writer.Add(RecordType::kEvent, std::string(200, 'e'));
  const std::size_t first = body.size();
  writer.Add(RecordType::kSettled, "abc");
  for (std::size_t size = 0; size < body.size(); ++size) {
    RecordReader reader(std::string_view(body).substr(0, size));
    RecordView record;
    while (reader.Next(record)) {
    }
    EXPECT_EQ(reader.status().ok(), size == 0 || size == first) << size;
  }
}

TEST(RecordTest, ALengthOfTenBytesThatOverflowsIsRefused) {
  const std::string body = "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02";
  RecordReader reader(body);
  RecordView record;
  EXPECT_FALSE(reader.Next(record));
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kDataLoss);
}

TEST(RecordTest, OwnerOpenedSurvivesEncoding) {
  const OwnerOpened opened{Epoch(300), "0.1.0"};
  const auto again = OwnerOpened::Decode(opened.Encode());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->epoch, Epoch(300));
  EXPECT_EQ(again->version, "0.1.0");
  EXPECT_FALSE(OwnerOpened::Decode("\x01\x09short").ok());
}

// A number that was left out must not pass for a record that says nothing.
TEST(RecordTest, ATypeHasANameOrIsNotRead) {
  std::uint32_t known = 0;
  for (std::uint8_t type = 1; type <= kRecordTypeLast; ++type) {
    const std::string body{static_cast<char>(type | kRecordCriticalBit), '\0'};
    RecordReader reader(body);
    RecordView record;
    const bool read = reader.Next(record);
    EXPECT_EQ(read, RecordTypeName(type).substr(0, 5) != "type ") << int{type};
    EXPECT_EQ(read, reader.status().ok()) << int{type};
    known += read ? 1 : 0;
  }
  EXPECT_EQ(known, 24u);
  EXPECT_EQ(RecordTypeName(kRecordTypeLast), "DelayedFired");
}

}  // namespace
}  // namespace tocsin

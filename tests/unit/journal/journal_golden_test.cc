// Format 1, as it was written once: every later version must open it.

#include "tests/unit/journal/journal_golden.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

namespace tocsin {
namespace {

TEST(JournalGoldenTest, TheDirectoryOfFormatOneOpensWithAllThatIsInIt) {
  std::string dir = (std::filesystem::temp_directory_path() / "tocsin-golden-XXXXXX").string();
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  std::filesystem::copy(TOCSIN_GOLDEN_DIR "/journal-1", dir,
                        std::filesystem::copy_options::recursive);
  {
    GoldenJournal journal(dir);
    EXPECT_EQ((*journal).Info().warnings, std::vector<std::string>());
    EXPECT_EQ((*journal).Info().created_by, "0.1.0");
    for (std::uint32_t p = 0; p < 2; ++p) {
      const PartitionId id(p);
      const OpenResult opened = journal.Open(id);
      EXPECT_EQ(opened.epoch, Epoch(2));
      ASSERT_TRUE(opened.checkpoint.has_value());
      EXPECT_EQ(opened.checkpoint->pages.size(), 3u);
      std::vector<std::string> texts;
      (*journal).Read(id, opened.start, 1 << 20, [&texts](absl::StatusOr<ReadResult> read) {
        ASSERT_TRUE(read.ok());
        EXPECT_TRUE(read->unreadable.empty());
        for (const StoredBatch& batch : read->batches) {
          RecordReader reader(*batch.body);
          RecordView record;
          while (reader.Next(record)) {
            if (record.type == RecordType::kEvent) texts.emplace_back(record.body);
          }
        }
      });
      std::string letter;
      (*journal).ListLetters(id, LetterPosition(0), [&](auto letters) {
        ASSERT_TRUE(letters.ok());
        ASSERT_EQ(letters->size(), 1u);
        EXPECT_EQ(letters->front().id, (DeliveryId{id, Offset(3), TriggerOrdinal(1), 0}));
        (*journal).ReadLetter(id, letters->front().position, [&letter](auto bytes) {
          ASSERT_TRUE(bytes.ok());
          letter = *std::move(bytes);
        });
      });
      journal.Run();
      ASSERT_EQ(texts.size(), static_cast<std::size_t>(kGoldenBatches));
      for (int i = 0; i < kGoldenBatches; ++i) {
        EXPECT_EQ(texts[static_cast<std::size_t>(i)], GoldenText(i));
      }
      EXPECT_EQ(letter, "golden letter");
    }
  }
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace tocsin

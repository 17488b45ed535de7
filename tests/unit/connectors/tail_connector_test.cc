// The tail of real files: rotation, truncation, restarts.

#include "connectors/file/tail_connector.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <set>

#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "tests/contract/source_mailbox.h"

namespace tocsin {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

class TailConnectorTest : public ::testing::Test {
 protected:
  TailConnectorTest() {
    std::string name = (fs::temp_directory_path() / "tocsin-tail-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "no temporary directory";
    dir_ = name;
    spec_.name = "in";
    spec_.path = dir_ + "/app.log";
  }
  ~TailConnectorTest() override {
    connector_.reset();
    owner_.RunUntilIdle();
    fs::remove_all(dir_);
  }

  void Write(const std::string& name, const std::string& text, int flags = O_APPEND) {
    const int file =
        ::open((dir_ + "/" + name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC | flags, 0600);
    ASSERT_GE(file, 0);
    ASSERT_EQ(::write(file, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    ::close(file);
  }
  void Rename(const std::string& from, const std::string& to) {
    fs::rename(dir_ + "/" + from, dir_ + "/" + to);
  }

  // A new life, from what was durable.
  absl::Status Restart() {
    connector_.reset();
    owner_.RunUntilIdle();
    auto made = MakeTailConnector(
        spec_, {clock_, owner_, std::make_unique<ThreadExecutor>("lane", clock_)});
    EXPECT_TRUE(made.ok()) << made.status();
    connector_ = *std::move(made);
    std::optional<absl::Status> connected;
    connector_->Connect(lane_, [&](absl::Status status) { connected = std::move(status); });
    EXPECT_TRUE(owner_.RunUntil(clock_, [&] { return connected.has_value(); }));
    return connected.value_or(absl::DeadlineExceededError("no answer"));
  }
  SourceBatch Poll(Duration wait) {
    std::optional<absl::StatusOr<SourceBatch>> polled;
    connector_->Poll(wait, [&](absl::StatusOr<SourceBatch> batch) { polled = std::move(batch); });
    EXPECT_TRUE(owner_.RunUntil(clock_, [&] { return polled.has_value(); }));
    if (!polled || !polled->ok()) {
      ADD_FAILURE() << (polled ? polled->status().ToString() : "no answer");
      return {};
    }
    lane_.position = (*polled)->position;
    return **std::move(polled);
  }
  // Until so many lines came, and none beyond.
  std::vector<std::string> Lines(std::size_t count) {
    std::vector<std::string> lines;
    for (std::size_t i = 0; i < 40 + count && lines.size() < count; ++i) {
      for (const Event& event : Poll(milliseconds(200)).events) {
        lines.emplace_back(event.View().data);
        EXPECT_TRUE(ids_.insert(std::string(event.View().id)).second) << event.View().id;
      }
    }
    for (const Event& event : Poll(milliseconds(1)).events) {
      lines.emplace_back(event.View().data);
    }
    return lines;
  }

  using Texts = std::vector<std::string>;
  SystemClock clock_;
  std::string dir_;
  SourceMailbox owner_;
  TailSpec spec_;
  LaneState lane_;
  std::set<std::string> ids_;
  std::unique_ptr<SourceConnector> connector_;
};

TEST_F(TailConnectorTest, EachCompleteLineIsOneEventAcrossRestarts) {
  Write("app.log", "one\r\n\ntwo\n{\"n\":3}\nunfin");
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(3), (Texts{"one", "two", "{\"n\":3}"}));
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(0), Texts());
  Write("app.log", "ished\nfour\n");
  EXPECT_EQ(Lines(2), (Texts{"unfinished", "four"}));
}

TEST_F(TailConnectorTest, RotatedFilesAreReadToTheirEndThenTheNext) {
  Write("app.log", "1\n");
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(1), Texts{"1"});
  Write("app.log", "2\n3 without an end");
  Rename("app.log", "app.log.1");
  Write("app.log", "4\n");
  EXPECT_EQ(Lines(3), (Texts{"2", "3 without an end", "4"}));
}

// Rotated twice and more while nobody read: the names say nothing, the births do.
TEST_F(TailConnectorTest, RotationsDuringDowntimeMissNothing) {
  Write("app.log", "1\n");
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(1), Texts{"1"});
  Write("app.log", "2\n");
  Rename("app.log", "app.log.1");
  Write("app.log", "3\n");
  Rename("app.log.1", "app.log.2");
  Rename("app.log", "app.log.1");
  Write("app.log", "4\n");
  Write("app.log.3.gz", "not text\n");
  Write("other.log", "not ours\n");
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(3), (Texts{"2", "3", "4"}));
}

TEST_F(TailConnectorTest, TruncatedFileIsReadFromItsBeginningAndSaid) {
  Write("app.log", "1\n2\n");
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(2), (Texts{"1", "2"}));
  Write("app.log", "3\n", O_TRUNC);
  EXPECT_EQ(Lines(1), Texts{"3"});
  EXPECT_EQ(connector_->report().skipped, 1U);
  EXPECT_NE(connector_->report().note.find("truncated"), std::string::npos);
  // While nobody looked, and grown beyond what was read: only the bytes tell.
  Write("app.log", "5\n6\n7\n", O_TRUNC);
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(3), (Texts{"5", "6", "7"}));
}

// Nothing but the bytes before the position tells.
TEST_F(TailConnectorTest, TruncatedFileThatRegrewBetweenTwoPollsIsReadFromItsBeginning) {
  Write("app.log", "1\n2\n");
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(2), (Texts{"1", "2"}));
  Write("app.log", "5\n6\n7\n8\n", O_TRUNC);
  EXPECT_EQ(Lines(4), (Texts{"5", "6", "7", "8"}));
  EXPECT_EQ(connector_->report().skipped, 1U);
  EXPECT_NE(connector_->report().note.find("truncated"), std::string::npos);
  // More than a read takes at once is no truncation.
  std::string many;
  for (int i = 0; i < 200'000; ++i) many += "line " + std::to_string(i) + "\n";
  Write("app.log", many);
  EXPECT_EQ(Lines(200'000).size(), 200'000U);
  EXPECT_EQ(connector_->report().skipped, 1U);
}

TEST_F(TailConnectorTest, FileThatIsGoneIsAGap) {
  Write("app.log", "1\n");
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(1), Texts{"1"});
  connector_.reset();
  // Kept open, so that its inode is not used again.
  const int held = ::open(spec_.path.c_str(), O_RDONLY | O_CLOEXEC);
  fs::remove(spec_.path);
  Write("app.log", "2\n");
  const absl::Status refused = Restart();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_NE(MessageOf(refused).find("on_gap: continue"), std::string_view::npos);
  spec_.pass_gaps = true;
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(1), Texts{"2"});
  EXPECT_EQ(connector_->report().skipped, 1U);
  ::close(held);
}

TEST_F(TailConnectorTest, StartLatestBeginsWithTheUnfinishedLine) {
  Write("app.log", "old\nhalf");
  spec_.from_end = true;
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Poll(milliseconds(1)).puts.size(), 1U);  // kept at once
  Write("app.log", " and half\n");
  ASSERT_TRUE(Restart().ok());
  EXPECT_EQ(Lines(1), Texts{"half and half"});
}

TEST_F(TailConnectorTest, OverlongLineIsUndecodableInPartsAndTheNextIsFine) {
  Write("app.log", std::string(2'500'000, 'x') + "\nfine\n");
  ASSERT_TRUE(Restart().ok());
  std::size_t bytes = 0;
  Texts lines;
  for (int i = 0; i < 20 && lines.empty(); ++i) {
    const SourceBatch batch = Poll(milliseconds(50));
    for (const UndecodableRecord& part : batch.undecodable) {
      bytes += part.bytes.size();
      EXPECT_NE(part.reason.find("longer than 1 MiB"), std::string::npos);
    }
    for (const Event& event : batch.events) lines.emplace_back(event.View().data);
  }
  EXPECT_EQ(bytes, 2'500'001U);
  EXPECT_EQ(lines, Texts{"fine"});
}

TEST_F(TailConnectorTest, MissingFileIsSaidAndLinksAreNotFollowed) {
  EXPECT_TRUE(absl::IsNotFound(Restart()));
  Write("real", "x\n");
  fs::create_symlink(dir_ + "/real", spec_.path);
  EXPECT_TRUE(absl::IsNotFound(Restart()));
}

TEST(TailPositionTest, PositionsComeBackAndOthersAreRefused) {
  const TailPosition position{12, 1'700'000'000'000'000'001, 3, 456, 0xfedcba9876543210U, true};
  const auto back = DecodeTailPosition(EncodeTailPosition(position));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->inode, position.inode);
  EXPECT_EQ(back->born_ns, position.born_ns);
  EXPECT_EQ(back->generation, position.generation);
  EXPECT_EQ(back->offset, position.offset);
  EXPECT_EQ(back->check, position.check);
  EXPECT_TRUE(back->mid);
  for (const char* bad : {"", "tail 1 2 3 4 5", "tail 1 2 3 4 5 2", "tail x 2 3 4 5 0"}) {
    EXPECT_FALSE(DecodeTailPosition(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace tocsin

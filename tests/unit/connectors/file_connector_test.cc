#include "connectors/file/file_connector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>

#include "broker/virtual/one_thread_executor.h"
#include "tests/unit/connectors/fake_tree.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A connector over a tree in memory, and the lane's state as the broker would keep it.
class FileConnectorTest : public ::testing::Test {
 protected:
  FileConnectorTest() {
    spec_.name = "inbox";
    spec_.path = "/srv/inbox";
    spec_.settle = seconds(1);
  }

  absl::Status Connect() {
    connector_ = std::make_unique<FileConnector>(
        spec_, FileConnector::Ports{tree_, clock_, executor_, executor_});
    absl::Status result = absl::UnknownError("not called");
    connector_->Connect(lane_, [&result](absl::Status status) { result = std::move(status); });
    executor_.RunUntilIdle();
    return result;
  }

  // Polls for `time`, keeping the lane's state; gives what came as "created a.csv".
  std::vector<std::string> Run(Duration time) {
    std::vector<std::string> happened;
    const Instant end = clock_.Monotonic() + time;
    while (clock_.Monotonic() < end) {
      absl::StatusOr<SourceBatch> batch = Poll(end - clock_.Monotonic());
      if (!batch.ok()) {
        happened.push_back(std::string(batch.status().message()));
        return happened;
      }
      for (const Event& event : batch->events) {
        EXPECT_TRUE(ValidateEvent(event.View(), event.bytes().size(), EventLimits()).ok());
        const std::string type(event.View().type);
        happened.push_back(type.substr(type.rfind('.') + 1) + " " +
                           std::string(event.View().Text("subject")));
        ids_.push_back(std::string(event.View().id));
      }
    }
    return happened;
  }

  absl::StatusOr<SourceBatch> Poll(Duration wait) {
    absl::StatusOr<SourceBatch> result = absl::UnknownError("not called");
    connector_->Poll(wait,
                     [&result](absl::StatusOr<SourceBatch> batch) { result = std::move(batch); });
    executor_.RunUntilIdle();
    if (result.ok() && keep_) {
      lane_.position = result->position;
      for (const LaneStatePut& put : result->puts) lane_.entries[put.key] = put.value;
      for (const std::string& key : result->erases) lane_.entries.erase(key);
    }
    return result;
  }

  void At(Duration after, std::function<void()> what) {
    tree_.At(clock_.Monotonic() + after, std::move(what));
  }

  using Happened = std::vector<std::string>;

  VirtualClock clock_;
  OneThreadExecutor executor_{clock_};
  FakeTree tree_{clock_};
  FileSpec spec_;
  LaneState lane_;
  bool keep_ = true;  // false: the broker crashed before the batch was durable
  std::unique_ptr<FileConnector> connector_;
  std::vector<std::string> ids_;
};

TEST_F(FileConnectorTest, EachFileThatIsThereOrComesIsOneEvent) {
  tree_.Write("old.csv", 10);
  ASSERT_TRUE(Connect().ok());
  At(seconds(5), [this] { tree_.Write("new.csv", 20); });
  EXPECT_EQ(Run(seconds(300)), (Happened{"created old.csv", "created new.csv"}));
  EXPECT_EQ(connector_->counts().remembered, 2U);
  EXPECT_TRUE(connector_->counts().watching);
}

TEST_F(FileConnectorTest, TheEventSaysWhatAFilterNeeds) {
  spec_.recursive = true;
  tree_.MakeDirectory("day");
  tree_.Write("day/a.csv", 42);
  ASSERT_TRUE(Connect().ok());
  clock_.Advance(seconds(1));
  const absl::StatusOr<SourceBatch> batch = Poll(seconds(2));
  ASSERT_TRUE(batch.ok());
  ASSERT_EQ(batch->events.size(), 1U);
  const EventView view = batch->events[0].View();
  EXPECT_EQ(view.source, "/sources/inbox");
  EXPECT_EQ(view.type, "dev.tocsin.file.created");
  EXPECT_EQ(view.Text("subject"), "day/a.csv");
  EXPECT_EQ(view.PartitionKey(), "day/a.csv");
  EXPECT_EQ(view.Text("datacontenttype"), "application/json");
  EXPECT_EQ(view.data, R"({"path":"/srv/inbox/day/a.csv","name":"a.csv","size":42,)"
                       R"("modified":"2023-11-14T22:13:20Z"})");
}

TEST_F(FileConnectorTest, TheEventBlockReplacesDefaults) {
  spec_.event.type = "com.example.upload";
  spec_.event.source = "/uploads";
  spec_.event.attributes["tenant"] = "acme";
  spec_.event.data = R"({"x":1})";
  tree_.Write("a");
  ASSERT_TRUE(Connect().ok());
  const absl::StatusOr<SourceBatch> batch = Poll(seconds(2));
  ASSERT_TRUE(batch.ok() && batch->events.size() == 1);
  const EventView view = batch->events[0].View();
  EXPECT_EQ(view.type, "com.example.upload");
  EXPECT_EQ(view.source, "/uploads");
  EXPECT_EQ(view.Text("tenant"), "acme");
  EXPECT_EQ(view.data, R"({"x":1})");
}

// F41: what is half written must never be emitted.
TEST_F(FileConnectorTest, F41FileThatIsBeingWrittenIsNotComplete) {
  ASSERT_TRUE(Connect().ok());
  At(seconds(1), [this] { tree_.Begin("slow.csv"); });
  At(seconds(30), [this] { tree_.Grow("slow.csv", 5); });
  At(seconds(200), [this] { tree_.End("slow.csv"); });
  EXPECT_EQ(Run(seconds(190)), Happened{});
  EXPECT_EQ(connector_->counts().waiting, 1U);
  EXPECT_EQ(Run(seconds(30)), Happened{"created slow.csv"});
}

TEST_F(FileConnectorTest, WithoutKnowingWritersTheCloseIsAwaited) {
  tree_.knows_writers = false;
  ASSERT_TRUE(Connect().ok());
  At(seconds(1), [this] { tree_.Begin("slow.csv"); });
  At(seconds(200), [this] { tree_.End("slow.csv"); });
  EXPECT_EQ(Run(seconds(190)), Happened{});
  EXPECT_EQ(Run(seconds(30)), Happened{"created slow.csv"});
}

TEST_F(FileConnectorTest, F41FileFoundOpenAtTheStartWaitsForItsWriter) {
  tree_.Begin("slow.csv");
  ASSERT_TRUE(Connect().ok());
  At(seconds(100), [this] { tree_.End("slow.csv"); });
  EXPECT_EQ(Run(seconds(95)), Happened{});
  EXPECT_EQ(Run(seconds(30)), Happened{"created slow.csv"});
}

TEST_F(FileConnectorTest, F41WriterThatClosesAndComesBackWithinSettleIsAwaited) {
  ASSERT_TRUE(Connect().ok());
  At(milliseconds(100), [this] { tree_.Write("a", 1); });
  for (int i = 1; i < 10; ++i) {
    At(milliseconds(100 + 800 * i), [this, i] { tree_.Write("a", static_cast<unsigned>(1 + i)); });
  }
  EXPECT_EQ(Run(seconds(8)), Happened{});
  EXPECT_EQ(Run(seconds(3)), Happened{"created a"});
}

TEST_F(FileConnectorTest, NothingIsRepeatedAfterARestart) {
  tree_.Write("a.csv");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created a.csv"});
  tree_.Write("b.csv");  // while it is down
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(200)), Happened{"created b.csv"});
}

TEST_F(FileConnectorTest, WhatWasNotDurableComesAgainUnderTheSameId) {
  tree_.Write("a.csv");
  ASSERT_TRUE(Connect().ok());
  keep_ = false;
  EXPECT_EQ(Run(seconds(5)), Happened{"created a.csv"});
  keep_ = true;
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created a.csv"});
  ASSERT_EQ(ids_.size(), 2U);
  EXPECT_EQ(ids_[0], ids_[1]);
}

// F42, four ways.
TEST_F(FileConnectorTest, F42LostNotificationsAreMadeUpForByListing) {
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(2)), Happened{});
  At(seconds(1), [this] {
    tree_.Write("a");
    tree_.Write("b");
    tree_.Overflow();
  });
  EXPECT_EQ(Run(seconds(5)), (Happened{"created a", "created b"}));
}

TEST_F(FileConnectorTest, F42WithoutWatchesFilesAreFoundByRescan) {
  tree_.watches_max = 0;
  ASSERT_TRUE(Connect().ok());
  At(seconds(10), [this] { tree_.Write("a"); });
  EXPECT_EQ(Run(seconds(59)), Happened{});
  EXPECT_NE(connector_->counts().note, "");
  EXPECT_FALSE(connector_->counts().watching);
  EXPECT_EQ(Run(seconds(10)), Happened{"created a"});
}

TEST_F(FileConnectorTest, F42DirectoryFilledBeforeItsWatchLosesNothing) {
  spec_.recursive = true;
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(2)), Happened{});
  At(seconds(1), [this] {
    tree_.MakeDirectory("d");
    tree_.Write("d/early");  // nobody is told
    tree_.MakeDirectory("d/deep");
    tree_.Write("d/deep/early");
  });
  At(seconds(3), [this] { tree_.Write("d/late"); });
  EXPECT_EQ(Run(seconds(10)),
            (Happened{"created d/deep/early", "created d/early", "created d/late"}));
}

TEST_F(FileConnectorTest, F42RenamingWithinTheTreeRepeatsNothing) {
  spec_.recursive = true;
  spec_.on_deleted = true;
  tree_.MakeDirectory("x");
  tree_.MakeDirectory("y");
  tree_.Write("x/a");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created x/a"});
  At(seconds(1), [this] { tree_.Rename("x/a", "y/b"); });
  At(seconds(20), [this] { tree_.RenameDirectory("y", "z"); });
  EXPECT_EQ(Run(seconds(300)), Happened{});
  EXPECT_EQ(lane_.entries.size(), 1U);
  EXPECT_TRUE(lane_.entries.begin()->second.ends_with(" z/b"));
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(300)), Happened{});
}

TEST_F(FileConnectorTest, F42FileThatIsRenamedWhileTheTreeIsListedIsNotForgotten) {
  // Found neither under the old name nor the new one: forgotten, it would be emitted once more.
  spec_.recursive = true;
  spec_.mode = WatchMode::kPoll;
  tree_.MakeDirectory("a");
  tree_.MakeDirectory("b");
  tree_.Write("b/f");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created b/f"});
  tree_.OnList("b", [this] { tree_.Rename("b/f", "a/f"); });  // "a" was listed already
  EXPECT_EQ(Run(seconds(300)), Happened{});
}

TEST_F(FileConnectorTest, F42FileThatIsMovedToWhereNothingIsWatchedYetIsNotForgotten) {
  // After a start the directories are watched one by one; of the move only the first half is told.
  spec_.recursive = true;
  spec_.on_deleted = true;
  for (int i = 100; i < 200; ++i) tree_.MakeDirectory("d" + std::to_string(i));
  tree_.Write("d100/f");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created d100/f"});
  ASSERT_TRUE(Connect().ok());
  tree_.OnList("d140", [this] { tree_.Rename("d100/f", "d199/f"); });
  tree_.OnList("d170", [this] { clock_.Advance(seconds(2)); });
  EXPECT_EQ(Run(seconds(300)), Happened{});
  EXPECT_EQ(lane_.entries.size(), 1U);
}

TEST(FileTrackerTest, F42ListingsThatMayHaveMissedAFileDoNotForgetIt) {
  using Listing = FileTracker::Listing;
  FileSpec spec;
  spec.settle = Duration::zero();
  FileFacts facts;
  facts.kind = FileKind::kRegular;
  facts.identity.inode = 7;
  facts.links = 1;
  for (const auto& [how, enough] :
       {std::pair(Listing::kWatched, 2), std::pair(Listing::kUnwatched, 3)}) {
    FileTracker tracker(spec);
    tracker.Observe("f", facts, std::nullopt, Instant());
    tracker.Decide("f", facts, WriterState::kNone, Instant());
    ASSERT_EQ(tracker.seen_count(), 1U);
    for (int i = 0; i < 5; ++i) {
      tracker.BeginListing();
      EXPECT_TRUE(tracker.EndListing(Listing::kDisturbed, {}));
    }
    EXPECT_EQ(tracker.seen_count(), 1U);
    tracker.BeginListing();
    tracker.Observe("g", facts, std::nullopt, Instant());  // found again
    EXPECT_FALSE(tracker.EndListing(how, {}));
    for (int i = 1; i < enough; ++i) {
      tracker.BeginListing();
      EXPECT_TRUE(tracker.EndListing(how, {}));
      EXPECT_EQ(tracker.seen_count(), 1U);
    }
    tracker.BeginListing();
    EXPECT_FALSE(tracker.EndListing(how, {}));
    EXPECT_EQ(tracker.seen_count(), 0U);
  }
}

TEST_F(FileConnectorTest, GoneFilesAreErasedAndANewOneOfTheNameIsNew) {
  tree_.Write("a");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created a"});
  At(seconds(1), [this] { tree_.Delete("a"); });
  EXPECT_EQ(Run(seconds(5)), Happened{});
  EXPECT_TRUE(lane_.entries.empty());
  At(seconds(1), [this] { tree_.Write("a"); });
  EXPECT_EQ(Run(seconds(5)), Happened{"created a"});
}

TEST_F(FileConnectorTest, InodeOfAnotherFileIsNotTakenForTheOldOne) {
  // Without birth times: deleted and made while the broker is down, with the same inode.
  tree_.births = false;
  tree_.Write("a", 10);
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created a"});
  clock_.Advance(seconds(100));
  tree_.Reuse("a", "b", 11);
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(200)), Happened{"created b"});
}

TEST_F(FileConnectorTest, ModifiedAndDeletedOnlyIfAsked) {
  tree_.Write("a", 1);
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created a"});
  At(seconds(1), [this] { tree_.Write("a", 2); });
  At(seconds(5), [this] { tree_.Delete("a"); });
  EXPECT_EQ(Run(seconds(100)), Happened{});

  spec_.on_modified = spec_.on_deleted = true;
  ASSERT_TRUE(Connect().ok());
  At(seconds(1), [this] { tree_.Write("b", 1); });
  At(seconds(5), [this] { tree_.Write("b", 2); });
  At(seconds(10), [this] { tree_.Delete("b"); });
  EXPECT_EQ(Run(seconds(100)), (Happened{"created b", "modified b", "deleted b"}));
}

// A batch above the journal's limit is refused for ever, and with it all that comes behind.
TEST_F(FileConnectorTest, ManyFilesThatVanishAtOnceAreHandedOnInPieces) {
  spec_.on_deleted = true;
  for (const std::size_t name_bytes : {std::size_t{10}, std::size_t{3000}}) {
    SCOPED_TRACE(name_bytes);
    constexpr std::uint64_t kFiles = 3000;
    lane_ = LaneState();
    for (std::uint64_t i = 0; i < kFiles; ++i) {
      const std::string number = std::to_string(i);
      SeenFile seen;
      seen.path = std::string(name_bytes - number.size(), 'x') + number;
      lane_.entries[EncodeIdentity({i + 1'000'000, 7})] = EncodeSeenFile(seen);
    }
    ASSERT_TRUE(Connect().ok());
    std::map<std::string, int> deleted;
    int batches = 0;
    const Instant end = clock_.Monotonic() + seconds(300);
    while (deleted.size() < kFiles && clock_.Monotonic() < end) {
      keep_ = ++batches % 3 != 0;
      const absl::StatusOr<SourceBatch> batch = Poll(seconds(1));
      ASSERT_TRUE(batch.ok()) << batch.status();
      if (batch->empty()) continue;
      std::size_t bytes = 0;
      for (const Event& event : batch->events) bytes += event.bytes().size();
      EXPECT_LE(batch->events.size(), kBatchEventsMax);
      EXPECT_LE(batch->erases.size(), kBatchEventsMax);
      EXPECT_LE(bytes, 2 * kBatchBytesMax);
      EXPECT_EQ(batch->events.size(), batch->erases.size()) << "an event is durable with its entry";
      if (keep_) {
        for (const Event& event : batch->events) ++deleted[std::string(event.View().id)];
      } else {
        ASSERT_TRUE(Connect().ok());
      }
    }
    EXPECT_EQ(deleted.size(), kFiles);
    for (const auto& [id, count] : deleted) EXPECT_EQ(count, 1) << id;
    EXPECT_TRUE(lane_.entries.empty());
  }
}

TEST_F(FileConnectorTest, ManyEntriesOfAnotherKindAreErasedInPieces) {
  for (int i = 0; i < 3000; ++i) lane_.entries["what is this " + std::to_string(i)] = "?";
  ASSERT_TRUE(Connect().ok());
  for (int i = 0; i < 10 && !lane_.entries.empty(); ++i) {
    const absl::StatusOr<SourceBatch> batch = Poll(seconds(1));
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_LE(batch->erases.size(), kBatchEventsMax);
  }
  EXPECT_TRUE(lane_.entries.empty());
}

TEST_F(FileConnectorTest, ReplacedByRenameIsCreatedNotDeleted) {
  spec_.on_deleted = true;
  spec_.include = {"*.csv"};
  tree_.Write("a.csv", 1);
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created a.csv"});
  At(seconds(1), [this] {
    tree_.Write("a.csv.tmp", 2);
    tree_.Rename("a.csv.tmp", "a.csv");
  });
  EXPECT_EQ(Run(seconds(300)), Happened{"created a.csv"});
  EXPECT_EQ(lane_.entries.size(), 1U);
}

TEST_F(FileConnectorTest, GlobsChooseAndExcludeWins) {
  spec_.include = {"*.csv"};
  spec_.exclude = {".*"};
  tree_.Write("a.csv");
  tree_.Write("b.txt");
  tree_.Write(".hidden.csv");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created a.csv"});
}

TEST_F(FileConnectorTest, OnlyRecursionGoesDown) {
  tree_.MakeDirectory("d");
  tree_.Write("d/a");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(100)), Happened{});
}

// F43
TEST_F(FileConnectorTest, F43SpecialFilesAndBadNamesAreCountedNotEmitted) {
  tree_.MakeOther("fifo");
  tree_.Write("new\nline");
  tree_.Write("not utf-8 \xff");
  tree_.Write("good");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created good"});
  EXPECT_EQ(connector_->counts().skipped, 3U);
}

TEST_F(FileConnectorTest, F43FileThatVanishesBeforeItIsCompleteIsForgotten) {
  ASSERT_TRUE(Connect().ok());
  At(seconds(1), [this] { tree_.Write("a"); });
  At(milliseconds(1500), [this] {
    tree_.notifies = false;  // not even that is told
    tree_.Delete("a");
  });
  EXPECT_EQ(Run(seconds(100)), Happened{});
  EXPECT_EQ(connector_->counts().waiting, 0U);
}

TEST_F(FileConnectorTest, F43DirectoryThatCannotBeReadForgetsNothing) {
  spec_.recursive = true;
  tree_.MakeDirectory("d");
  tree_.Write("d/a");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created d/a"});
  tree_.unreadable.insert("d");
  EXPECT_EQ(Run(seconds(300)), Happened{});
  EXPECT_EQ(lane_.entries.size(), 1U);
  EXPECT_NE(connector_->counts().note, "");
  tree_.unreadable.clear();
  EXPECT_EQ(Run(seconds(300)), Happened{});
}

TEST_F(FileConnectorTest, MissingMountForgetsNothing) {
  tree_.Write("a");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created a"});
  tree_.ReplaceRoot();
  const Happened end = Run(seconds(5));
  ASSERT_EQ(end.size(), 1U);
  EXPECT_NE(end[0].find("unmounted"), std::string::npos);
  const absl::Status empty = Connect();
  EXPECT_TRUE(absl::IsFailedPrecondition(empty)) << empty;
  EXPECT_EQ(lane_.entries.size(), 1U);
  tree_.Write("b");  // it is in use: made anew
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(200)), Happened{"created b"});
  EXPECT_EQ(lane_.entries.size(), 1U);
}

TEST_F(FileConnectorTest, MissingDirectoryIsSaid) {
  tree_.open_error = absl::NotFoundError("no such directory");
  EXPECT_TRUE(absl::IsNotFound(Connect()));
}

TEST_F(FileConnectorTest, F43RemoteFileSystemIsPolledOrRefused) {
  tree_.remote = true;
  tree_.notifies = false;
  spec_.mode = WatchMode::kInotify;
  EXPECT_TRUE(absl::IsFailedPrecondition(Connect()));
  spec_.mode = WatchMode::kAuto;
  ASSERT_TRUE(Connect().ok());
  At(seconds(10), [this] { tree_.Write("a"); });
  EXPECT_EQ(Run(seconds(100)), Happened{"created a"});
}

TEST_F(FileConnectorTest, TooManyFilesStopTheSourceWithTheReason) {
  spec_.files_max = 2;
  for (const char* name : {"a", "b", "c"}) tree_.Write(name);
  ASSERT_TRUE(Connect().ok());
  const Happened end = Run(seconds(5));
  ASSERT_EQ(end.size(), 1U);
  EXPECT_NE(end[0].find("files_max"), std::string::npos);
}

TEST_F(FileConnectorTest, AfterDeletesOrMovesOnlyWhatWasAckedAndIsUnchanged) {
  spec_.after = AfterFile::kDelete;
  EXPECT_EQ(Connect(), absl::OkStatus());
  EXPECT_TRUE(connector_->traits().wants_settled);
  for (const char* name : {"acked", "changed", "dead", "unmatched"}) tree_.Write(name);
  ASSERT_EQ(Run(seconds(5)),
            (Happened{"created acked", "created changed", "created dead", "created unmatched"}));
  const auto settle = [&](std::size_t index, SettledAs as) {
    const LaneEventRef ref{Offset(index), ids_[index]};
    connector_->Settled(std::span(&ref, 1), as);
  };
  At(seconds(1), [this] { tree_.Grow("changed", 1); });
  ASSERT_EQ(Run(seconds(2)), Happened{});
  settle(0, SettledAs::kAcked);
  settle(1, SettledAs::kAcked);
  settle(2, SettledAs::kDead);
  settle(3, SettledAs::kUnmatched);
  settle(0, SettledAs::kAcked);  // told twice
  ASSERT_EQ(Run(seconds(5)), Happened{});
  EXPECT_FALSE(tree_.exists("acked"));
  EXPECT_TRUE(tree_.exists("dead"));
  EXPECT_TRUE(tree_.exists("unmatched"));
  EXPECT_TRUE(tree_.exists("changed"));
  EXPECT_EQ(connector_->counts().moved, 1U);
}

TEST_F(FileConnectorTest, MoveTargetBeneathTheDirectoryIsNotWatched) {
  spec_.after = AfterFile::kMove;
  spec_.move_to = "/srv/inbox/done";
  spec_.recursive = true;
  tree_.MakeDirectory("done");
  tree_.Write("done/x");
  tree_.Write("a");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(100)), Happened{"created a"});
  const LaneEventRef ref{Offset(1), ids_[0]};
  connector_->Settled(std::span(&ref, 1), SettledAs::kAcked);
  EXPECT_EQ(Run(seconds(5)), Happened{});
  ASSERT_EQ(tree_.moved.size(), 1U);
  EXPECT_EQ(tree_.moved[0], (std::pair<std::string, std::string>("a", "/srv/inbox/done")));
}

TEST_F(FileConnectorTest, ManyFilesComeInBoundedBatches) {
  for (int i = 0; i < 5000; ++i) tree_.Write("f" + std::to_string(i));
  ASSERT_TRUE(Connect().ok());
  std::size_t events = 0;
  while (events < 5000) {
    const absl::StatusOr<SourceBatch> batch = Poll(seconds(2));
    ASSERT_TRUE(batch.ok());
    ASSERT_LE(batch->events.size(), kBatchEventsMax);
    ASSERT_FALSE(batch->empty());
    events += batch->events.size();
  }
  EXPECT_EQ(events, 5000U);
}

TEST_F(FileConnectorTest, CancelEndsAPollAndEverythingAfterIt) {
  ASSERT_TRUE(Connect().ok());
  connector_->Cancel();
  EXPECT_TRUE(absl::IsCancelled(Poll(seconds(1)).status()));
  EXPECT_TRUE(absl::IsCancelled(Poll(seconds(1)).status()));
}

TEST_F(FileConnectorTest, EntriesThatSayNothingAreErased) {
  lane_.position.value = "dir1:0-2-1";
  lane_.entries["what?"] = "nonsense";
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(1)), Happened{});
  EXPECT_TRUE(lane_.entries.empty());
}

TEST_F(FileConnectorTest, OneMoreNameOfAFileIsNoSecondEvent) {
  tree_.Write("a");
  ASSERT_TRUE(Connect().ok());
  EXPECT_EQ(Run(seconds(5)), Happened{"created a"});
  At(seconds(1), [this] { tree_.Link("a", "b"); });
  EXPECT_EQ(Run(seconds(300)), Happened{});
}

}  // namespace
}  // namespace tocsin

// File sources in whole brokers: the real disk, inotify, restarts.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "tests/integration/broker_fixture.h"

namespace tocsin {
namespace {

namespace fs = std::filesystem;

class FileSourceTest : public BrokerFixture {
 protected:
  FileSourceTest() : inbox_(dir_ + "/inbox") { fs::create_directory(inbox_); }

  void Configure(const std::string& file_keys, const std::string& more = "") {
    SetConfig("sources:\n  inbox:\n    file: { path: " + inbox_ + ", settle: 20ms, rescan: 300ms" +
              file_keys + " }\n" + more + OneTrigger("    sources: [inbox]\n"));
  }

  void Write(const std::string& path, const std::string& text = "x") {
    const int file =
        ::open((inbox_ + "/" + path).c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    ASSERT_GE(file, 0);
    ASSERT_EQ(::write(file, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    ::close(file);
  }

  v1::SourceStatus Source(const std::string& name = "inbox") {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::ListSourcesResponse response;
    EXPECT_TRUE(v1::Admin::NewStub(Channel())->ListSources(&context, {}, &response).ok());
    for (const v1::SourceStatus& status : response.sources()) {
      if (status.name() == name) return status;
    }
    return {};
  }

  static std::string SubjectOf(const v1::Delivery& delivery) {
    EventView view;
    EXPECT_TRUE(ParseEvent(delivery.event(), view).ok());
    return std::string(view.Text("subject"));
  }
  static std::vector<std::string> Subjects(const std::vector<v1::Delivery>& deliveries) {
    std::vector<std::string> subjects;
    for (const v1::Delivery& delivery : deliveries) subjects.push_back(SubjectOf(delivery));
    std::sort(subjects.begin(), subjects.end());
    return subjects;
  }

  std::string inbox_;
};

TEST_F(FileSourceTest, FilesThatAreThereComeAndCameWhileItWasDownAreEachDeliveredOnce) {
  Configure(", recursive: true");
  Write("early");
  StartBroker();
  {
    TestWorker worker(Channel(), "work");
    std::vector<v1::Delivery> got = worker.Take(1);
    ASSERT_EQ(Subjects(got), std::vector<std::string>{"early"});
    worker.Ack(got);
    fs::create_directories(inbox_ + "/deep/down");
    Write("deep/down/late");
    got = worker.Take(1);
    ASSERT_EQ(Subjects(got), std::vector<std::string>{"deep/down/late"});
    worker.Ack(got);
    EXPECT_TRUE(Eventually([this] { return Books("all").acked() == 2; }));
  }
  EXPECT_EQ(Source().state(), "running");
  EXPECT_EQ(Source().events(), 2U);
  StopBroker();
  Write("while-down");
  fs::rename(inbox_ + "/early", inbox_ + "/deep/renamed");
  StartBroker();
  TestWorker worker(Channel(), "work");
  const std::vector<v1::Delivery> got = worker.Take(1);
  EXPECT_EQ(Subjects(got), std::vector<std::string>{"while-down"});
  worker.Ack(got);
  EXPECT_TRUE(Eventually([this] { return Books("all").acked() == 3; }));
  EXPECT_EQ(Books("all").matched(), 3U);
}

TEST_F(FileSourceTest, FileIsDeletedWhenItsDeliveriesAreAckedAndStaysWhenDead) {
  Configure(", after: delete");
  StartBroker();
  auto worker = std::make_unique<TestWorker>(Channel(), "work");
  Write("good");
  std::vector<v1::Delivery> got = worker->Take(1);
  EXPECT_TRUE(fs::exists(inbox_ + "/good"));
  worker->Ack(got);
  EXPECT_TRUE(Eventually([this] { return !fs::exists(inbox_ + "/good"); }));

  Write("bad");
  got = worker->Take(1);
  ASSERT_EQ(got.size(), 1U);
  v1::Answer reject;
  reject.set_handle(got[0].handle());
  reject.mutable_reject()->set_reason("no");
  worker->Answer(reject);
  EXPECT_TRUE(Eventually([this] { return Letters().size() == 1; }));
  worker.reset();
  RestartBroker();  // it is told again
  EXPECT_TRUE(Eventually([this] { return Source().state() == "running"; }));
  EXPECT_TRUE(fs::exists(inbox_ + "/bad"));

  // Redriven and acked: now it goes.
  v1::CloseLettersRequest redrive;
  redrive.set_action(v1::CloseLettersRequest::REDRIVE);
  TestWorker second(Channel(), "work");
  CloseLetters(redrive);
  got = second.Take(1);
  second.Ack(got);
  EXPECT_TRUE(Eventually([this] { return !fs::exists(inbox_ + "/bad"); }));
}

TEST_F(FileSourceTest, AckedBeforeACrashIsStillActedUpon) {
  // The ack is durable, the deletion did not happen: the next life makes up for it.
  Configure(", after: move, move_to: done");
  StartBroker();
  {
    TestWorker worker(Channel(), "work");
    Write("a");
    ASSERT_EQ(::chmod(inbox_.c_str(), 0700), 0);
    fs::create_directory(inbox_ + "/done");
    worker.Ack(worker.Take(1));
    EXPECT_TRUE(Eventually([this] { return fs::exists(inbox_ + "/done/a"); }));
  }
  // Put back as if it had never been moved.
  fs::rename(inbox_ + "/done/a", inbox_ + "/a");
  RestartBroker();
  EXPECT_TRUE(Eventually([this] { return fs::exists(inbox_ + "/done/a"); }));
  EXPECT_EQ(Books("all").matched(), 1U);
}

TEST_F(FileSourceTest, UnmatchedFilesStay) {
  Configure(", after: delete");
  // The trigger wants another type.
  config_ = config_.substr(0, config_.find("triggers:")) +
            "triggers:\n  all:\n    function: work\n    filters: [ { exact: { type: other } } ]\n";
  StartBroker();
  Write("a");
  EXPECT_TRUE(Eventually([this] { return Source().events() == 1; }));
  EXPECT_TRUE(fs::exists(inbox_ + "/a"));
}

TEST_F(FileSourceTest, MissingDirectoryIsShownAndTakenWhenItIsThere) {
  fs::remove(inbox_);
  Configure("");
  StartBroker();
  EXPECT_TRUE(Eventually([this] { return Source().state() == "waiting"; }));
  EXPECT_NE(Source().last_error().find(inbox_), std::string::npos);
  EXPECT_NE(log_.find("T0208"), std::string::npos);
  fs::create_directory(inbox_);
  Write("a");
  TestWorker worker(Channel(), "work");
  EXPECT_EQ(Subjects(worker.Take(1)), std::vector<std::string>{"a"});
}

TEST_F(FileSourceTest, ReloadStartsChangesAndStopsSources) {
  Configure(", include: [\"*.csv\"]");
  StartBroker();
  Write("a.csv");
  Write("b.txt");
  TestWorker worker(Channel(), "work");
  std::vector<v1::Delivery> got = worker.Take(1);
  EXPECT_EQ(Subjects(got), std::vector<std::string>{"a.csv"});
  worker.Ack(got);
  Configure("");  // every file: what was seen is not seen anew
  EXPECT_TRUE(server_->Reload().errors.empty());
  got = worker.Take(1);
  EXPECT_EQ(Subjects(got), std::vector<std::string>{"b.txt"});
  worker.Ack(got);
  // Without the source: its position is kept.
  SetConfig(OneTrigger());
  EXPECT_TRUE(server_->Reload().errors.empty());
  EXPECT_EQ(Source().state(), "absent");
  Configure("");
  EXPECT_TRUE(server_->Reload().errors.empty());
  Write("c");
  got = worker.Take(1);
  EXPECT_EQ(Subjects(got), std::vector<std::string>{"c"});
}

TEST_F(FileSourceTest, RenamedSourceGoesOnWithWas) {
  Configure("");
  StartBroker();
  Write("a");
  {
    TestWorker worker(Channel(), "work");
    worker.Ack(worker.Take(1));
    EXPECT_TRUE(Eventually([this] { return Books("all").acked() == 1; }));
  }
  StopBroker();
  // Its lane is on another partition, or not: both must work.
  for (const char* name : {"post", "letterbox", "tray"}) {
    static std::string was = "inbox";
    SetConfig("sources:\n  " + std::string(name) + ":\n    was: " + was +
              "\n    file: { path: " + inbox_ + ", settle: 20ms, rescan: 300ms }\n" +
              OneTrigger("    sources: [" + std::string(name) + "]\n"));
    was = name;
    StartBroker();
    Write(std::string("for-") + name);
    {
      TestWorker worker(Channel(), "work");
      const std::vector<v1::Delivery> got = worker.Take(1);
      EXPECT_EQ(Subjects(got), std::vector<std::string>{std::string("for-") + name});
      worker.Ack(got);
      const std::uint64_t matched = Books("all").matched();
      EXPECT_TRUE(Eventually([this, matched] { return Books("all").acked() == matched; }));
    }
    StopBroker();
  }
}

TEST_F(FileSourceTest, ThousandsOfFilesInADeepTreeAreEachOneEvent) {
  Configure(", recursive: true");
  constexpr int kFiles = 3000;
  StartBroker();
  for (int i = 0; i < kFiles; ++i) {
    const std::string directory = "d" + std::to_string(i % 10) + "/e" + std::to_string(i % 70);
    fs::create_directories(inbox_ + "/" + directory);
    Write(directory + "/f" + std::to_string(i));
    if (i == kFiles / 2) RestartBroker();
  }
  std::set<std::string> subjects;
  TestWorker worker(Channel(), "work", 1000);
  while (subjects.size() < kFiles) {
    const std::vector<v1::Delivery> got = worker.Take(1);
    ASSERT_FALSE(got.empty());
    for (const v1::Delivery& delivery : got) {
      EXPECT_TRUE(subjects.insert(SubjectOf(delivery)).second) << SubjectOf(delivery);
    }
    worker.Ack(got);
  }
  EXPECT_TRUE(Eventually([this] { return Books("all").acked() == kFiles; }));
  EXPECT_EQ(Books("all").matched(), static_cast<std::uint64_t>(kFiles));
}

// Its own writing would be events, which it would write.
TEST_F(FileSourceTest, BrokerDoesNotWatchItsOwnDataDirectory) {
  for (const char* path : {"", "/data", "/data/log"}) {
    SetConfig("sources:\n  inbox:\n    file: { path: \"" + dir_ + path + "\", recursive: true }\n" +
              OneTrigger());
    const absl::Status refused = Server::Start(Options()).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << path << refused;
    EXPECT_NE(MessageOf(refused).find("data_dir"), std::string_view::npos);
  }
  // Without recursion a directory in it is not looked into.
  SetConfig("sources:\n  inbox:\n    file: { path: \"" + dir_ + "\" }\n" + OneTrigger());
  StartBroker();
}

}  // namespace
}  // namespace tocsin

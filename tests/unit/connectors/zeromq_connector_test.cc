// The ZeroMQ source with peers of the same library, in this process and over sockets of the system.

#include "connectors/zeromq/zeromq_connector.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <zmq.hpp>
#include <zmq_addon.hpp>

#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "tests/contract/source_mailbox.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class ZeromqTest : public ::testing::Test {
 protected:
  ZeromqTest() {
    std::string name = (std::filesystem::temp_directory_path() / "tocsin-zmq-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "no temporary directory";
    dir_ = name;
    spec_.name = "in";
    spec_.bind = {Endpoint("in")};
  }
  ~ZeromqTest() override {
    connector_.reset();
    owner_.RunUntilIdle();
    std::filesystem::remove_all(dir_);
  }

  std::string Endpoint(const std::string& name) const { return "ipc://" + dir_ + "/" + name; }

  void Open() {
    auto made = MakeZeromqConnector(
        spec_, {clock_, owner_, std::make_unique<ThreadExecutor>("lane", clock_)});
    ASSERT_TRUE(made.ok()) << made.status();
    connector_ = *std::move(made);
    std::optional<absl::Status> connected;
    connector_->Connect({}, [&](absl::Status status) { connected = std::move(status); });
    ASSERT_TRUE(owner_.RunUntil(clock_, [&] { return connected.has_value(); }));
    ASSERT_TRUE(connected->ok()) << *connected;
  }
  SourceBatch Poll(Duration wait = seconds(5)) {
    std::optional<absl::StatusOr<SourceBatch>> polled;
    connector_->Poll(wait, [&](absl::StatusOr<SourceBatch> batch) { polled = std::move(batch); });
    EXPECT_TRUE(owner_.RunUntil(clock_, [&] { return polled.has_value(); }));
    if (!polled || !polled->ok()) {
      ADD_FAILURE() << (polled ? polled->status().ToString() : "no answer");
      return {};
    }
    return **std::move(polled);
  }
  // Until so many records came.
  SourceBatch Take(std::size_t count) {
    SourceBatch all;
    for (int i = 0; i < 50 && all.events.size() + all.undecodable.size() < count; ++i) {
      SourceBatch batch = Poll(seconds(1));
      for (Event& event : batch.events) all.events.push_back(std::move(event));
      for (auto& one : batch.undecodable) all.undecodable.push_back(std::move(one));
      all.position = batch.position;
    }
    EXPECT_EQ(all.events.size() + all.undecodable.size(), count);
    return all;
  }
  void Commit(const SourcePosition& position) {
    std::optional<absl::Status> committed;
    connector_->Commit(position, [&](absl::Status status) { committed = std::move(status); });
    EXPECT_TRUE(owner_.RunUntil(clock_, [&] { return committed.has_value(); }));
  }

  zmq::socket_t Peer(zmq::socket_type type) {
    zmq::socket_t peer(context_, type);
    peer.set(zmq::sockopt::linger, 0);
    peer.set(zmq::sockopt::sndtimeo, 5000);
    peer.set(zmq::sockopt::rcvtimeo, 5000);
    return peer;
  }
  static void Send(zmq::socket_t& peer, const std::vector<std::string>& parts) {
    std::vector<zmq::const_buffer> buffers;
    for (const std::string& part : parts) buffers.push_back(zmq::buffer(part));
    EXPECT_TRUE(zmq::send_multipart(peer, buffers));
  }
  static std::string Receive(zmq::socket_t& peer) {
    zmq::message_t answer;
    return peer.recv(answer) ? answer.to_string() : "(nothing)";
  }
  static std::string Attribute(const Event& event, std::string_view name) {
    return CanonicalAttribute(event.View(), name).value_or("-");
  }

  SystemClock clock_;
  std::string dir_;
  SourceMailbox owner_;
  ZeromqSpec spec_;
  std::unique_ptr<SourceConnector> connector_;
  zmq::context_t context_{1};
};

TEST_F(ZeromqTest, PartsAreTopicAttributesAndData) {
  Open();
  zmq::socket_t push = Peer(zmq::socket_type::push);
  push.connect(Endpoint("in"));
  Send(push, {"alone"});
  Send(push, {"room/1", "{\"t\":21}"});
  Send(push, {"room/2", R"({"ce_specversion":"1.0","ce_id":"e1","ce_source":"/s","ce_type":"t"})",
              "data"});
  Send(push, {"a", "b", "c", "d"});
  Send(push, {"room/3", "no json", "data"});
  const SourceBatch batch = Take(5);
  ASSERT_EQ(batch.events.size(), 3U);
  EXPECT_EQ(batch.events[0].View().data, "alone");
  EXPECT_EQ(Attribute(batch.events[0], "type"), "dev.tocsin.zeromq.message");
  EXPECT_EQ(Attribute(batch.events[0], "subject"), "-");
  EXPECT_EQ(Attribute(batch.events[1], "subject"), "room/1");
  EXPECT_EQ(Attribute(batch.events[1], "datacontenttype"), "application/json");
  EXPECT_EQ(Attribute(batch.events[2], "id"), "e1");
  EXPECT_EQ(batch.events[2].View().data, "data");
  ASSERT_EQ(batch.undecodable.size(), 2U);
  EXPECT_EQ(batch.undecodable[0].bytes, "abcd");
  EXPECT_NE(batch.undecodable[0].reason.find("4 parts"), std::string::npos);
  EXPECT_NE(batch.undecodable[1].reason.find("no JSON object"), std::string::npos);
}

TEST_F(ZeromqTest, PartsAreWhatTheSpecSays) {
  spec_.parts = {ZeromqPart::kKey, ZeromqPart::kData, ZeromqPart::kTopic};
  spec_.event.subject = "at/{topic}";
  Open();
  zmq::socket_t push = Peer(zmq::socket_type::push);
  push.connect(Endpoint("in"));
  Send(push, {"k", "v", "t"});
  Send(push, {"v"});
  const SourceBatch batch = Take(2);
  ASSERT_EQ(batch.events.size(), 1U);
  EXPECT_EQ(Attribute(batch.events[0], "partitionkey"), "k");
  EXPECT_EQ(Attribute(batch.events[0], "subject"), "at/t");
  EXPECT_EQ(batch.events[0].View().data, "v");
  EXPECT_EQ(batch.undecodable.size(), 1U);
}

TEST_F(ZeromqTest, SubTakesWhatItSubscribedTo) {
  zmq::socket_t pub = Peer(zmq::socket_type::xpub);
  pub.bind(Endpoint("pub"));
  spec_.socket = ZeromqSocket::kSub;
  spec_.bind.clear();
  spec_.connect = {Endpoint("pub")};
  spec_.subscribe = {"room/"};
  Open();
  EXPECT_EQ(Receive(pub), std::string("\1room/"));  // it has arrived
  Send(pub, {"hall/1", "no"});
  Send(pub, {"room/1", "yes"});
  const SourceBatch batch = Take(1);
  EXPECT_EQ(batch.events.at(0).View().data, "yes");
}

// An answer before the event is durable would be a lie that a crash uncovers.
TEST_F(ZeromqTest, RepAnswersWhenDurableAndServesClientsSideBySide) {
  spec_.socket = ZeromqSocket::kRep;
  Open();
  EXPECT_TRUE(connector_->traits().dedupe);
  zmq::socket_t first = Peer(zmq::socket_type::req), second = Peer(zmq::socket_type::req);
  first.connect(Endpoint("in"));
  second.connect(Endpoint("in"));
  Send(first, {"one"});
  const SourceBatch one = Take(1);
  Send(second, {"a", "b", "c", "d"});
  const SourceBatch two = Take(1);
  EXPECT_EQ(two.undecodable.size(), 1U);
  zmq::message_t early;
  EXPECT_FALSE(first.recv(early, zmq::recv_flags::dontwait));
  Commit(one.position);
  EXPECT_EQ(Receive(first), R"({"ok":true})");
  EXPECT_FALSE(second.recv(early, zmq::recv_flags::dontwait));
  Commit(two.position);
  EXPECT_NE(Receive(second).find(R"("ok":false)"), std::string::npos);
  Send(first, {"next"});
  Take(1);
}

TEST_F(ZeromqTest, ReplyIsGivenWhileAPollWaits) {
  spec_.socket = ZeromqSocket::kRep;
  Open();
  zmq::socket_t request = Peer(zmq::socket_type::req);
  request.connect(Endpoint("in"));
  Send(request, {"one"});
  const SourceBatch batch = Take(1);
  std::optional<absl::Status> ended;
  connector_->Poll(std::chrono::hours(1),
                   [&](const absl::StatusOr<SourceBatch>& polled) { ended = polled.status(); });
  Commit(batch.position);
  EXPECT_EQ(Receive(request), R"({"ok":true})");
  connector_->Cancel();
  EXPECT_TRUE(owner_.RunUntil(clock_, [&] { return ended.has_value(); }));
  EXPECT_TRUE(absl::IsCancelled(*ended));
}

// Nobody polls, as when the broker is full: peers are held back, memory is bounded, nothing is
// lost.
TEST_F(ZeromqTest, HighWaterMarkHoldsPeersBack) {
  spec_.high_water_mark = 10;
  Open();
  zmq::socket_t push = Peer(zmq::socket_type::push);
  push.set(zmq::sockopt::sndhwm, 10);
  push.set(zmq::sockopt::sndtimeo, 200);
  push.connect(Endpoint("in"));
  const std::string large(100'000, 'x');
  int sent = 0;
  while (sent < 1000 && push.send(zmq::buffer(large))) ++sent;
  EXPECT_GE(sent, 10);
  EXPECT_LT(sent, 200) << "nothing held it back";
  push.set(zmq::sockopt::sndtimeo, 5000);
  Take(static_cast<std::size_t>(sent));
  EXPECT_TRUE(push.send(zmq::buffer(large)));
  Take(1);
}

TEST_F(ZeromqTest, CurveAdmitsWhoIsNamedAndTellsOfOthers) {
  const auto keys = [] {
    std::array<char, 41> open{}, secret{};
    EXPECT_EQ(zmq_curve_keypair(open.data(), secret.data()), 0);
    return std::pair<std::string, std::string>(open.data(), secret.data());
  };
  const auto server = keys(), client = keys(), stranger = keys();
  spec_.bind = {Endpoint("curve")};
  spec_.curve_secret = server.second;
  spec_.curve_clients = {client.first};
  Open();
  const auto connect = [&](const std::pair<std::string, std::string>& own) {
    zmq::socket_t push = Peer(zmq::socket_type::push);
    push.set(zmq::sockopt::curve_serverkey, server.first);
    push.set(zmq::sockopt::curve_publickey, own.first);
    push.set(zmq::sockopt::curve_secretkey, own.second);
    push.connect(Endpoint("curve"));
    return push;
  };
  zmq::socket_t good = connect(client);
  Send(good, {"from a friend"});
  EXPECT_EQ(Take(1).events.at(0).View().data, "from a friend");
  zmq::socket_t bad = connect(stranger);
  (void)bad.send(zmq::str_buffer("from a stranger"), zmq::send_flags::dontwait);
  bool told = false;
  for (int i = 0; i < 100 && !told; ++i) {
    EXPECT_TRUE(Poll(milliseconds(50)).events.empty());
    told = connector_->report().note.find("not admitted") != std::string::npos;
  }
  EXPECT_TRUE(told) << connector_->report().note;
}

TEST_F(ZeromqTest, EndpointInUseIsTold) {
  zmq::socket_t other = Peer(zmq::socket_type::pull);
  other.bind("tcp://127.0.0.1:*");
  spec_.bind = {other.get(zmq::sockopt::last_endpoint)};
  const absl::StatusOr<std::string> checked = CheckZeromq(spec_, clock_);
  EXPECT_TRUE(absl::IsUnavailable(checked.status())) << checked.status();
  EXPECT_NE(MessageOf(checked.status()).find(spec_.bind[0]), std::string_view::npos);
}

TEST(ZeromqSpecTest, KeysAndEndpointsAreChecked) {
  ZeromqSpec spec;
  spec.bind = {"tcp://127.0.0.1:1"};
  EXPECT_TRUE(ValidateZeromqSpec(spec).ok());
  spec.curve_secret = "hunter2";
  const absl::Status refused = ValidateZeromqSpec(spec);
  EXPECT_FALSE(refused.ok());
  EXPECT_EQ(MessageOf(refused).find("hunter2"), std::string_view::npos);
  spec.curve_secret = "";
  spec.connect = {"127.0.0.1:5555"};
  EXPECT_FALSE(ValidateZeromqSpec(spec).ok());
}

}  // namespace
}  // namespace tocsin

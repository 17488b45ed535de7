// A whole broker: who may do what, TLS, HTTP, reload, drain.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <atomic>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cstdio>
#include <future>
#include <memory>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "broker/server/plan_builder.h"
#include "tests/integration/broker_fixture.h"

namespace tocsin {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr char kTokens[] =
    "  tokens:\n"
    "    - { token: publish-secret-1, scopes: [publish] }\n"
    "    - { token: work-secret-2, scopes: [work] }\n"
    "    - { token: admin-secret-3, scopes: [admin] }\n";

class BrokerControlTest : public BrokerFixture {
 protected:
  struct HttpAnswer {
    int status = 0;
    std::string body;
  };
  HttpAnswer Get(const std::string& path, const std::string& token = "") {
    namespace http = boost::beast::http;
    boost::asio::io_context context;
    boost::asio::ip::tcp::socket socket(context);
    socket.connect({boost::asio::ip::make_address("127.0.0.1"),
                    static_cast<std::uint16_t>(server_->endpoints().http_port)});
    http::request<http::empty_body> request(http::verb::get, path, 11);
    if (!token.empty()) request.set(http::field::authorization, "Bearer " + token);
    http::write(socket, request);
    boost::beast::flat_buffer buffer;
    http::response<http::string_body> response;
    http::read(socket, buffer, response);
    return {static_cast<int>(response.result_int()), response.body()};
  }

  static void AddToken(grpc::ClientContext& context, const std::string& token) {
    SetDeadline(context);
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
  }
  grpc::StatusCode TryPublish(const std::string& token) {
    grpc::ClientContext context;
    AddToken(context, token);
    v1::PublishResponse response;
    return v1::Publisher::NewStub(Channel())->Publish(&context, {}, &response).error_code();
  }
  grpc::StatusCode TryPublishStream(const std::string& token) {
    grpc::ClientContext context;
    AddToken(context, token);
    const auto stub = v1::Publisher::NewStub(Channel());
    const auto stream = stub->PublishStream(&context);
    stream->WritesDone();
    return stream->Finish().error_code();
  }
  grpc::StatusCode TryAttach(const std::string& token) {
    TestWorker worker(Channel(), "work", 1, false, token);
    if (worker.attached()) worker.Leave();
    return worker.Finish().error_code();
  }
  std::vector<std::string> Warnings() {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::StatusResponse response;
    EXPECT_TRUE(v1::Admin::NewStub(Channel())->Status(&context, {}, &response).ok());
    return {response.warnings().begin(), response.warnings().end()};
  }
  grpc::StatusCode TryStatus(const std::string& token) {
    grpc::ClientContext context;
    AddToken(context, token);
    v1::StatusResponse response;
    return v1::Admin::NewStub(Channel())->Status(&context, {}, &response).error_code();
  }
  grpc::StatusCode TryTail(const std::string& token) {
    grpc::ClientContext context;
    AddToken(context, token);
    v1::TailRequest request;
    request.set_from("start");
    const auto stub = v1::Admin::NewStub(Channel());
    const auto reader = stub->Tail(&context, request);
    v1::TailEvent event;
    while (reader->Read(&event)) {
    }
    return reader->Finish().error_code();
  }
};

TEST_F(BrokerControlTest, EveryPathAsksForItsScope) {
  SetConfig(OneTrigger(), kTokens);
  StartBroker();
  const auto kOk = grpc::StatusCode::OK;
  const auto kDenied = grpc::StatusCode::PERMISSION_DENIED;
  const auto kUnknown = grpc::StatusCode::UNAUTHENTICATED;
  struct Row {
    std::string token;
    grpc::StatusCode publish, work, admin;
    int metrics;
  };
  for (const Row& row : {Row{"", kUnknown, kUnknown, kUnknown, 401},
                         Row{"publish-secret-", kUnknown, kUnknown, kUnknown, 401},
                         Row{"publish-secret-1", kOk, kDenied, kDenied, 403},
                         Row{"work-secret-2", kDenied, kOk, kDenied, 403},
                         Row{"admin-secret-3", kDenied, kDenied, kOk, 200}}) {
    SCOPED_TRACE(row.token);
    EXPECT_EQ(TryPublish(row.token), row.publish);
    EXPECT_EQ(TryPublishStream(row.token), row.publish);
    EXPECT_EQ(TryAttach(row.token), row.work);
    EXPECT_EQ(TryStatus(row.token), row.admin);
    EXPECT_EQ(TryTail(row.token), row.admin);
    EXPECT_EQ(Get("/metrics", row.token).status, row.metrics);
    EXPECT_EQ(Get("/healthz", row.token).status, 200);
  }
  EXPECT_THAT(Get("/metrics", "admin-secret-3").body, Not(HasSubstr("secret")));
  EXPECT_THAT(log_, Not(HasSubstr("secret")));
}

TEST_F(BrokerControlTest, ARemovedTokenEndsItsStreamsAndNoOthers) {
  SetConfig(OneTrigger(), kTokens);
  StartBroker();
  TestWorker worker(Channel(), "work", 1, false, "work-secret-2");
  ASSERT_TRUE(worker.attached());
  grpc::ClientContext context;
  AddToken(context, "publish-secret-1");
  const auto stub = v1::Publisher::NewStub(Channel());
  const auto publisher = stub->PublishStream(&context);
  v1::PublishRequest request;
  request.set_sequence(1);
  AddEvent(request, MakeEvent("a"));
  ASSERT_TRUE(publisher->Write(request));
  v1::PublishResponse response;
  ASSERT_TRUE(publisher->Read(&response));
  config_.replace(config_.find("work-secret-2"), 13, "work-secret-4");
  const ReloadReport report = server_->Reload();
  EXPECT_THAT(report.errors, IsEmpty());
  EXPECT_THAT(report.changes, ElementsAre("broker.tokens: changed"));
  EXPECT_FALSE(worker.ReadUntil([](const v1::BrokerFrame&) { return false; }));
  EXPECT_EQ(worker.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(TryAttach("work-secret-4"), grpc::StatusCode::OK);
  request.set_sequence(2);
  ASSERT_TRUE(publisher->Write(request));
  ASSERT_TRUE(publisher->Read(&response));
  EXPECT_EQ(response.sequence(), 2u);
  publisher->WritesDone();
  EXPECT_TRUE(publisher->Finish().ok());
}

TEST_F(BrokerControlTest, AListenerThatOthersReachNeedsTlsAndAnIdentity) {
  SetConfig(OneTrigger());
  ServerOptions options = Options();
  // Not by way of the file, which has a check of its own.
  options.listen = "0.0.0.0:0";
  absl::StatusOr<std::unique_ptr<Server>> open = Server::Start(std::move(options));
  ASSERT_FALSE(open.ok());
  EXPECT_THAT(std::string(MessageOf(open.status())), HasSubstr("T0205"));
  options = Options();
  options.http = "0.0.0.0:0";
  open = Server::Start(std::move(options));
  ASSERT_FALSE(open.ok());
  EXPECT_THAT(std::string(MessageOf(open.status())), HasSubstr("T0205"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/data")) << "refused before anything was made";
}

// The danger: the file says loopback and takes the tokens away; the tokens go at once, the listener
// that everybody reaches stays until the next start.
TEST_F(BrokerControlTest, AReloadLooksAtTheListenersThatAreThere) {
  BrokerConfig bound;
  bound.listen = "0.0.0.0:7420";
  bound.tls = TlsConfig{.cert = "cert", .key = "key", .client_ca = "ca"};
  BrokerConfig policy;
  EXPECT_EQ(CheckListeners(policy), absl::OkStatus());
  const absl::Status open = CheckBoundListeners(bound, policy);
  EXPECT_EQ(open.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(MessageOf(open)), HasSubstr("T0205"));
  EXPECT_THAT(std::string(MessageOf(open)), HasSubstr("until it is started anew"));
  policy.tokens.emplace_back();
  EXPECT_EQ(CheckBoundListeners(bound, policy), absl::OkStatus());
  policy.tokens.clear();
  policy.tls = bound.tls;
  EXPECT_EQ(CheckBoundListeners(bound, policy), absl::OkStatus()) << "certificates are asked for";
  bound.tls->client_ca.clear();
  EXPECT_FALSE(CheckBoundListeners(bound, policy).ok()) << "nobody asks for them yet";
  bound.listen = "127.0.0.1:7420";
  EXPECT_EQ(CheckBoundListeners(bound, BrokerConfig()), absl::OkStatus());
}

// The danger: a partition's thread waits for a reload that waits for that partition.
TEST_F(BrokerControlTest, TriggersAreListedWhileAReloadIsUnderWay) {
  SetConfig(OneTrigger());
  std::promise<void> loading, go_on;
  std::shared_future<void> gone_on = go_on.get_future().share();
  std::atomic<bool> hold{false};
  ServerOptions options = Options();
  options.load = [&, load = options.load](std::vector<ConfigError>& errors) {
    if (hold.exchange(false)) {
      loading.set_value();
      gone_on.wait();
    }
    return load(errors);
  };
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(std::move(options));
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = std::move(*server);
  hold = true;
  SystemClock clock;
  ThreadExecutor side("reload", clock);
  std::promise<void> reloaded;
  side.Post([&] {
    EXPECT_THAT(server_->Reload().errors, IsEmpty());
    reloaded.set_value();
  });
  loading.get_future().wait();
  EXPECT_EQ(Books("all").name(), "all");
  PublishAll({MakeEvent("e1")});
  go_on.set_value();
  reloaded.get_future().wait();
}

TEST_F(BrokerControlTest, AReloadAfterTheDrainBeganChangesNothing) {
  SetConfig(OneTrigger());
  StartBroker();
  EXPECT_TRUE(server_->Drain().ok());
  EXPECT_THAT(server_->Reload().errors, ElementsAre(HasSubstr("stopping")));
  server_.reset();
}

TEST_F(BrokerControlTest, TlsWithAClientCertificateIsAnIdentity) {
  // A certificate authority, and a server and a client certificate of it.
  const std::string make =
      "cd " + dir_ +
      " && exec >/dev/null 2>&1 && openssl req -x509 -newkey ec -pkeyopt "
      "ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2 && "
      "for n in server client; do openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 "
      "-nodes -keyout $n.key -out $n.csr -subj /CN=$n && printf "
      "'subjectAltName=IP:127.0.0.1,DNS:localhost' > ext && openssl x509 -req -in $n.csr -CA "
      "ca.pem -CAkey ca.key -CAcreateserial -out $n.pem -days 2 -extfile ext; done";
  ASSERT_EQ(std::system(make.c_str()), 0);
  const auto read = [this](const std::string& name) {
    const absl::StatusOr<std::string> text =
        SystemConfigEnvironment().ReadFile(dir_ + "/" + name, 1 << 20);
    EXPECT_TRUE(text.ok());
    return text.value_or("");
  };
  SetConfig(OneTrigger(), "  tls: { cert: " + dir_ + "/server.pem, key: " + dir_ +
                              "/server.key, client_ca: " + dir_ + "/ca.pem }\n");
  StartBroker();
  const auto status_with = [&](bool with_certificate) {
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = read("ca.pem");
    if (with_certificate) {
      tls.pem_cert_chain = read("client.pem");
      tls.pem_private_key = read("client.key");
    }
    grpc::ClientContext context;
    SetDeadline(context);
    v1::StatusResponse response;
    const auto channel = grpc::CreateChannel(server_->endpoints().grpc, grpc::SslCredentials(tls));
    return v1::Admin::NewStub(channel)->Status(&context, {}, &response);
  };
  const grpc::Status known = status_with(true);
  EXPECT_TRUE(known.ok()) << known.error_message();
  EXPECT_EQ(status_with(false).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  // In the clear nothing is understood.
  grpc::ClientContext context;
  SetDeadline(context, 3);
  v1::StatusResponse response;
  EXPECT_FALSE(v1::Admin::NewStub(Channel())->Status(&context, {}, &response).ok());
}

TEST_F(BrokerControlTest, MetricsSatisfyPrometheus) {
  SetConfig(OneTrigger(), "");
  StartBroker();
  EXPECT_EQ(PublishAll({MakeEvent("a"), MakeEvent("b"), MakeEvent("b")}).accepted(), 3u);
  TestWorker worker(Channel(), "work");
  worker.Ack(worker.Take(2));
  ASSERT_TRUE(Eventually([&] { return Books("all").acked() == 2; }));
  const HttpAnswer metrics = Get("/metrics");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_THAT(metrics.body, HasSubstr("tocsin_published_events_total 2\n"));
  EXPECT_THAT(metrics.body, HasSubstr("tocsin_published_duplicates_total 1\n"));
  EXPECT_THAT(metrics.body, HasSubstr("tocsin_trigger_acked_total{trigger=\"all\"} 2\n"));
  EXPECT_THAT(metrics.body, HasSubstr("tocsin_trigger_throttled{trigger=\"all\"} 0\n"));
  EXPECT_THAT(metrics.body, HasSubstr("tocsin_workers{function=\"work\"} 1\n"));
  std::FILE* promtool = popen("promtool check metrics 2>&1", "w");
  ASSERT_NE(promtool, nullptr);
  std::fwrite(metrics.body.data(), 1, metrics.body.size(), promtool);
  EXPECT_EQ(WEXITSTATUS(pclose(promtool)), 0);
}

TEST_F(BrokerControlTest, AThrottledTriggerIsToldAndGoesOnWithAnotherRate) {
  SetConfig(OneTrigger("    rate: 1/h\n"));
  StartBroker();
  PublishAll({MakeEvent("a"), MakeEvent("b"), MakeEvent("c")});
  TestWorker worker(Channel(), "work");
  worker.Ack(worker.Take(1));
  ASSERT_TRUE(Eventually([&] { return Books("all").acked() == 1; }));
  EXPECT_EQ(Books("all").state(), "throttled");
  EXPECT_THAT(Get("/metrics").body, HasSubstr("tocsin_trigger_throttled{trigger=\"all\"} 1\n"));
  SetConfig(OneTrigger("    rate: 1000/s\n"));
  const ReloadReport report = server_->Reload();
  EXPECT_THAT(report.errors, IsEmpty());
  EXPECT_THAT(report.changes, ElementsAre("trigger `all`: changed"));
  worker.Ack(worker.Take(2));
  ASSERT_TRUE(Eventually([&] { return Books("all").acked() == 3; }));
  EXPECT_EQ(Books("all").state(), "active");
}

TEST_F(BrokerControlTest, HttpAnswersWhatItKnows) {
  SetConfig(OneTrigger());
  StartBroker();
  EXPECT_EQ(Get("/healthz").status, 200);
  EXPECT_EQ(Get("/readyz?verbose").status, 200);
  EXPECT_EQ(Get("/elsewhere").status, 404);
}

TEST_F(BrokerControlTest, ReloadAppliesTheDifferenceAndABadFileChangesNothing) {
  const std::string other =
      "  other:\n    function: work\n    filters: [ { exact: { type: other } } ]\n";
  SetConfig(OneTrigger());
  StartBroker();
  PublishAll({MakeEvent("a", "other")});
  const std::string good = config_;
  config_ = good + "  broken: { functoin: work }\nnonsense: 1\n";
  const ReloadReport refused = server_->Reload();
  EXPECT_GE(refused.errors.size(), 2u) << "every error at once";
  EXPECT_THAT(refused.changes, IsEmpty());
  EXPECT_EQ(Books("all").state(), "active");
  EXPECT_THAT(Warnings(), ElementsAre(AllOf(HasSubstr("was not reloaded"), HasSubstr(" more"))));

  config_ = good;
  config_.replace(config_.find("partitions: 2"), 13, "partitions: 3");
  EXPECT_THAT(server_->Reload().errors, ElementsAre(HasSubstr("does not fit")))
      << "the next start would be refused";

  config_ = good + other;
  EXPECT_THAT(server_->Reload().changes, ElementsAre("trigger `other`: added"));
  EXPECT_THAT(Warnings(), Each(Not(HasSubstr("was not reloaded"))));
  PublishAll({MakeEvent("b", "other")});
  EXPECT_TRUE(Eventually([&] { return Books("other").matched() == 1; }));
  EXPECT_EQ(Books("all").matched(), 2u);

  config_ = good;
  EXPECT_THAT(server_->Reload().changes, SizeIs(1));
  EXPECT_TRUE(Eventually([&] { return Books("other").state() == "detached"; }));
  PublishAll({MakeEvent("c", "other")});
  EXPECT_EQ(Books("other").matched(), 1u);
  EXPECT_EQ(Books("other").pending(), 1u) << "kept";

  const auto stub = v1::Admin::NewStub(Channel());
  const auto set = [&](const std::string& name, v1::SetTriggerStateRequest::Action action,
                       bool dry_run, v1::SetTriggerStateResponse& response) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::SetTriggerStateRequest request;
    request.set_name(name);
    request.set_action(action);
    request.set_dry_run(dry_run);
    return stub->SetTriggerState(&context, request, &response).error_code();
  };
  v1::SetTriggerStateResponse response;
  EXPECT_EQ(set("nobody", v1::SetTriggerStateRequest::PAUSE, false, response),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(set("all", v1::SetTriggerStateRequest::FORGET, false, response),
            grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(set("other", v1::SetTriggerStateRequest::FORGET, true, response), grpc::StatusCode::OK);
  EXPECT_EQ(response.pending(), 1u);
  EXPECT_EQ(Books("other").pending(), 1u) << "a dry run changes nothing";
  EXPECT_EQ(set("other", v1::SetTriggerStateRequest::FORGET, false, response),
            grpc::StatusCode::OK);
  EXPECT_TRUE(Eventually([&] { return Books("other").pending() == 0; }));

  EXPECT_EQ(set("all", v1::SetTriggerStateRequest::PAUSE, false, response), grpc::StatusCode::OK);
  EXPECT_EQ(Books("all").state(), "paused");
  EXPECT_EQ(set("all", v1::SetTriggerStateRequest::RESUME, false, response), grpc::StatusCode::OK);
  EXPECT_EQ(Books("all").state(), "active");
}

TEST_F(BrokerControlTest, ATriggerThatIsAddedFromStartGetsTheStoredEventsFirst) {
  SetConfig(OneTrigger());
  StartBroker();
  PublishAll({MakeEvent("a", "t", "k"), MakeEvent("b", "t", "k")});
  config_ += "  late:\n    function: other\n    from: start\nsources: {}\n";
  config_.replace(config_.find("work: {}"), 8, "work: {}\n  other: {}");
  EXPECT_THAT(server_->Reload().errors, IsEmpty());
  PublishAll({MakeEvent("c", "t", "k")});
  TestWorker worker(Channel(), "other");
  std::vector<std::string> order;
  while (order.size() < 3) {
    const std::vector<v1::Delivery> deliveries = worker.Take(1);
    ASSERT_FALSE(deliveries.empty());
    for (const v1::Delivery& delivery : deliveries) order.push_back(IdOf(delivery));
    worker.Ack(deliveries);
  }
  EXPECT_THAT(order, ElementsAre("a", "b", "c"));
  EXPECT_TRUE(Eventually([&] { return Books("late").acked() == 3; }));
  RestartBroker();
  EXPECT_EQ(Books("late").matched(), 3u);
  EXPECT_EQ(Books("all").matched(), 3u);
}

TEST_F(BrokerControlTest, DrainLetsWorkersFinishAndRefusesPublishers) {
  SetConfig(OneTrigger());
  StartBroker();
  PublishAll({MakeEvent("a")});
  auto worker = std::make_unique<TestWorker>(Channel(), "work");
  const std::vector<v1::Delivery> deliveries = worker->Take(1);
  ASSERT_THAT(deliveries, SizeIs(1));
  const auto stub = v1::Publisher::NewStub(Channel());
  grpc::ClientContext context;
  SetDeadline(context);
  const auto publisher = stub->PublishStream(&context);
  v1::PublishRequest request;
  AddEvent(request, MakeEvent("b"));
  ASSERT_TRUE(publisher->Write(request));
  v1::PublishResponse response;
  ASSERT_TRUE(publisher->Read(&response));
  // What the worker does when it is told to drain: it answers, leaves and closes.
  worker->Ack(deliveries);
  ASSERT_TRUE(Eventually([&] { return Books("all").acked() == 1; }));
  worker->Leave();
  EXPECT_TRUE(worker->Finish().ok());
  StopBroker();
  EXPECT_FALSE(publisher->Read(&response));
  EXPECT_EQ(publisher->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/data/" + kEndpointsFile));
  StartBroker();
  EXPECT_EQ(Books("all").acked(), 1u);
  EXPECT_EQ(Books("all").pending(), 1u);
}

TEST_F(BrokerControlTest, AWorkerThatDoesNotLeaveIsToldToDrainAndEnded) {
  SetConfig(OneTrigger());
  ServerOptions options = Options();
  options.drain_within = std::chrono::milliseconds(200);
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(std::move(options));
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = std::move(*server);
  TestWorker worker(Channel(), "work");
  ASSERT_TRUE(worker.attached());
  StopBroker();
  EXPECT_TRUE(worker.ReadUntil([](const v1::BrokerFrame& frame) { return frame.has_drain(); }));
  EXPECT_FALSE(worker.ReadUntil([](const v1::BrokerFrame&) { return false; }));
  EXPECT_EQ(worker.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(BrokerControlTest, ATakenPortIsAnErrorThatNamesIt) {
  SetConfig(OneTrigger());
  StartBroker();
  ServerOptions options = Options();
  options.data_dir = dir_ + "/other";
  options.listen = server_->endpoints().grpc;
  const absl::StatusOr<std::unique_ptr<Server>> second = Server::Start(std::move(options));
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(MessageOf(second.status())), HasSubstr("T0202"));
  EXPECT_THAT(std::string(MessageOf(second.status())), HasSubstr(server_->endpoints().grpc));
}

// FAULTS F45: the system's time zones are updated while the broker runs.
TEST_F(BrokerControlTest, F45AnUpdatedTimeZoneIsFollowedWithoutARestart) {
  namespace fs = std::filesystem;
  const fs::path zones = fs::path(dir_) / "zones";
  fs::create_directories(zones);
  const auto install = [&](const char* zone) {
    fs::copy_file(fs::path("/usr/share/zoneinfo") / zone, zones / "new");
    fs::rename(zones / "new", zones / "Here");
  };
  install("Europe/Berlin");
  setenv("TZDIR", zones.c_str(), 1);
  SetConfig("sources: { noon: { timer: { cron: '0 12 * * *', timezone: Here } } }\n");
  ServerOptions options = Options();
  options.zones_every = std::chrono::milliseconds(20);
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = std::move(*server);
  const auto second_of_hour = [this]() -> std::int64_t {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::ListSourcesResponse response;
    EXPECT_TRUE(v1::Admin::NewStub(Channel())->ListSources(&context, {}, &response).ok());
    return response.sources_size() == 1 ? response.sources(0).next_us() / 1'000'000 % 3600 : -1;
  };
  EXPECT_TRUE(Eventually([&] { return second_of_hour() == 0; }));
  install("Asia/Kolkata");
  EXPECT_TRUE(Eventually([&] { return second_of_hour() == 1800; }));
  StopBroker();
  unsetenv("TZDIR");
  EXPECT_THAT(log_, HasSubstr("the time zone database was updated (Here)"));
}

}  // namespace
}  // namespace tocsin

// A whole broker under load, beside a bare gRPC relay in the same run.
//
// `tocsin serve` and the relay are processes of their own; publishers and workers, by the C++ SDK,
// live in this one. Broker and relay take turns, round by round, and a ratio is of two neighbours,
// so that noise of the machine meets both. Exits with 1 if a floor is missed (see kFloors).

#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "tests/bench/bench_load.h"
#include "tests/bench/bench_process.h"
#include "tests/bench/bench_relay.h"
#include "tests/bench/bench_report.h"

namespace tocsin::bench {
namespace {

constexpr double kSettledPerSecondFloor = 200'000;  // 128 B, batched
constexpr double kRoundTripP50FloorUs = 500;        // durable publish
constexpr double kPacedRate = 10'000;
constexpr std::size_t kRelayWindow = 16;  // requests in flight, as the SDK's publisher has at most

constexpr char kConfig[] = R"(version: 1
broker:
  http: 127.0.0.1:0
  listen: 127.0.0.1:0
  durability: {}
  retention: {{ size: 8GiB }}
functions:
  count: {{}}
triggers:
  bench:
    filters:
      - exact: {{ type: bench.matched }}
    function: count
)";

struct Options {
  std::string self;
  std::string tocsin;
  std::string dir;  // where the data directory is made
  std::string out;
  std::string only;
  std::size_t rounds = 5;
  double scale = 1;
  std::size_t publishers = 1;
  bool floors = true;
};

struct Scenario {
  const char* name;
  const char* title;
  LoadSpec load;
};

// Events per round: enough for some seconds.
const Scenario kScenarios[] = {
    {"settled_128", "publish to settled, 128 B", {.events = 1'500'000, .data_bytes = 128}},
    {"settled_1k", "publish to settled, 1 KB", {.events = 600'000, .data_bytes = 1024}},
    {"settled_128_keys",
     "publish to settled, 128 B, 10,000 keys in order",
     {.events = 1'000'000, .data_bytes = 128, .keys = 10'000}},
    {"stored_128",
     "publish only, 128 B",
     {.events = 1'500'000, .data_bytes = 128, .consume = false}},
    {"stored_1k", "publish only, 1 KB", {.events = 800'000, .data_bytes = 1024, .consume = false}},
    {"unbatched_128",
     "unbatched: one event per request and per handler's call, 128 B",
     {.events = 150'000, .data_bytes = 128, .batched = false}},
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {}

  absl::Status Start();
  bool RunAll();

 private:
  void RunThroughput(const Scenario& scenario);
  void RunRoundTrips(std::size_t data_bytes);
  void RunPaced(std::size_t data_bytes);
  void Floor(const std::string& what, double value, double floor, bool at_least);
  bool Wanted(const std::string& name) const {
    return options_.only.empty() || name.find(options_.only) != std::string::npos;
  }
  static std::string Port(const std::string& endpoints, const char* field);

  const Options& options_;
  std::string work_dir_;
  std::optional<ChildProcess> broker_;
  std::optional<ChildProcess> relay_;
  std::string relay_target_;
  std::unique_ptr<BrokerLoad> load_;
  nlohmann::json report_;
  bool floors_met_ = true;

 public:
  ~Bench() {
    load_.reset();
    broker_.reset();
    relay_.reset();
    std::error_code ignored;
    if (!work_dir_.empty()) std::filesystem::remove_all(work_dir_, ignored);
  }
};

std::string Bench::Port(const std::string& endpoints, const char* field) {
  const nlohmann::json json = nlohmann::json::parse(endpoints, nullptr, false);
  return json.is_object() && json.contains(field) ? json[field].get<std::string>() : "";
}

absl::Status Bench::Start() {
  std::string pattern = options_.dir + "/tocsin-bench-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    return absl::NotFoundError(fmt::format("cannot make a directory in {}", options_.dir));
  }
  work_dir_ = pattern;
  const std::string log = work_dir_ + "/log";
  const std::string config = work_dir_ + "/tocsin.yaml";
  const std::string data_dir = work_dir_ + "/data";
  std::FILE* file = std::fopen(config.c_str(), "w");
  fmt::print(file, kConfig, "durable");
  std::fclose(file);
  TOCSIN_ASSIGN_OR_RETURN(
      broker_,
      ChildProcess::Start({options_.tocsin, "serve", "-c", config, "--data-dir", data_dir}, log));
  const std::optional<std::string> endpoints = WaitForFile(data_dir + "/endpoints.json", *broker_);
  if (!endpoints) {
    return absl::InternalError(
        fmt::format("the broker did not start:\n{}", ReadWholeFile(log).value_or("")));
  }
  TOCSIN_ASSIGN_OR_RETURN(
      relay_, ChildProcess::Start({options_.self, "--relay", work_dir_ + "/relay.port"}, log));
  const std::optional<std::string> port = WaitForFile(work_dir_ + "/relay.port", *relay_);
  if (!port) return absl::InternalError("the relay did not start");
  relay_target_ = "127.0.0.1:" + port->substr(0, port->size() - 1);
  load_ = std::make_unique<BrokerLoad>(Port(*endpoints, "grpc"), Port(*endpoints, "http"),
                                       [this] { return broker_->CpuSeconds(); });
  report_["machine"] = DescribeMachine(work_dir_);
  report_["rounds"] = options_.rounds;
  return absl::OkStatus();
}

void Bench::Floor(const std::string& what, double value, double floor, bool at_least) {
  const bool met = at_least ? value >= floor : value <= floor;
  floors_met_ = floors_met_ && met;
  fmt::print("  floor: {} {} {:.0f}: {:.0f}, {}\n", what, at_least ? ">=" : "<=", floor, value,
             met ? "met" : "MISSED");
  report_["floors"].push_back({{"what", what}, {"value", value}, {"floor", floor}, {"met", met}});
}

void Bench::RunThroughput(const Scenario& scenario) {
  LoadSpec spec = scenario.load;
  spec.publishers = options_.publishers;
  spec.events = static_cast<std::size_t>(static_cast<double>(spec.events) * options_.scale);
  LoadSpec warm = spec;
  warm.events = spec.events / 10;
  static_cast<void>(load_->Run(warm));
  SystemClock clock;
  std::vector<double> ours, relays, ratios, broker_us, client_us, per_request;
  for (std::size_t round = 0; round < options_.rounds; ++round) {
    const LoadResult result = load_->Run(spec);
    const auto events = static_cast<double>(spec.events);
    const auto request_bytes =
        static_cast<std::size_t>(result.request_bytes + 3 * result.events_per_request);
    const auto requests = static_cast<std::size_t>(events / result.events_per_request);
    RelayClients relay(relay_target_, spec.consume);
    const Instant begin = clock.Monotonic();
    TOCSIN_CHECK(relay.Send(requests, request_bytes, kRelayWindow), "the relay is gone");
    const double relay_seconds = std::chrono::duration<double>(clock.Monotonic() - begin).count();
    ours.push_back(events / result.seconds);
    relays.push_back(events / relay_seconds);
    ratios.push_back(ours.back() / relays.back());
    broker_us.push_back(result.broker_cpu_seconds / events * 1e6);
    client_us.push_back(result.client_cpu_seconds / events * 1e6);
    per_request.push_back(result.events_per_request);
    fmt::print(stderr, "    round {}: {} ({:.1f} s, {:.0f} events per sync), relay {}\n", round + 1,
               Rate(ours.back()), result.seconds, events / result.syncs, Rate(relays.back()));
  }
  fmt::print("{}\n", scenario.title);
  fmt::print("  tocsin  {}   answered when durable; {} publisher(s), {}; {} events\n",
             Rates(SpreadOf(ours)), spec.publishers, spec.consume ? "1 worker" : "no worker",
             spec.events);
  fmt::print("          {} events per request; core us per event: broker {}, clients {}\n",
             Numbers(SpreadOf(per_request), 0), Numbers(SpreadOf(broker_us), 2),
             Numbers(SpreadOf(client_us), 2));
  fmt::print("  relay   {}   bare gRPC, the same requests, no disk\n", Rates(SpreadOf(relays)));
  fmt::print("  ratio   {}\n", Numbers(SpreadOf(ratios), 3));
  std::fflush(stdout);
  report_["throughput"][scenario.name] = {
      {"events", spec.events},
      {"data_bytes", spec.data_bytes},
      {"keys", spec.keys},
      {"publishers", spec.publishers},
      {"durability", "durable"},
      {"tocsin_per_second", ToJson(SpreadOf(ours))},
      {"relay_per_second", ToJson(SpreadOf(relays))},
      {"ratio", ToJson(SpreadOf(ratios))},
      {"events_per_request", ToJson(SpreadOf(per_request))},
      {"broker_core_us_per_event", ToJson(SpreadOf(broker_us))},
      {"client_core_us_per_event", ToJson(SpreadOf(client_us))},
  };
  if (std::strcmp(scenario.name, "settled_128") == 0) {
    Floor("publish to settled, 128 B, per second", SpreadOf(ours).median, kSettledPerSecondFloor,
          true);
  }
}

void Bench::RunRoundTrips(std::size_t data_bytes) {
  constexpr std::size_t kPerRound = 1000;
  static_cast<void>(load_->RoundTrips(200, data_bytes));
  std::vector<Duration> ours, relays;
  for (std::size_t round = 0; round < options_.rounds; ++round) {
    for (const Duration trip : load_->RoundTrips(kPerRound, data_bytes)) ours.push_back(trip);
    RelayClients relay(relay_target_, false);
    static_cast<void>(relay.RoundTrips(50, data_bytes));
    for (const Duration trip : relay.RoundTrips(kPerRound, data_bytes)) relays.push_back(trip);
  }
  const Percentiles our = PercentilesOf(std::move(ours));
  const Percentiles bare = PercentilesOf(std::move(relays));
  fmt::print("durable publish, one in flight, {} B, {} round trips\n", data_bytes, our.count);
  fmt::print("  tocsin  p50 {:.0f} us, p99 {:.0f} us\n", our.p50, our.p99);
  fmt::print("  relay   p50 {:.0f} us, p99 {:.0f} us\n", bare.p50, bare.p99);
  std::fflush(stdout);
  report_["round_trip"][fmt::format("{}", data_bytes)] = {{"tocsin", ToJson(our)},
                                                          {"relay", ToJson(bare)}};
  Floor(fmt::format("durable publish of {} B, p50, us", data_bytes), our.p50, kRoundTripP50FloorUs,
        false);
}

void Bench::RunPaced(std::size_t data_bytes) {
  const auto per_round = static_cast<std::size_t>(kPacedRate * 2 * options_.scale);
  static_cast<void>(load_->Paced(per_round / 4, data_bytes, kPacedRate));
  std::vector<Duration> ours, relays;
  for (std::size_t round = 0; round < options_.rounds; ++round) {
    for (const Duration one : load_->Paced(per_round, data_bytes, kPacedRate)) ours.push_back(one);
    RelayClients relay(relay_target_, true);
    for (const Duration one : relay.Paced(per_round, data_bytes, kPacedRate)) {
      relays.push_back(one);
    }
  }
  const Percentiles our = PercentilesOf(std::move(ours));
  const Percentiles bare = PercentilesOf(std::move(relays));
  fmt::print("publish to handler, {} B, open loop at {}, from the intended time\n", data_bytes,
             Rate(kPacedRate));
  fmt::print("  tocsin  p50 {:.0f} us, p99 {:.0f} us, p99.9 {:.0f} us\n", our.p50, our.p99,
             our.p999);
  fmt::print("  relay   p50 {:.0f} us, p99 {:.0f} us, p99.9 {:.0f} us\n", bare.p50, bare.p99,
             bare.p999);
  std::fflush(stdout);
  report_["publish_to_handler"][fmt::format("{}", data_bytes)] = {
      {"rate", kPacedRate}, {"tocsin", ToJson(our)}, {"relay", ToJson(bare)}};
}

bool Bench::RunAll() {
  fmt::print("machine: {}\n", report_["machine"].dump());
  for (const Scenario& scenario : kScenarios) {
    if (Wanted(scenario.name)) RunThroughput(scenario);
  }
  for (const std::size_t bytes : {std::size_t{128}, std::size_t{1024}}) {
    if (Wanted(fmt::format("round_trip_{}", bytes))) RunRoundTrips(bytes);
  }
  if (Wanted("paced_1024")) RunPaced(1024);
  if (!options_.out.empty()) {
    std::FILE* file = std::fopen(options_.out.c_str(), "w");
    TOCSIN_CHECK(file != nullptr, "cannot write {}", options_.out);
    fmt::print(file, "{}\n", report_.dump(2));
    std::fclose(file);
  }
  if (!floors_met_ && !options_.floors) fmt::print("floors were missed; --no-floors was given\n");
  return floors_met_ || !options_.floors;
}

int Usage() {
  fmt::print(stderr,
             "usage: broker_bench --tocsin FILE [--dir DIR] [--rounds N] [--scale X]\n"
             "                    [--publishers N] [--only SCENARIO] [--no-floors] [-o FILE]\n"
             "  DIR is where the broker's data goes (default: here); -o writes the report as "
             "JSON.\n");
  return 2;
}

int Main(int argc, char** argv) {
  Options options;
  options.self = std::filesystem::read_symlink("/proc/self/exe").string();
  options.dir = std::filesystem::current_path().string();
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--no-floors") {
      options.floors = false;
      continue;
    }
    if (++i == argc) return Usage();
    const char* value = argv[i];
    if (flag == "--relay") return ServeRelay(value);
    if (flag == "--tocsin") {
      options.tocsin = value;
    } else if (flag == "--dir") {
      options.dir = value;
    } else if (flag == "--only") {
      options.only = value;
    } else if (flag == "-o") {
      options.out = value;
    } else if (flag == "--rounds") {
      options.rounds = std::strtoul(value, nullptr, 10);
    } else if (flag == "--publishers") {
      options.publishers = std::strtoul(value, nullptr, 10);
    } else if (flag == "--scale") {
      options.scale = std::strtod(value, nullptr);
    } else {
      return Usage();
    }
  }
  if (options.tocsin.empty() || options.rounds == 0 || options.scale <= 0 ||
      options.publishers == 0) {
    return Usage();
  }
  Bench bench(options);
  const absl::Status started = bench.Start();
  if (!started.ok()) {
    fmt::print(stderr, "broker_bench: {}\n", MessageOf(started));
    return 1;
  }
  return bench.RunAll() ? 0 : 1;
}

}  // namespace
}  // namespace tocsin::bench

int main(int argc, char** argv) { return tocsin::bench::Main(argc, argv); }

// One load on a broker that runs, and one line of JSON about it: our side of the comparison with
// other brokers, whose sides are in tests/bench/peers. The cases and their results are the same.
//
//   broker_load CASE --grpc HOST:PORT --http HOST:PORT [--events N] [--bytes N] ...

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "broker/base/check.h"
#include "broker/base/system_clock.h"
#include "tests/bench/bench_load.h"
#include "tests/bench/bench_process.h"
#include "tests/bench/bench_relay.h"
#include "tests/bench/bench_report.h"

namespace tocsin::bench {
namespace {

struct Options {
  std::string grpc;
  std::string http;
  std::size_t events = 100'000;
  std::size_t bytes = 1024;
  std::size_t keys = 0;
  std::size_t publishers = 1;
  std::size_t groups = 100;
  std::size_t workers = 1;
  double rate = 10'000;
  bool unbatched = false;
  bool shared = false;
};

int Tell(const nlohmann::json& json) {
  fmt::print("{}\n", json.dump());
  std::fflush(stdout);
  return 0;
}

int TellPercentiles(std::vector<Duration> all, std::size_t warm) {
  all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(warm));
  const Percentiles p = PercentilesOf(std::move(all));
  return Tell({{"count", p.count},
               {"p50_us", p.p50},
               {"p90_us", p.p90},
               {"p99_us", p.p99},
               {"p999_us", p.p999},
               {"max_us", p.max}});
}

int TellThroughput(const LoadResult& result, std::size_t deliveries) {
  const auto count = static_cast<double>(deliveries);
  return Tell({{"seconds", result.seconds},
               {"publish_seconds", result.publish_seconds},
               {"per_second", count / result.seconds},
               {"events_per_request", result.events_per_request},
               {"client_core_us", result.client_cpu_seconds / count * 1e6}});
}

bool Listens(const std::string& target) {
  const std::size_t colon = target.rfind(':');
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(target.substr(0, colon).c_str(), target.substr(colon + 1).c_str(), &hints,
                  &found) != 0) {
    return false;
  }
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool connected = connect(fd, found->ai_addr, found->ai_addrlen) == 0;
  freeaddrinfo(found);
  close(fd);
  return connected;
}

// When a publish was first answered as stored, by the wall clock.
int First(const Options& options) {
  const SystemClock clock;
  fmt::print("ready\n");
  std::fflush(stdout);
  for (int tries = 0; tries < 300'000; ++tries, Rest(1)) {
    if (!Listens(options.grpc)) continue;
    sdk::PublisherOptions to;
    to.connection.target = options.grpc;
    sdk::Publisher publisher(to);
    sdk::Event event("bench.unmatched", "/bench");
    event.SetBytes(std::string(options.bytes, 'd'));
    if (!publisher.Publish(event).get().status.ok()) continue;
    const auto now = std::chrono::nanoseconds(clock.Wall().time_since_epoch());
    return Tell({{"answered_ns", now.count()}});
  }
  return 1;
}

int Run(const std::string& what, const Options& options) {
  if (what == "first") return First(options);
  if (what == "relay-roundtrip") {
    RelayClients relay(options.grpc, false);
    return TellPercentiles(relay.RoundTrips(options.events + options.events / 5, options.bytes),
                           options.events / 5);
  }
  if (what == "idle") {
    const IdleWorkers idle(options.grpc, options.workers, options.shared);
    Tell({{"attached", options.workers}});
    char byte = 0;
    return read(STDIN_FILENO, &byte, 1) < 0 ? 1 : 0;  // until the caller closes it
  }
  BrokerLoad load(options.grpc, options.http, [] { return 0.0; });
  LoadSpec spec;
  spec.events = options.events;
  spec.data_bytes = options.bytes;
  spec.keys = options.keys;
  spec.publishers = options.publishers;
  spec.workers = options.workers;
  spec.batched = !options.unbatched;
  const std::size_t warm = options.events / 5;
  if (what == "settled" || what == "stored") {
    spec.consume = what == "settled";
    LoadSpec first = spec;
    first.events = options.events / 10;
    static_cast<void>(load.Run(first));
    return TellThroughput(load.Run(spec), options.events);
  }
  if (what == "fill") {
    spec.consume = false;
    return TellThroughput(load.Run(spec), options.events);
  }
  if (what == "drain") {
    spec.stored_first = true;
    return TellThroughput(load.Run(spec), options.events);
  }
  if (what == "fanout") {
    static_cast<void>(
        load.FanOut(options.events / 10 + 1, options.bytes, options.groups, options.workers));
    return TellThroughput(
        load.FanOut(options.events, options.bytes, options.groups, options.workers),
        options.events * options.groups);
  }
  if (what == "roundtrip") {
    return TellPercentiles(load.RoundTrips(options.events + warm, options.bytes), warm);
  }
  if (what == "paced") {
    return TellPercentiles(load.Paced(options.events + warm, options.bytes, options.rate), warm);
  }
  if (what == "invoke") {
    return TellPercentiles(load.Invocations(options.events + warm, options.bytes), warm);
  }
  fmt::print(stderr, "broker_load: no case '{}'\n", what);
  return 2;
}

int Main(int argc, char** argv) {
  Options options;
  const std::map<std::string, std::size_t*> counts = {
      {"--events", &options.events}, {"--bytes", &options.bytes},
      {"--keys", &options.keys},     {"--publishers", &options.publishers},
      {"--groups", &options.groups}, {"--workers", &options.workers},
  };
  if (argc == 3 && std::string(argv[1]) == "serve-relay") return ServeRelay(argv[2]);
  for (int i = 2; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--unbatched") {
      options.unbatched = true;
    } else if (flag == "--shared") {
      options.shared = true;
    } else if (i + 1 == argc) {
      fmt::print(stderr, "broker_load: '{}'?\n", flag);
      return 2;
    } else if (flag == "--grpc") {
      options.grpc = argv[++i];
    } else if (flag == "--http") {
      options.http = argv[++i];
    } else if (flag == "--rate") {
      options.rate = std::strtod(argv[++i], nullptr);
    } else if (const auto found = counts.find(flag); found != counts.end()) {
      *found->second = std::strtoul(argv[++i], nullptr, 10);
    } else {
      fmt::print(stderr, "broker_load: '{}'?\n", flag);
      return 2;
    }
  }
  if (argc < 2 || options.grpc.empty()) {
    fmt::print(stderr, "usage: broker_load CASE --grpc HOST:PORT --http HOST:PORT [flags]\n");
    return 2;
  }
  return Run(argv[1], options);
}

}  // namespace
}  // namespace tocsin::bench

int main(int argc, char** argv) { return tocsin::bench::Main(argc, argv); }

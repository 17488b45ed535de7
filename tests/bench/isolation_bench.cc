// Isolation, measured: what one failing key, one hot key, one stuck trigger on the same events (its
// function's only worker never answers) or one worker that never answers, among those of a trigger,
// costs the other keys, with the default configuration of the broker.
//
//   isolation_bench [--rounds 3] [--rate 20000] [--seconds 0] [-o FILE]
//                   [--only failing|hot|stuck|mute]
//
// Each round runs the same load quiet and disturbed in turn, each in a fresh broker: once at a
// fixed rate below capacity (completions and latency of the others, from the time each event was
// due), once as fast as it goes with a bounded number of events of each key under way. `--seconds
// 0`: longer than the queue's window would take to fill with what cannot go on, at least 10 s, and
// longer than a lease where one matters. The exit status is 1 if the median of a ratio of the
// others' throughput is below 0.9 (0.75 beside a stuck trigger, as fast as it goes: there is one
// trigger more), or if something settled out of order. FILE gets the rows of it for bench.json:
// ours is disturbed, the peer's undisturbed.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/check.h"
#include "tests/integration/isolation_load.h"

namespace tocsin {
namespace {

constexpr double kShareMin = 0.9;
constexpr double kShareMinTwice = 0.75;
constexpr double kEntriesMax = 8192;  // of the default configuration

struct Options {
  int rounds = 3;
  double rate = 20'000;
  double seconds = 0;
  std::string only;
  std::string out;
};

struct Scenario {
  const char* name;
  Disturbance disturbance;
  double odd_share;
};

constexpr Scenario kScenarios[] = {
    {"failing", Disturbance::kFailingKey, 0.01},
    {"hot", Disturbance::kHotKey, 0.9},
    {"stuck", Disturbance::kStuckTrigger, 0},
    {"mute", Disturbance::kMuteWorker, 0},
};

struct Measured {
  double per_key_second = 0;
  double all_second = 0;  // of the others
  Latency latency;
  std::uint64_t odd_published = 0;
  bool clean = true;
};

Measured RunOnce(const LoadShape& shape, bool disturbed, Duration length) {
  IsolationLoad load(shape, disturbed, !disturbed);
  const SystemClock clock;
  load.StartLoad();
  const Instant begun = clock.Monotonic();
  Measured measured;
  while (clock.Monotonic() - begun < length) {
    measured.clean = measured.clean && !load.broker().EndsWithin(std::chrono::milliseconds(20));
    if (!measured.clean) break;
  }
  const SideCount count = load.Count(disturbed);
  const double seconds = std::chrono::duration<double>(clock.Monotonic() - begun).count();
  load.StopLoad();
  measured.per_key_second = count.per_key() / seconds;
  measured.all_second = static_cast<double>(count.others) / seconds;
  measured.latency = load.OthersLatency(disturbed);
  measured.odd_published = count.odd_published;
  measured.clean = measured.clean && load.overtakings() == 0 && load.refused() == 0;
  return measured;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The median of disturbed / quiet of the others' throughput.
bool RunScenario(const Scenario& scenario, bool open, const Options& options,
                 nlohmann::json& rows) {
  LoadShape shape;
  shape.disturbance = scenario.disturbance;
  if (open) shape.rate = options.rate;
  const bool stuck = scenario.disturbance == Disturbance::kStuckTrigger;
  if (stuck) {
    shape.mute_credit = 1000;
    shape.timeout = "120s";  // stuck for as long as it is looked at
  }
  if (scenario.disturbance == Disturbance::kMuteWorker) {
    // A quarter of the keys: what comes of them while the leases last is more than the windows
    // hold.
    shape.keys = 4000;
    shape.mute_credit = 1000;
  }
  double seconds = options.seconds;
  if (seconds == 0) {
    // Of a stuck trigger all events are.
    const double share = stuck ? 1 : scenario.odd_share;
    seconds = share > 0 ? 1.25 * kEntriesMax / (options.rate * share) : 40;
    // Closed, it is several times faster than any rate below capacity.
    if (!open && share > 0) seconds /= 3;
    seconds = std::max(seconds, 10.0);
  }
  const auto length = std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3));
  std::vector<double> ratios;
  std::vector<double> p50s;
  std::vector<double> p99s;
  std::vector<double> rates[2];
  std::vector<double> tails[2];
  bool clean = true;
  for (int round = 0; round < options.rounds; ++round) {
    Measured of[2];
    // The order changes, so that neither always comes first.
    for (const bool disturbed : {round % 2 == 1, round % 2 == 0}) {
      Measured& measured = of[disturbed ? 1 : 0];
      measured = RunOnce(shape, disturbed, length);
      clean = clean && measured.clean;
      fmt::print(
          "{:8} {:6} round {} {:9}  others {:8.0f}/s  {:7.3f}/s per key  p50 {:7.2f} ms  p99 "
          "{:7.2f} ms  max {:7.1f} ms  odd ones {}{}\n",
          scenario.name, open ? "open" : "closed", round + 1, disturbed ? "disturbed" : "quiet",
          measured.all_second, measured.per_key_second, measured.latency.p50_ms,
          measured.latency.p99_ms, measured.latency.max_ms, measured.odd_published,
          measured.clean ? "" : "  NOT CLEAN");
      std::fflush(stdout);
    }
    ratios.push_back(of[1].per_key_second / of[0].per_key_second);
    for (const int side : {0, 1}) {
      rates[side].push_back(of[side].per_key_second);
      tails[side].push_back(of[side].latency.p99_ms);
    }
    p50s.push_back(of[1].latency.p50_ms / of[0].latency.p50_ms);
    p99s.push_back(of[1].latency.p99_ms / of[0].latency.p99_ms);
  }
  const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
  fmt::print(
      "{:8} {:6} {} x {:.0f} s: throughput of the others {:.3f} (from {:.3f} to {:.3f}), p50 "
      "{:.2f}, p99 {:.2f} of the undisturbed\n",
      scenario.name, open ? "open" : "closed", options.rounds, seconds, Median(ratios), *low, *high,
      Median(p50s), Median(p99s));
  const std::string title =
      fmt::format("the others beside a {} one, {} loop: ", scenario.name, open ? "open" : "closed");
  const auto add = [&](const char* what, const char* unit, const auto& values, double ratio) {
    rows.push_back({{"row", "T18"},
                    {"case", title + what},
                    {"ours", Median(values[1])},
                    {"peer", Median(values[0])},
                    {"peer_name", "tocsin undisturbed"},
                    {"ratio", ratio},
                    {"unit", unit},
                    {"rounds", options.rounds},
                    {"seconds", seconds}});
  };
  add("settled per key", "events/s", rates, Median(ratios));
  if (open) add("p99 from due to handled", "ms", tails, 1 / Median(p99s));
  // As fast as it goes, every event is matched twice there and once in the quiet load.
  return clean && Median(ratios) >= (stuck && !open ? kShareMinTwice : kShareMin);
}

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--rounds") options.rounds = std::atoi(argv[i + 1]);
    if (name == "--rate") options.rate = std::atof(argv[i + 1]);
    if (name == "--seconds") options.seconds = std::atof(argv[i + 1]);
    if (name == "--only") options.only = argv[i + 1];
    if (name == "-o") options.out = argv[i + 1];
  }
  bool good = true;
  nlohmann::json rows = nlohmann::json::array();
  for (const Scenario& scenario : kScenarios) {
    if (!options.only.empty() && options.only != scenario.name) continue;
    for (const bool open : {true, false}) {
      good = RunScenario(scenario, open, options, rows) && good;
    }
  }
  if (!options.out.empty()) {
    std::FILE* file = std::fopen(options.out.c_str(), "w");
    TOCSIN_CHECK(file != nullptr, "cannot write {}", options.out);
    fmt::print(file, "{}\n", rows.dump(1));
    std::fclose(file);
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace tocsin

int main(int argc, char** argv) { return tocsin::Main(argc, argv); }

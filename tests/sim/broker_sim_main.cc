// Runs BrokerSim over many seeds: broker_sim [--seeds N] [--first-seed S] [--steps N]
// [--disk] [--canary answer_early] [--trace]. Without --seeds, TOCSIN_SEED runs that one.

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/sim/broker_sim.h"

int main(int argc, char** argv) {
  std::uint64_t seeds = 200;
  std::uint64_t first = 1;
  tocsin::BrokerSimOptions options;
  if (const char* seed = std::getenv("TOCSIN_SEED")) {
    first = std::strtoull(seed, nullptr, 10);
    seeds = 1;
  }
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "0";
    if (flag == "--seeds") seeds = std::strtoull(value, nullptr, 10);
    if (flag == "--first-seed") first = std::strtoull(value, nullptr, 10);
    if (flag == "--steps")
      options.steps = static_cast<std::uint32_t>(std::strtoul(value, nullptr, 10));
    if (flag == "--canary") options.canary = tocsin::SimCanary::kAnswerEarly;
    if (flag == "--disk") options.disk = true;
    if (flag == "--trace") options.trace = true;
  }
  tocsin::BrokerSimResult total;
  std::uint64_t failures = 0;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    options.seed = seed;
    const tocsin::BrokerSimResult result = tocsin::RunBrokerSim(options);
    total.published += result.published;
    total.delivered += result.delivered;
    total.crashes += result.crashes;
    total.letters += result.letters;
    total.redriven += result.redriven;
    total.emitted += result.emitted;
    if (result.failure.empty()) continue;
    ++failures;
    if (failures <= 10) {
      fmt::print("seed {}: {}\n  again: {} --seeds 1 --first-seed {} --steps {}{} --trace\n", seed,
                 result.failure, argv[0], seed, options.steps, options.disk ? " --disk" : "");
    }
    if (options.canary != tocsin::SimCanary::kNone) break;
  }
  fmt::print(
      "{} seeds, {} failures: {} published, {} delivered, {} crashes, {} letters seen, "
      "{} redriven, {} emitted\n",
      seeds, failures, total.published, total.delivered, total.crashes, total.letters,
      total.redriven, total.emitted);
  if (options.canary != tocsin::SimCanary::kNone) return failures > 0 ? 0 : 1;
  return failures > 0 ? 1 : 0;
}

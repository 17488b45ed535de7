#include "tests/bench/bench_report.h"

#include <fmt/format.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "tests/bench/bench_process.h"

namespace tocsin::bench {
namespace {

constexpr long kTmpfsMagic = 0x01021994;
constexpr long kExt4Magic = 0xEF53;

std::string CpuModel() {
  const std::string info = ReadWholeFile("/proc/cpuinfo").value_or("");
  const std::size_t at = info.find("model name");
  if (at == std::string::npos) return "unknown";
  const std::size_t begin = info.find(": ", at) + 2;
  return info.substr(begin, info.find('\n', begin) - begin);
}

}  // namespace

Spread SpreadOf(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  return {median, values.front(), values.back()};
}

nlohmann::json ToJson(const Spread& spread) {
  return {{"median", spread.median}, {"low", spread.low}, {"high", spread.high}};
}

Percentiles PercentilesOf(std::vector<Duration> values) {
  Percentiles result;
  result.count = values.size();
  if (values.empty()) return result;
  std::sort(values.begin(), values.end());
  const auto at = [&values](double share) {
    const auto index = static_cast<std::size_t>(share * static_cast<double>(values.size() - 1));
    return static_cast<double>(values[index].count()) / 1e3;
  };
  result.p50 = at(0.5);
  result.p90 = at(0.9);
  result.p99 = at(0.99);
  result.p999 = at(0.999);
  result.max = at(1);
  return result;
}

nlohmann::json ToJson(const Percentiles& p) {
  return {{"count", p.count}, {"p50_us", p.p50},    {"p90_us", p.p90},
          {"p99_us", p.p99},  {"p99.9_us", p.p999}, {"max_us", p.max}};
}

std::string Rate(double per_second) {
  if (per_second >= 1e6) return fmt::format("{:.2f} M/s", per_second / 1e6);
  return fmt::format("{:.1f} k/s", per_second / 1e3);
}

std::string Rates(const Spread& spread) {
  return fmt::format("{} [{} .. {}]", Rate(spread.median), Rate(spread.low), Rate(spread.high));
}

std::string Numbers(const Spread& spread, int digits) {
  return fmt::format("{:.{}f} [{:.{}f} .. {:.{}f}]", spread.median, digits, spread.low, digits,
                     spread.high, digits);
}

nlohmann::json DescribeMachine(const std::string& data_dir) {
  utsname name{};
  uname(&name);
  struct statfs disk {};
  statfs(data_dir.c_str(), &disk);
  double load = 0;
  getloadavg(&load, 1);
  const std::string file_system = disk.f_type == kTmpfsMagic  ? "tmpfs"
                                  : disk.f_type == kExt4Magic ? "ext4"
                                                              : fmt::format("{:#x}", disk.f_type);
  return {{"cpu", CpuModel()},
          {"cores", sysconf(_SC_NPROCESSORS_ONLN)},
          {"kernel", name.release},
          {"file_system", file_system},
          {"load_before", load}};
}

}  // namespace tocsin::bench

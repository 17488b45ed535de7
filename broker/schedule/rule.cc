#include "broker/schedule/rule.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdint>

#include "broker/base/wire.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kVersion = 1;

std::uint64_t Micros(Duration duration) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(duration).count());
}

}  // namespace

std::string EncodeRule(const ScheduleSpec& spec) {
  std::string out;
  PutVarint(out, kVersion);
  PutBytes(out, spec.cron);
  PutBytes(out, spec.timezone);
  PutVarint(out, static_cast<std::uint64_t>(spec.missed));
  PutVarint(out, Micros(spec.missed_window));
  PutVarint(out, spec.missed_max);
  PutVarint(out, static_cast<std::uint64_t>(spec.dst_gap));
  PutVarint(out, static_cast<std::uint64_t>(spec.dst_overlap));
  PutVarint(out, static_cast<std::uint64_t>(spec.overlap));
  PutVarint(out, Micros(spec.spread));
  PutVarint(out, Micros(spec.jitter));
  return out;
}

absl::StatusOr<ScheduleSpec> DecodeRule(std::string_view bytes) {
  WireReader reader(bytes);
  std::uint64_t version = 0;
  if (!reader.ReadVarint(version)) return absl::DataLossError("a schedule's rule is empty");
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        fmt::format("a schedule's rule has version {}, this program reads {}", version, kVersion));
  }
  std::string_view cron;
  std::string_view zone;
  std::uint64_t values[8] = {};
  bool whole = reader.ReadBytes(cron) && reader.ReadBytes(zone);
  for (std::uint64_t& value : values) whole = whole && reader.ReadVarint(value);
  const bool known = whole && reader.AtEnd() &&
                     values[0] <= static_cast<std::uint64_t>(MissedPolicy::kSkip) &&
                     values[3] <= static_cast<std::uint64_t>(DstGap::kSkip) &&
                     values[4] <= static_cast<std::uint64_t>(DstOverlap::kBoth) &&
                     values[5] <= static_cast<std::uint64_t>(OverlapPolicy::kAllow);
  if (!known) return absl::DataLossError("a schedule's rule is malformed");
  const auto duration = [](std::uint64_t micros) {
    return std::chrono::microseconds(static_cast<std::int64_t>(micros));
  };
  ScheduleSpec spec;
  spec.cron = std::string(cron);
  spec.timezone = std::string(zone);
  spec.missed = static_cast<MissedPolicy>(values[0]);
  spec.missed_window = duration(values[1]);
  spec.missed_max = static_cast<std::uint32_t>(values[2]);
  spec.dst_gap = static_cast<DstGap>(values[3]);
  spec.dst_overlap = static_cast<DstOverlap>(values[4]);
  spec.overlap = static_cast<OverlapPolicy>(values[5]);
  spec.spread = duration(values[6]);
  spec.jitter = duration(values[7]);
  return spec;
}

bool RuleIsShared(const ScheduleSpec& spec) {
  // `H` may also be part of a day's name: such a rule is only not shared.
  const bool hashes =
      !spec.cron.starts_with('@') && spec.cron.find_first_of("Hh") != std::string::npos;
  return !hashes && spec.spread == Duration::zero() && spec.jitter == Duration::zero();
}

}  // namespace tocsin

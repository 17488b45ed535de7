// Any text as a cron expression: refused, or Next, Last and Count agree over a year. Any bytes as a
// stored schedule state: refused, or written back as they were.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "broker/base/check.h"
#include "broker/schedule/cron.h"
#include "broker/schedule/schedule.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto state = tocsin::DecodeScheduleState(text); state.ok()) {
    const auto again = tocsin::DecodeScheduleState(tocsin::EncodeScheduleState(*state));
    TOCSIN_CHECK(again.ok() && *again == *state);
  }
  const auto cron = tocsin::CronExpression::Parse(text, "fuzz");
  if (!cron.ok()) return 0;
  constexpr std::int64_t kBegin = 1'704'067'200;  // 2024, a leap year
  constexpr std::int64_t kEnd = kBegin + std::int64_t{366} * 86'400;
  std::int64_t from = kBegin;
  std::uint64_t seen = 0;
  for (; seen < 100; ++seen) {
    const auto next = cron->Next(from, kEnd);
    if (!next.has_value()) break;
    TOCSIN_CHECK(*next >= from && *next < kEnd);
    const auto last = cron->Last(kBegin, *next);
    TOCSIN_CHECK(last.has_value() && *last == *next);
    from = *next + 1;
  }
  TOCSIN_CHECK(cron->Count(kBegin, from) == seen);
  return 0;
}

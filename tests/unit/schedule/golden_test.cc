// Instants of twelve schedules in thirteen zones over three years against a table computed by
// tests/golden/schedule_golden.py (argument 1).

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "broker/base/time_text.h"
#include "broker/schedule/schedule.h"

namespace tocsin {
namespace {

std::string golden_path;  // NOLINT: set by main()

struct Row {
  std::string zone, year, gap, overlap, expression, count, hash, around;
};

std::vector<Row> Rows() {
  std::ifstream file(golden_path);
  std::vector<Row> rows;
  for (std::string line; std::getline(file, line);) {
    std::istringstream in(line);
    Row row;
    for (std::string* field : {&row.zone, &row.year, &row.gap, &row.overlap, &row.expression,
                               &row.count, &row.hash, &row.around}) {
      std::getline(in, *field, '|');
    }
    rows.push_back(row);
  }
  return rows;
}

std::uint64_t Fnv1a(const std::vector<WallTime>& instants) {
  std::uint64_t value = 0xcbf29ce484222325;
  for (const WallTime instant : instants) {
    for (const char c : fmt::format("{}\n", instant.time_since_epoch().count() / 1'000'000)) {
      value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  }
  return value;
}

// FAULTS F45: both hemispheres, gaps and overlaps of an hour and of half an hour.
TEST(ScheduleGoldenTest, F45ThirteenZonesOverThreeYearsAgreeWithTheTable) {
  const std::vector<Row> rows = Rows();
  ASSERT_EQ(rows.size(), 780U);
  for (const Row& row : rows) {
    SCOPED_TRACE(row.zone + " " + row.year + " " + row.gap + " " + row.overlap + " " +
                 row.expression + " around changes: " + row.around);
    ScheduleSpec spec;
    spec.cron = row.expression;
    spec.timezone = row.zone;
    spec.dst_gap = row.gap == "skip" ? DstGap::kSkip : DstGap::kNext;
    spec.dst_overlap = row.overlap == "both" ? DstOverlap::kBoth : DstOverlap::kFirst;
    const auto schedule = Schedule::Parse(spec);
    ASSERT_TRUE(schedule.ok()) << schedule.status();

    const WallTime anchor;
    const std::chrono::microseconds tick(1);
    const WallTime begin = *ParseRfc3339(row.year + "-01-01T00:00:00Z") - tick;
    const WallTime end =
        *ParseRfc3339(std::to_string(std::stoi(row.year) + 1) + "-01-01T00:00:00Z") - tick;
    std::vector<WallTime> forward;
    for (auto at = (*schedule)->NextAfter(begin, anchor); at.has_value() && *at <= end;
         at = (*schedule)->NextAfter(*at, anchor)) {
      forward.push_back(*at);
    }
    EXPECT_EQ(std::to_string(forward.size()), row.count);
    EXPECT_EQ(fmt::format("{:016x}", Fnv1a(forward)), row.hash);

    // Backwards and by counting, the same instants.
    EXPECT_EQ((*schedule)->CountBetween(begin, end, anchor), forward.size());
    std::size_t left = forward.size();
    for (auto at = (*schedule)->LastThrough(end, anchor); at.has_value() && *at > begin;
         at = (*schedule)->LastThrough(*at - tick, anchor)) {
      ASSERT_GT(left, 0U);
      ASSERT_EQ(FormatRfc3339(*at), FormatRfc3339(forward[--left]));
      ASSERT_EQ((*schedule)->CountBetween(*at, end, anchor), forward.size() - left - 1);
    }
    EXPECT_EQ(left, 0U);
  }
}

}  // namespace
}  // namespace tocsin

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 2) return 2;
  tocsin::golden_path = argv[1];
  return RUN_ALL_TESTS();
}

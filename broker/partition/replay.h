// A replay: stored events given to a trigger again, as new runs.

#pragma once

#include <cstdint>
#include <string>

#include "broker/base/ids.h"

namespace tocsin {

// The runs of a trigger's replay n are n * kRunsPerReplay and, redriven, those after it.
inline constexpr std::uint32_t kRunsPerReplay = 1000;

struct ReplayOrder {
  Offset from;
  Offset end = Offset(UINT64_MAX);  // the end as of the start, if that is less
  std::int64_t from_us = 0;         // appended at or after
  std::int64_t until_us = 0;        // appended before; 0: any
  std::string where;                // filters in JSON; empty: all
  std::uint64_t rate_millis = 0;    // of all partitions: runs in a thousand seconds; 0: any
  bool dry_run = false;             // counts alone
};

struct ReplayProgress {
  std::uint32_t number = 0;  // 0: none was in this life
  bool active = false;
  bool stopped = false;  // by order, before its end
  Offset from;
  Offset next;
  Offset end;
  std::uint64_t copied = 0;
};

}  // namespace tocsin

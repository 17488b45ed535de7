// ForgetLanes: how far a source has come is forgotten, in the journal: its lanes have no position
// and no entries any more, so it begins anew.
//
// Threading: blocks until all is durable, so not on a shard's executor. The lanes are detached.

#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "broker/partition/shards.h"

namespace tocsin {

struct ForgottenLanes {
  std::uint32_t lanes = 0;
  std::uint64_t entries = 0;
};

// With `dry_run` only counts.
//   kNotFound           nothing is known of a source of that name
//   kResourceExhausted  the broker is full: part of it may be forgotten; again later
//   kUnavailable        the broker is stopping
absl::StatusOr<ForgottenLanes> ForgetLanes(const std::string& source, bool dry_run, Shards& shards);

}  // namespace tocsin

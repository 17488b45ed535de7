// Canary: defects on purpose, one kind at a time, which the simulators must find. They prove that
// a clean campaign means something.
//
// Compiled in on request only: with TOCSIN_CANARIES (tests/sim builds the partition and the
// dispatcher a second time with it). Without, Planted() is false at compile time.
//
// Threading: set `planted` before other threads begin.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tocsin {

enum class Canary : std::uint8_t {
  kNone,
  kConfirmedEarly,    // a worker hears that a settlement is durable before it is
  kDispatchedEarly,   // an event is offered to workers before it is durable
  kAttemptForgotten,  // failed attempts are journaled as the first
  kRepeatForgotten,   // a restart does not load what the dedupe window knew
  kSettledForgotten,  // a checkpoint lacks what is settled
  kCheckpointAhead,   // a checkpoint holds what the log does not hold yet
  kTrimmedEarly,      // the log is trimmed before it is durable that nobody needs it
  kMatchLost,         // a delivery is never offered
  kWrongPayload,      // an offset gives another one's event
  kBooksWrong,        // what is acked is counted twice
  kKeyNotHeld,        // a key goes on while its delivery waits to be repeated
  kParkIgnored,       // a parked key goes on
  kLetterLost,        // a delivery dies without a letter
  kLaneSkips,         // a source's event is passed over
  kFireForgotten,     // that an instant has fired is not journaled
  kForwardUnsent,     // an emitted event is called delivered to its partition and is not
  kForwardRepeated,   // an emitted event that came already is taken again
  kReplayRepeats,     // a replay forgets how far it has come
  kStoredForgotten,   // a checkpoint lacks the triggers of the API
  kRouteStale,        // a trigger that was replaced matches by its former route, too
  kMatchForgotten,    // an event is not recorded as matched by a trigger that it matches
  kSkipUnrecorded,    // an instant that does not fire leaves no record
  kPriorNotHeld,      // after a restart a key goes on while its delivery waits to be repeated
  kCreditLost,        // a worker's credit that was granted and not used is not given back
  kRatePassed,        // a trigger's rate is not used up
};

// By their value.
inline constexpr std::array<std::string_view, 26> kCanaryNames = {"none",
                                                                  "confirmed_early",
                                                                  "dispatched_early",
                                                                  "attempt_forgotten",
                                                                  "repeat_forgotten",
                                                                  "settled_forgotten",
                                                                  "checkpoint_ahead",
                                                                  "trimmed_early",
                                                                  "match_lost",
                                                                  "wrong_payload",
                                                                  "books_wrong",
                                                                  "key_not_held",
                                                                  "park_ignored",
                                                                  "letter_lost",
                                                                  "lane_skips",
                                                                  "fire_forgotten",
                                                                  "forward_unsent",
                                                                  "forward_repeated",
                                                                  "replay_repeats",
                                                                  "stored_forgotten",
                                                                  "route_stale",
                                                                  "match_forgotten",
                                                                  "skip_unrecorded",
                                                                  "prior_not_held",
                                                                  "credit_lost",
                                                                  "rate_passed"};

#ifdef TOCSIN_CANARIES
inline Canary planted = Canary::kNone;
inline bool Planted(Canary canary) { return planted == canary; }
#else
constexpr bool Planted(Canary) { return false; }
#endif

}  // namespace tocsin

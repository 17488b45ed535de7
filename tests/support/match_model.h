// What filters and patterns mean, said as plainly as possible and with no care for speed: the
// oracle for the compiled matcher, and random triggers and events on which the two are compared.
//
// A pattern is taken apart into all its ways to choose one clause per field; an event into a list
// of values, each with its path and the array elements it stands in; then every choice of values is
// tried. Names that occur twice in one object are not modelled.

#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "broker/base/random.h"
#include "broker/routing/route_table.h"

namespace tocsin {

// Attributes by name (strings, integers, Booleans) and perhaps `data`, which is JSON.
using ModelEvent = nlohmann::json;

Event EventOfModel(const ModelEvent& event);

bool ModelFilterMatches(const nlohmann::json& filter, const ModelEvent& event);
bool ModelPatternMatches(const nlohmann::json& pattern, const ModelEvent& event);

// Of few names and short values, so that conditions often hold.
nlohmann::json RandomFilter(Random& random, int depth);
nlohmann::json RandomPattern(Random& random);
ModelEvent RandomEvent(Random& random);

struct ModelCounts {
  std::size_t matches = 0;
  std::size_t pairs = 0;
};

// One table of random triggers against `events` random events: Match(), Explain() and the model
// agree, or it aborts with the trigger and the event.
void CompareWithModel(Random& random, std::size_t events, ModelCounts& counts);

}  // namespace tocsin

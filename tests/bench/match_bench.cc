// How matching scales with the number of triggers, and what reading an event costs.

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "broker/base/status.h"
#include "broker/routing/route_table.h"

namespace tocsin {
namespace {

Event SampleEvent() {
  std::string bytes = std::move(EventBuilder("0001", "/sources/orders", "order.created")
                                    .Attribute("subject", "order-4711/item.csv")
                                    .Attribute("partitionkey", "order-4711")
                                    .Attribute("time", "2026-03-29T01:00:00Z")
                                    .Attribute("datacontenttype", "application/json")
                                    .TextData(R"({"total": 42})"))
                          .Encode();
  return Event::FromTrustedBytes(std::move(bytes));
}

void RunMatch(benchmark::State& state, const char* format) {
  std::vector<RouteSpec> routes;
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    routes.push_back({fmt::format("t{}", i),
                      {},
                      FilterFromJson(fmt::format(fmt::runtime(format), i)).value(),
                      nullptr});
  }
  const auto table = RouteTable::Build(std::move(routes));
  const Event event = SampleEvent();
  const EventView view = event.View();
  MatchScratch scratch;
  std::vector<std::uint32_t> matches;
  for (auto iteration : state) {
    table->Match(view, "orders", scratch, matches);
    benchmark::DoNotOptimize(matches.data());
  }
  state.counters["matches"] = static_cast<double>(matches.size());
}

void MatchExact(benchmark::State& state) {
  RunMatch(state, R"({{"exact":{{"type":"order.created","partitionkey":"order-{}"}}}})");
}
void MatchPrefix(benchmark::State& state) {
  RunMatch(state, R"({{"prefix":{{"subject":"order-{}/"}}}})");
}
void MatchUnindexed(benchmark::State& state) {
  RunMatch(state, R"({{"not":{{"exact":{{"partitionkey":"order-{}"}}}}}})");
}
BENCHMARK(MatchExact)->Arg(1)->Arg(100)->Arg(10'000)->Arg(100'000);
BENCHMARK(MatchPrefix)->Arg(1)->Arg(100)->Arg(10'000)->Arg(100'000);
BENCHMARK(MatchUnindexed)->Arg(1)->Arg(100)->Arg(10'000);

// A record of the shape of San Francisco's lots, about 700 bytes: `lot` picks the values.
std::string LotRecord(std::int64_t lot) {
  std::string points;
  for (int i = 0; i < 5; ++i) {
    points += fmt::format(R"({}{{"x":-122.42{:012},"y":37.71{:012},"z":0.0}})", i == 0 ? "" : ",",
                          (lot * 7919 + i) % 1'000'000'000'000, (lot * 104729 + i) % 1'000'000'000);
  }
  return fmt::format(
      R"({{"type":"Feature","properties":{{"MAPBLKLOT":"{0:07}","BLKLOT":"{0:07}",)"
      R"("BLOCK_NUM":"{1:04}","LOT_NUM":"{2:03}","FROM_ST":"{3}","TO_ST":"{3}",)"
      R"("STREET":"STREET {4}","ST_TYPE":"ST","ODD_EVEN":"{5}"}},"geometry":{{"type":"Polygon",)"
      R"("firstCoordinates":{{"x":-122.42497815,"y":37.7166783,"z":0.0}},"coordinates":[{6}]}}}})",
      lot, lot % 10'000, lot % 1000, lot % 3000, lot % 500, lot % 2 == 0 ? "E" : "O", points);
}

Event LotEvent(std::int64_t lot) {
  EventBuilder builder(fmt::format("{}", lot), "/lots", "lot.changed");
  builder.Attribute("datacontenttype", "application/json").TextData(LotRecord(lot));
  return Event::FromTrustedBytes(std::move(builder).Encode());
}

std::vector<RouteSpec> LotRoutes(std::int64_t count, const char* format) {
  std::vector<RouteSpec> routes;
  for (std::int64_t i = 0; i < count; ++i) {
    RouteSpec route;
    route.name = fmt::format("t{}", i);
    route.pattern =
        Pattern::FromJson(fmt::format(fmt::runtime(format), i, i % 500, i % 3000)).value();
    routes.push_back(std::move(route));
  }
  return routes;
}

// Events of which most match one trigger; their bytes are read as the broker has them.
void RunLots(benchmark::State& state, std::vector<RouteSpec> routes) {
  const auto table = RouteTable::Build(std::move(routes));
  std::vector<Event> events;
  for (std::int64_t i = 0; i < 512; ++i) {
    events.push_back(LotEvent(i * 193 % std::max<std::int64_t>(1, state.range(0))));
  }
  MatchScratch scratch;
  std::vector<std::uint32_t> matches;
  EventView view;
  std::size_t next = 0;
  std::size_t found = 0;
  std::size_t bytes = 0;
  for (auto iteration : state) {
    const std::string& encoded = events[next++ % events.size()].bytes();
    benchmark::DoNotOptimize(ParseEvent(encoded, view).ok());
    table->Match(view, "", scratch, matches);
    found += matches.size();
    bytes += encoded.size();
  }
  state.SetItemsProcessed(state.iterations());
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes));
  state.counters["matches"] = static_cast<double>(found) / static_cast<double>(state.iterations());
}

void PayloadExact(benchmark::State& state) {
  RunLots(state,
          LotRoutes(state.range(0), R"({{"data":{{"properties":{{"MAPBLKLOT":["{0:07}"]}}}}}})"));
}
void PayloadThreeFields(benchmark::State& state) {
  RunLots(state, LotRoutes(state.range(0), R"({{"data":{{"properties":{{"STREET":["STREET {1}"],)"
                                           R"("FROM_ST":["{2}"],"ST_TYPE":["ST"]}}}}}})"));
}
// One of each kind of clause over every field, numbers in arrays among them.
void PayloadEverything(benchmark::State& state) {
  std::vector<RouteSpec> routes;
  for (
      const char* pattern :
      {R"({{"data":{{"properties":{{"MAPBLKLOT":["{0:07}"]}}}}}})",
       R"({{"data":{{"properties":{{"BLKLOT":[{{"wildcard":"0*{0}*"}}]}}}}}})",
       R"({{"data":{{"properties":{{"STREET":[{{"prefix":"STREET {1}"}}]}}}}}})",
       R"({{"data":{{"properties":{{"STREET":[{{"suffix":"{1}"}}]}}}}}})",
       R"({{"data":{{"properties":{{"STREET":[{{"equals-ignore-case":"street {1}"}}]}}}}}})",
       R"({{"data":{{"geometry":{{"firstCoordinates":{{"x":[{{"numeric":["<",-122.{0}]}}]}}}}}}}})",
       R"({{"data":{{"properties":{{"ODD_EVEN":["E"],"TO_ST":[{{"anything-but":["{2}"]}}]}}}}}})",
       R"({{"data":{{"geometry":{{"type":["Polygon"],"coordinates":{{"z":[0],)"
       R"("x":[{{"numeric":[">",-122.4{0}]}}]}}}}}}}})"}) {
    for (RouteSpec& route : LotRoutes(state.range(0), pattern)) routes.push_back(std::move(route));
  }
  RunLots(state, std::move(routes));
}
BENCHMARK(PayloadExact)->Arg(1)->Arg(100'000);
BENCHMARK(PayloadThreeFields)->Arg(10'000);
BENCHMARK(PayloadEverything)->Arg(5);

std::size_t ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  unsigned long total = 0;
  unsigned long resident = 0;
  if (file == nullptr || std::fscanf(file, "%lu %lu", &total, &resident) != 2) return 0;
  std::fclose(file);
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

// Patterns read and table built: triggers a second, and what they occupy. For that figure it runs
// alone (--benchmark_filter=BuildTable), since memory that others gave back is used again.
void BuildTable(benchmark::State& state) {
  std::size_t occupied = 0;
  for (auto iteration : state) {
    const std::size_t before = ResidentBytes();
    const auto table = RouteTable::Build(
        LotRoutes(state.range(0), R"({{"data":{{"properties":{{"MAPBLKLOT":["{0:07}"]}}}}}})"));
    if (occupied == 0) occupied = ResidentBytes() - before;
    benchmark::DoNotOptimize(table->size());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
  state.counters["MB"] = static_cast<double>(occupied) / 1e6;
}
BENCHMARK(BuildTable)->Arg(100'000);

void ParseEventView(benchmark::State& state) {
  const Event event = SampleEvent();
  EventView view;
  for (auto iteration : state) {
    benchmark::DoNotOptimize(ParseEvent(event.bytes(), view).ok());
  }
}
BENCHMARK(ParseEventView);

void ValidateParsedEvent(benchmark::State& state) {
  const Event event = SampleEvent();
  const EventView view = event.View();
  const EventLimits limits;
  for (auto iteration : state) {
    benchmark::DoNotOptimize(ValidateEvent(view, event.bytes().size(), limits).ok());
  }
}
BENCHMARK(ValidateParsedEvent);

}  // namespace
}  // namespace tocsin

BENCHMARK_MAIN();

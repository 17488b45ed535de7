// How matching scales with the number of triggers, and what reading an event costs.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

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

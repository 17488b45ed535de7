// Any bytes as a pattern, an expression and a payload: refused, or canonical and decided alike by
// Match(), Explain() and a second reading; hostile JSON costs neither the stack nor the process.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "broker/base/check.h"
#include "broker/routing/route_table.h"

namespace {

using tocsin::Event;

Event EventOf(std::string_view payload) {
  tocsin::EventBuilder builder("1", "/shop", "order");
  builder.Attribute("subject", "eu/42.csv").Integer("count", 5).Boolean("flag", true);
  builder.Attribute("datacontenttype", "application/json").BinaryData(payload);
  return Event::FromTrustedBytes(std::move(builder).Encode());
}

void RunPattern(std::string_view text, const Event& event) {
  const auto pattern = tocsin::Pattern::FromJson(text);
  if (!pattern.ok()) return;
  const std::string json = (*pattern)->ToJson();
  const auto again = tocsin::Pattern::FromJson(json);
  TOCSIN_CHECK(again.ok(), "{}", json);
  TOCSIN_CHECK((*again)->ToJson() == json);
  const auto table =
      tocsin::RouteTable::Build({{"a", {}, nullptr, *pattern}, {"b", {}, nullptr, *again}});
  tocsin::MatchScratch scratch;
  std::vector<std::uint32_t> matches;
  table->Match(event.View(), "", scratch, matches);
  TOCSIN_CHECK(matches.size() != 1);
  const tocsin::Verdict verdict = table->Explain(0, event.View(), "");
  TOCSIN_CHECK(verdict.matched == !matches.empty());
  TOCSIN_CHECK(verdict.matched == verdict.reason.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Up to the first NUL the condition, behind it the payload.
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t nul = bytes.find('\0');
  const std::string_view condition = bytes.substr(0, nul);
  const Event event = EventOf(nul == std::string_view::npos ? "" : bytes.substr(nul + 1));
  RunPattern(condition, event);
  if (const auto cesql = tocsin::Cesql::Parse(condition); cesql.ok()) {
    TOCSIN_CHECK((*cesql)->Matches(event.View()) == (*cesql)->Evaluate(event.View()).matched());
  }
  return 0;
}

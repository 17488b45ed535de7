// The test kit of CloudEvents SQL 1.0: values, their types and the kinds of errors.

#include <gtest/gtest.h>

#include "broker/base/event_json.h"
#include "broker/base/status.h"
#include "broker/routing/cesql.h"
#include "tests/support/vectors.h"

namespace tocsin {
namespace {

using nlohmann::json;

json EventOf(const json& test) {
  json event = test.value("event", json{{"id", "1"},
                                        {"source", "http://localhost/source"},
                                        {"type", "a.b.c"},
                                        {"specversion", "1.0"}});
  if (test.contains("eventOverrides")) event.update(test["eventOverrides"]);
  return event;
}

TEST(CesqlVectorsTest, ValuesAndErrorsAreThoseOfTheTestKit) {
  std::size_t count = 0;
  for (const json& suite : ReadVectors("cesql_tck/tck.json")) {
    for (const json& test : suite["tests"]) {
      // The kit's YAML leaves literals bare, which its JSON form made values of.
      const json& given = test["expression"];
      const std::string expression = given.is_string() ? given.get<std::string>() : given.dump();
      SCOPED_TRACE(expression + " in " + suite["file"].get<std::string>());
      ++count;
      const std::string wanted = test.value("error", "");
      const absl::StatusOr<CesqlPtr> cesql = Cesql::Parse(expression);
      if (wanted == "parse") {
        EXPECT_FALSE(cesql.ok());
        continue;
      }
      ASSERT_TRUE(cesql.ok()) << cesql.status();
      const absl::StatusOr<Event> event = EventFromJson(EventOf(test).dump(), EventLimits());
      ASSERT_TRUE(event.ok()) << event.status();
      const CesqlResult result = (*cesql)->Evaluate(event->View());
      EXPECT_EQ(result.value.ToJson(), test["result"].dump());
      std::string kinds;
      for (const CesqlError& error : result.errors) {
        if (!kinds.empty()) kinds += ' ';
        kinds += CesqlErrorName(error.kind);
      }
      EXPECT_EQ(kinds, wanted);
      EXPECT_EQ((*cesql)->Matches(event->View()), result.matched());
    }
  }
  EXPECT_EQ(count, 275u);
}

}  // namespace
}  // namespace tocsin

// The examples of docs/patterns.md are true.

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "broker/base/event_json.h"
#include "broker/base/status.h"
#include "broker/routing/route_table.h"
#include "tests/support/vectors.h"

namespace tocsin {
namespace {

using nlohmann::json;

// `raw PAYLOAD`, or the attributes and data that matter.
Event EventOf(const std::string& text) {
  if (text.rfind("raw ", 0) == 0) {
    EventBuilder builder("1", "/example", "example");
    builder.Attribute("datacontenttype", "application/json").TextData(text.substr(4));
    return Event::FromTrustedBytes(std::move(builder).Encode());
  }
  json event = {{"id", "1"}, {"source", "/example"}, {"type", "example"}, {"specversion", "1.0"}};
  event.update(json::parse(text));
  absl::StatusOr<Event> made = EventFromJson(event.dump(), EventLimits());
  EXPECT_TRUE(made.ok()) << text << made.status();
  return *std::move(made);
}

class Examples {
 public:
  // One line: `word: argument`.
  void Run(const std::string& line) {
    const std::size_t colon = line.find(": ");
    ASSERT_NE(colon, std::string::npos);
    const std::string word = line.substr(0, colon);
    const std::string argument = line.substr(colon + 2);
    if (word == "filters") {
      route_ = RouteSpec{"t", {}, FilterFromJson(argument).value(), nullptr};
    } else if (word == "pattern") {
      route_ = RouteSpec{"t", {}, nullptr, Pattern::FromJson(argument).value()};
    } else if (word == "cesql") {
      cesql_ = Cesql::Parse(argument).value();
      const absl::StatusOr<FilterPtr> filter = MakeCesql(argument);
      route_ = RouteSpec{"t", {}, filter.ok() ? *filter : nullptr, nullptr};
    } else if (word == "match" || word == "not") {
      Match(argument, word == "match");
    } else if (word == "value") {
      Value(argument);
    } else if (word == "refused pattern") {
      EXPECT_FALSE(Pattern::FromJson(argument).ok());
    } else if (word == "refused cesql") {
      EXPECT_FALSE(Cesql::Parse(argument).ok());
    } else {
      FAIL() << word;
    }
    ++lines;
  }

  std::size_t lines = 0;

 private:
  void Match(const std::string& text, bool wanted) {
    const auto table = RouteTable::Build({*route_});
    const Event event = EventOf(text);
    MatchScratch scratch;
    std::vector<std::uint32_t> matches;
    table->Match(event.View(), "", scratch, matches);
    EXPECT_EQ(!matches.empty(), wanted);
    EXPECT_EQ(table->Explain(0, event.View(), "").matched, wanted);
  }

  // `EVENT VALUE kind ...`; events of these lines have no space.
  void Value(const std::string& argument) {
    const std::size_t space = argument.find(' ');
    const CesqlResult result = cesql_->Evaluate(EventOf(argument.substr(0, space)).View());
    std::string given = result.value.ToJson();
    for (const CesqlError& error : result.errors) {
      given += " " + std::string(CesqlErrorName(error.kind));
    }
    EXPECT_EQ(given, argument.substr(space + 1));
  }

  std::optional<RouteSpec> route_;
  CesqlPtr cesql_;
};

TEST(ExamplesTest, TheSpecificationsExamplesAreTrue) {
  const char* folder = std::getenv("TOCSIN_SOURCE_DIR");
  ASSERT_NE(folder, nullptr) << "run this test by ctest, or set TOCSIN_SOURCE_DIR";
  std::istringstream text(ReadTestFile(std::string(folder) + "/docs/patterns.md"));
  Examples examples;
  std::size_t blocks = 0;
  bool inside = false;
  std::size_t number = 0;
  for (std::string line; std::getline(text, line);) {
    SCOPED_TRACE(fmt::format("docs/patterns.md:{}: {}", ++number, line));
    if (line == "```example") {
      inside = true;
      ++blocks;
    } else if (line == "```") {
      inside = false;
    } else if (inside) {
      examples.Run(line);
    }
  }
  EXPECT_FALSE(inside);
  EXPECT_GE(blocks, 8u);
  EXPECT_GE(examples.lines, 90u);
}

}  // namespace
}  // namespace tocsin

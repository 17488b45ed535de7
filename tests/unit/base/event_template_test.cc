#include "broker/base/event_template.h"

#include <gtest/gtest.h>

#include <array>

#include "broker/base/status.h"

namespace tocsin {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;

constexpr std::array<std::string_view, 2> kNames = {"topic", "partition"};

std::optional<std::string> Fill(std::string_view text, std::string_view json = "") {
  const auto made = EventTemplate::Parse(text, kNames);
  EXPECT_TRUE(made.ok()) << made.status();
  const std::array<Pair, 2> headers = {Pair{"region", "eu"}, Pair{"empty", ""}};
  const std::array<Pair, 2> names = {Pair{"topic", "orders"}, Pair{"partition", "3"}};
  TemplateValues values{.key = "k7", .headers = headers, .names = names, .data = std::nullopt};
  JsonValue data;
  if (!json.empty()) {
    EXPECT_TRUE(JsonScanner(json).ReadDocument(data).ok());
    values.data = data;
  }
  return made->Fill(values);
}

TEST(EventTemplateTest, HolesAreFilledFromKeyHeadersNamesAndData) {
  const std::string_view json =
      R"({"user":{"id":17,"name":"J\u00e9","tags":["a",{"b":true}]},"none":null,"n":1.50})";
  EXPECT_EQ(Fill("plain"), "plain");
  EXPECT_EQ(Fill(""), "");
  EXPECT_EQ(Fill("{topic}/{partition}: {key}"), "orders/3: k7");
  EXPECT_EQ(Fill("{header.region}{field.region}"), "eueu");
  EXPECT_EQ(Fill("<{header.empty}>"), "<>");
  EXPECT_EQ(Fill("{{{key}}}"), "{k7}");
  EXPECT_EQ(Fill("{data.user.id}-{data.user.name}", json), "17-J\u00e9");
  EXPECT_EQ(Fill("{data.user.tags.0}{data.user.tags.1.b}", json), "atrue");
  EXPECT_EQ(Fill("{data.n}", json), "1.50");
  EXPECT_EQ(Fill("{data.user.tags}", json), R"(["a",{"b":true}])");
  EXPECT_EQ(Fill("{data}", R"( [1, 2] )"), "[1,2]");
}

TEST(EventTemplateTest, WhatIsMissingOrNullFillsNothing) {
  const std::string_view json = R"({"a":{"b":null},"list":[1]})";
  EXPECT_EQ(Fill("x{header.none}"), std::nullopt);
  EXPECT_EQ(Fill("x{data.a}"), std::nullopt);
  for (const char* path : {"{data.a.b}", "{data.c}", "{data.a.b.c}", "{data.list.1}",
                           "{data.list.x}", "{data.list.-1}"}) {
    EXPECT_EQ(Fill(path, json), std::nullopt) << path;
  }
}

TEST(EventTemplateTest, BadTemplatesAreRefusedWithTheirPlace) {
  for (const auto& [text, wanted] :
       {Pair{"a{key", "`{` at 2"}, Pair{"a}b", "`}` at 2"},
        Pair{"{nope}", "`{nope}` is not known here"}, Pair{"{}", "is not known"},
        Pair{"{header.}", "no header"}, Pair{"{data.a..b}", "empty step"}}) {
    const auto made = EventTemplate::Parse(text, kNames);
    ASSERT_FALSE(made.ok()) << text;
    EXPECT_NE(MessageOf(made.status()).find(wanted), std::string_view::npos) << made.status();
  }
}

}  // namespace
}  // namespace tocsin

#include "broker/config/yaml_tree.h"

#include <gtest/gtest.h>

#include "broker/base/random.h"

namespace tocsin {
namespace {

std::optional<YamlFault> Parse(YamlTree& tree, std::string_view text, YamlLimits limits = {}) {
  return tree.Parse(text, limits);
}

std::string Show(YamlNode node) {
  std::string out;
  switch (node.kind()) {
    case YamlKind::kNull:
      return "null";
    case YamlKind::kScalar:
      return std::string(node.text()) + (node.plain() ? "" : "'");
    case YamlKind::kList:
      for (const YamlNode& element : node.Elements()) out += Show(element) + ",";
      return "[" + out + "]";
    case YamlKind::kMap:
      for (const YamlEntry& entry : node.Entries()) {
        out += Show(entry.key) + "=" + Show(entry.value) + ",";
      }
      return "{" + out + "}";
  }
  return out;
}

std::string Shown(std::string_view text) {
  YamlTree tree;
  const std::optional<YamlFault> fault = Parse(tree, text);
  return fault ? "fault: " + fault->message : Show(tree.root());
}

TEST(YamlTreeTest, KeepsShapeQuotesAndPlaces) {
  EXPECT_EQ(Shown("a: [1, 'x', null, {}]\nb:\n  c: \"\"\n"), "{a=[1,x',null,{},],b={c=',},}");
  EXPECT_EQ(Shown(""), "null");
  EXPECT_EQ(Shown("# only this\n"), "null");
  YamlTree tree;
  ASSERT_FALSE(Parse(tree, "a: 1\nbb:\n  - x\n  - {k: v}\n"));
  const YamlEntry second = tree.root().Entries()[1];
  EXPECT_EQ(second.key.location(), (YamlLocation{2, 1}));
  EXPECT_EQ(second.value.Elements()[1].Entries()[0].value.location(), (YamlLocation{4, 9}));
}

TEST(YamlTreeTest, AliasesAreCopied) {
  EXPECT_EQ(Shown("a: &x {k: [1, 2]}\nb: *x\nc: *x\n"),
            "{a={k=[1,2,],},b={k=[1,2,],},c={k=[1,2,],},}");
}

// FAULTS F51.
TEST(YamlTreeTest, AnAliasBombIsCapped) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) bomb += (j ? ", *a" : "*a") + std::to_string(i - 1);
    bomb += "]\n";
  }
  YamlTree tree;
  const std::optional<YamlFault> fault = Parse(tree, bomb);
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->message, "aliases expand to more than 10000 values");
}

TEST(YamlTreeTest, AnAliasOfItselfIsRefused) {
  EXPECT_EQ(Shown("a: &a [*a]\n"), "fault: the alias refers to a value that is not complete");
  EXPECT_EQ(Shown("a: *none\n").substr(0, 15), "fault: not YAML");
}

TEST(YamlTreeTest, DeepNestingIsRefusedWithoutDeepRecursion) {
  YamlTree tree;
  const std::optional<YamlFault> fault = Parse(tree, std::string(100, '[') + std::string(100, ']'));
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->message, "nested more than 64 levels deep");
  EXPECT_TRUE(Parse(tree, std::string(100'000, '[')));
  std::string blocks;
  for (int i = 0; i < 2'000; ++i) blocks += "- ";
  EXPECT_TRUE(Parse(tree, blocks));
  // Deep by aliases.
  std::string chain = "a0: &a0 [x]\n";
  for (int i = 1; i < 100; ++i) {
    chain += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" + std::to_string(i - 1) +
             "]\n";
  }
  EXPECT_TRUE(Parse(tree, chain));
}

TEST(YamlTreeTest, TextOverTheLimitIsNotRead) {
  YamlTree tree;
  YamlLimits limits;
  limits.text_bytes_max = 100;
  EXPECT_TRUE(Parse(tree, std::string(101, ' '), limits));
  EXPECT_FALSE(Parse(tree, std::string(100, ' '), limits));
}

TEST(YamlTreeTest, TagsAndSecondDocumentsAreRefused) {
  EXPECT_EQ(Shown("a: !!binary AAAA\n"), "fault: YAML tags are not supported");
  EXPECT_EQ(Shown("a: !mine [1]\n"), "fault: YAML tags are not supported");
  EXPECT_EQ(Shown("a: 1\n---\nb: 2\n"), "fault: a second document; the file is one");
}

TEST(YamlTreeTest, DamagedTextIsReadOrRefused) {
  const std::string text =
      "a: &x [1, \"two\", 'three']\nb:\n  - *x\n  - k: |\n      text\n    l: >-\n      more\n";
  SeededRandom random(11);
  std::size_t refused = 0;
  for (int i = 0; i < 3'000; ++i) {
    std::string damaged = text;
    for (std::uint64_t n = random.Below(4) + 1; n > 0; --n) {
      damaged[random.Below(damaged.size())] = static_cast<char>(random.Below(256));
    }
    YamlTree tree;
    if (Parse(tree, damaged)) {
      ++refused;
    } else {
      (void)Show(tree.root());
    }
  }
  EXPECT_GT(refused, 100u);
}

}  // namespace
}  // namespace tocsin

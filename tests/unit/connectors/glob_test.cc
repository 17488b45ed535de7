#include <gtest/gtest.h>

#include "connectors/file/file_spec.h"

namespace tocsin {
namespace {

struct GlobCase {
  const char* pattern;
  const char* path;
  bool matches;
};

TEST(GlobTest, MatchesNamesAndPaths) {
  const GlobCase cases[] = {
      {"*.csv", "a.csv", true},
      {"*.csv", "deep/down/a.csv", true},  // without a slash: the name alone
      {"*.csv", "a.csv.tmp", false},
      {"*.csv", ".csv", true},
      {"*", "anything", true},
      {"a?c", "abc", true},
      {"a?c", "ac", false},
      {"in/*.csv", "in/a.csv", true},
      {"in/*.csv", "in/b/a.csv", false},
      {"in/**", "in/b/a.csv", true},
      {"in/**/a.csv", "in/a.csv", true},
      {"in/**/a.csv", "in/x/y/a.csv", true},
      {"in/**/a.csv", "in/x/ya.csv", false},
      {"**/*.csv", "a.csv", true},
      {"**/*.csv", "x/y/a.csv", true},
      {"**/x/*.csv", "w/x/y/a.csv", false},
      {"**/x/*.csv", "w/y/x/a.csv", true},
      {"x/?", "x//", false},
      {"[abc].txt", "b.txt", true},
      {"[a-c].txt", "d.txt", false},
      {"[!a-c].txt", "d.txt", true},
      {"[!a-c].txt", "b.txt", false},
      {"[]a].txt", "].txt", true},
      {"[\\]].txt", "].txt", true},
      {"x/[!b]", "x//", false},
      {"\\*.csv", "*.csv", true},
      {"\\*.csv", "a.csv", false},
      {"a*b*c", "aXXbYYbZZc", true},
      {"a*b*c", "aXXbYYbZZd", false},
      {"*a/b*c", "xa/bxc", true},
      {"*a/*b", "xa/a/b", false},
      {"a**z", "a/b/z", false},  // no slash in the pattern: against the name `z`
      {"x/a**z", "x/a/b/z", true},
  };
  for (const GlobCase& one : cases) {
    EXPECT_EQ(GlobMatches(one.pattern, one.path), one.matches)
        << one.pattern << " against " << one.path;
  }
}

TEST(GlobTest, BadPatternsAreRefusedWithTheReason) {
  for (const char* pattern : {"", "/abs/*.csv", "a\\", "[a", "[z-a]", "**/**/**/**/**/x"}) {
    EXPECT_FALSE(ValidateGlob(pattern).ok()) << pattern;
  }
  for (const char* pattern : {"*.csv", "[!a-z]*", "**/x/**/y", "\\[", "[]]"}) {
    EXPECT_TRUE(ValidateGlob(pattern).ok()) << pattern << ValidateGlob(pattern);
  }
}

TEST(GlobTest, ManyStarsTakeNoTimeWorthMentioning) {
  // Exponential in a matcher that tries every split.
  std::string pattern = "x/";
  for (int i = 0; i < 30; ++i) pattern += "a*";
  pattern += "b";
  EXPECT_FALSE(GlobMatches(pattern, "x/" + std::string(3000, 'a')));
}

}  // namespace
}  // namespace tocsin

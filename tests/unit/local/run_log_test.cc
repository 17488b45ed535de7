#include "local/run_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tocsin {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

TEST(BoundedOutputTest, WhatFitsIsKeptWhole) {
  BoundedOutput output(100);
  std::string all;
  for (int i = 0; i < 10; ++i) {
    const std::string piece(10, static_cast<char>('a' + i));
    output.Write(piece);
    all += piece;
    EXPECT_EQ(output.Text(), all);
  }
  EXPECT_EQ(output.written(), 100u);
}

TEST(BoundedOutputTest, OfMoreTheBeginningAndTheEndAreKept) {
  BoundedOutput output(100);
  output.Write("begin");
  for (int i = 0; i < 1'000; ++i) output.Write(std::string(77, 'x'));
  output.Write("end");
  const std::string text = output.Text();
  EXPECT_THAT(text, StartsWith("begin"));
  EXPECT_THAT(text, EndsWith("end"));
  EXPECT_THAT(text, HasSubstr("76908 bytes are not kept"));
  EXPECT_LT(text.size(), 150u);
}

TEST(BoundedOutputTest, NothingIsKeptOfAnythingWithZero) {
  BoundedOutput output(0);
  output.Write("secret");
  EXPECT_THAT(output.Text(), testing::Not(HasSubstr("secret")));
  EXPECT_EQ(output.written(), 6u);
}

}  // namespace
}  // namespace tocsin

#include "broker/base/shared_text.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"

namespace tocsin {
namespace {

TEST(SharedTextTest, EqualTextsAreThereOnce) {
  const std::size_t before = SharedText::HeldCount();
  {
    const SharedText one("shared text, of some length that needs the heap");
    const SharedText same(std::string("shared text, of some length ") + "that needs the heap");
    const SharedText other("another");
    EXPECT_EQ(&one.str(), &same.str());
    EXPECT_EQ(one, same);
    EXPECT_NE(one, other);
    EXPECT_NE(other, "anothe");
    EXPECT_EQ(other, "another");
    EXPECT_EQ(other.size(), 7u);
    EXPECT_EQ(SharedText::HeldCount(), before + 2);
  }
  EXPECT_EQ(SharedText::HeldCount(), before);
}

TEST(SharedTextTest, AnEmptyTextHoldsNothing) {
  const std::size_t before = SharedText::HeldCount();
  const SharedText none;
  const SharedText empty("");
  EXPECT_EQ(none, empty);
  EXPECT_TRUE(empty.empty());
  EXPECT_EQ(empty.str(), "");
  EXPECT_EQ(SharedText::HeldCount(), before);
}

TEST(SharedTextTest, LivesAsLongAsItsLastCopy) {
  const std::size_t before = SharedText::HeldCount();
  auto first = std::make_unique<SharedText>("outlives its first");
  SharedText second = *first;
  first.reset();
  EXPECT_EQ(second.str(), "outlives its first");
  const SharedText third = std::move(second);
  EXPECT_EQ(third, "outlives its first");
  EXPECT_EQ(SharedText::HeldCount(), before + 1);
}

// One is freed in one thread while the same text is asked for in others.
TEST(SharedTextTest, IsMadeAndFreedInSeveralThreads) {
  const std::size_t before = SharedText::HeldCount();
  const SystemClock clock;
  {
    std::vector<std::unique_ptr<ThreadExecutor>> threads;
    for (int i = 0; i < 4; ++i) {
      threads.push_back(std::make_unique<ThreadExecutor>("texts", clock));
      threads.back()->Post([i] {
        for (int round = 0; round < 20'000; ++round) {
          const std::string text = "text " + std::to_string((round + i) % 3);
          const SharedText made(text);
          ASSERT_EQ(made.str(), text);
        }
      });
    }
    for (const auto& thread : threads) thread->Stop();
  }
  EXPECT_EQ(SharedText::HeldCount(), before);
}

}  // namespace
}  // namespace tocsin

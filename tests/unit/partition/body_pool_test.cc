#include "broker/partition/body_pool.h"

#include <gtest/gtest.h>

namespace tocsin {
namespace {

TEST(BodyPoolTest, MemoryComesBackOnlyFromTheLastReader) {
  const auto pool = std::make_shared<BodyPool>();
  std::string body(100'000, 'x');
  const char* memory = body.data();
  std::shared_ptr<const std::string> first = pool->Share(std::move(body));
  const std::shared_ptr<const std::string> second = first;
  first.reset();
  EXPECT_EQ(pool->Take().capacity(), std::string().capacity());
  EXPECT_EQ(second->size(), 100'000u);
  EXPECT_EQ((*second)[99'999], 'x');
  const_cast<std::shared_ptr<const std::string>&>(second).reset();
  const std::string again = pool->Take();
  EXPECT_EQ(again.data(), memory);
  EXPECT_TRUE(again.empty());
}

TEST(BodyPoolTest, KeepsFewAndNoneThatIsVeryLong) {
  const auto pool = std::make_shared<BodyPool>();
  (void)pool->Share(std::string(BodyPool::kBodyBytesMax * 2, 'x'));
  EXPECT_LT(pool->Take().capacity(), 100u);
  std::vector<std::shared_ptr<const std::string>> bodies;
  for (std::size_t i = 0; i < BodyPool::kBodiesMax * 2; ++i) {
    bodies.push_back(pool->Share(std::string(1000, 'x')));
  }
  bodies.clear();
  std::size_t kept = 0;
  while (pool->Take().capacity() >= 1000) ++kept;
  EXPECT_EQ(kept, BodyPool::kBodiesMax);
}

TEST(BodyPoolTest, ABodyMayOutliveThePool) {
  auto pool = std::make_shared<BodyPool>();
  const std::shared_ptr<const std::string> body = pool->Share("text");
  pool.reset();
  EXPECT_EQ(*body, "text");
}

}  // namespace
}  // namespace tocsin

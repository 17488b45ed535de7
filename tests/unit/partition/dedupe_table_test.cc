#include "broker/partition/dedupe_table.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/random.h"

namespace tocsin {
namespace {

Hash128 IdentityOf(std::uint64_t number) {
  const std::string id = std::to_string(number);
  return HashSourceAndId("/test", id, 7);
}

// The rule said plainly: the newest `ids_max` different ids, none older than the window.
class Model {
 public:
  Model(std::int64_t window_us, std::size_t ids_max) : window_us_(window_us), ids_max_(ids_max) {}

  std::optional<std::uint64_t> Find(std::uint64_t number, std::int64_t now_us) const {
    const auto found = seen_.find(number);
    if (found == seen_.end() || found->second.second < now_us - window_us_) return std::nullopt;
    return found->second.first;
  }
  void Insert(std::uint64_t number, std::uint64_t offset, std::int64_t now_us) {
    while (!order_.empty() && seen_[order_.front()].second < now_us - window_us_) Drop();
    while (order_.size() >= ids_max_) Drop();
    if (!seen_.contains(number)) order_.push_back(number);
    seen_[number] = {offset, now_us};
  }
  std::size_t size() const { return order_.size(); }

 private:
  void Drop() {
    seen_.erase(order_.front());
    order_.pop_front();
  }
  const std::int64_t window_us_;
  const std::size_t ids_max_;
  std::map<std::uint64_t, std::pair<std::uint64_t, std::int64_t>> seen_;
  std::deque<std::uint64_t> order_;
};

void Compare(const DedupeTable& table, const Model& model, std::uint64_t numbers,
             std::int64_t now_us) {
  ASSERT_EQ(table.size(), model.size());
  for (std::uint64_t number = 0; number < numbers; ++number) {
    const auto seen = table.Find(IdentityOf(number), now_us);
    const auto expected = model.Find(number, now_us);
    ASSERT_EQ(seen.has_value(), expected.has_value()) << "id " << number;
    if (seen.has_value()) {
      ASSERT_EQ(seen->offset.value(), *expected) << "id " << number;
    }
  }
}

// A slot that is closed wrongly when an old id goes makes others unfindable: a repeat would be
// stored twice.
TEST(DedupeTableTest, FindsWhatAPlainModelFinds) {
  SeededRandom random(1);
  DedupeTable table(50'000, 3000);
  Model model(50'000, 3000);
  std::int64_t now_us = 1'000'000;
  for (std::uint64_t offset = 0; offset < 60'000; ++offset) {
    const std::uint64_t number = random.Next() % 9000;
    // Now and then a pause in which all or most of it goes.
    now_us += static_cast<std::int64_t>(random.Next() % (offset % 20'000 == 0 ? 90'000 : 12));
    const auto seen = table.Find(IdentityOf(number), now_us);
    ASSERT_EQ(seen.has_value(), model.Find(number, now_us).has_value()) << "offset " << offset;
    if (seen) continue;
    table.Insert(IdentityOf(number), Offset(offset), now_us);
    model.Insert(number, offset, now_us);
    if (offset % 5000 == 0) Compare(table, model, 9000, now_us);
  }
  Compare(table, model, 9000, now_us);
}

TEST(DedupeTableTest, ComesBackFromItsPages) {
  DedupeTable table(1'000'000, 20'000);
  std::map<std::uint64_t, std::string> pages;
  const auto save = [&pages](std::uint64_t page, std::string bytes) {
    if (bytes.empty()) {
      pages.erase(page);
    } else {
      pages[page] = std::move(bytes);
    }
  };
  for (std::uint64_t i = 0; i < 50'000; ++i) {
    table.Insert(IdentityOf(i), Offset(i), 5);
    if (i == 15'000 || i == 33'000) table.TakePages(false, save);
  }
  table.TakePages(false, save);
  DedupeTable loaded(1'000'000, 20'000);
  for (const auto& [page, bytes] : pages) ASSERT_TRUE(loaded.LoadPage(page, bytes).ok());
  // What was forgotten since its page was saved may come back: it is only known a little longer.
  EXPECT_GE(loaded.size(), 20'000u);
  EXPECT_LT(loaded.size(), 28'000u);
  const std::uint64_t oldest = 50'000 - loaded.size();
  for (std::uint64_t i = 0; i < 50'000; ++i) {
    const auto seen = loaded.Find(IdentityOf(i), 5);
    ASSERT_EQ(seen.has_value(), i >= oldest) << "id " << i;
    if (seen.has_value()) {
      ASSERT_EQ(seen->offset, Offset(i));
    }
  }
}

}  // namespace
}  // namespace tocsin

// SharedText: an immutable text of which equal ones are one allocation, whoever made them: the
// configuration of a trigger as every partition keeps it. A copy is a pointer. What nobody holds
// any more is freed.
//
// For what is said seldom and kept long: making one, and dropping its last copy, looks it up in a
// table of the process under its lock, which is held for nothing else. Thread-safe as a
// std::shared_ptr is: different objects in any threads.

#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace tocsin {

class SharedText {
 public:
  SharedText() = default;  // empty
  explicit SharedText(std::string_view text);

  const std::string& str() const;
  std::size_t size() const { return str().size(); }
  bool empty() const { return text_ == nullptr; }

  // Equal texts are the same object.
  friend bool operator==(const SharedText& a, const SharedText& b) { return a.text_ == b.text_; }
  friend bool operator==(const SharedText& a, std::string_view b) { return a.str() == b; }

  // How many texts are held in the process; for tests.
  static std::size_t HeldCount();

 private:
  std::shared_ptr<const std::string> text_;  // null: empty
};

}  // namespace tocsin

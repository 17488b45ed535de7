// JsonTokens: a JSON text as the places where its tokens begin (the first stage of simdjson, which
// also proves UTF-8), and a reader that goes over them. Values nobody asks for are passed over:
// checked as strictly as any other, but not converted and not kept.
//
// It may refuse a text that is JSON; it never takes one that is none. Who gets `false` from any
// method asks JsonScanner, which decides and gives the reason.
//
// Threading: one thread. Lifetime: what it shows lives until the next Begin().

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace tocsin {

class JsonTokens {
 public:
  JsonTokens();
  ~JsonTokens();
  JsonTokens(JsonTokens&&) noexcept;
  JsonTokens& operator=(JsonTokens&&) noexcept;

  // Copies the text.
  [[nodiscard]] bool Begin(std::string_view json);

  bool at_end() const { return next_ == count_; }
  // The first character of the next token; 0 at the end.
  char First() const { return text_[places_[next_]]; }
  // Passes over it.
  void Step() { ++next_; }
  [[nodiscard]] bool Take(char wanted) {
    if (First() != wanted) return false;
    ++next_;
    return true;
  }

  // At a `"`: the string as it is written, between its quotes; `escaped`: with escapes, which are
  // good ones.
  [[nodiscard]] bool String(std::string_view& inside, bool& escaped);
  // At something else that is no bracket: true, false, null or a number within a double's range.
  [[nodiscard]] bool Word(std::string_view& word);
  // A whole value of at most `depth_max` levels.
  [[nodiscard]] bool Skip(std::size_t depth_max);

  static constexpr bool kPassesMembers = false;  // as JsonBitmap does

 private:
  struct Parser;

  std::unique_ptr<Parser> parser_;
  const char* text_ = nullptr;
  const std::uint32_t* places_ = nullptr;  // one more than count_: the text's end, where a 0 is
  std::uint32_t count_ = 0;
  std::uint32_t next_ = 0;
  bool has_escapes_ = false;
};

}  // namespace tocsin

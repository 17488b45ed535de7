// JsonBitmap: a JSON text proven well-formed in one pass of vectors, 64 characters at a time, and a
// reader that goes over its tokens. Values nobody asks for cost the step over them, whatever their
// size.
//
// The pass keeps a bitmap of where tokens begin and, for each bracket, where it is closed. The
// grammar is checked on bitmaps, too: which class of character may stand behind which (moved over
// white space by a carry), digits and points of numbers. In an object each name is followed by a
// colon, and a colon stands nowhere else. The quotes' bitmap becomes that of the strings' insides
// by a multiplication without carry (Langdale and Lemire, "Parsing gigabytes of JSON per second",
// 2019).
//
// It may refuse a text that is JSON: escapes of the form `\u`, numbers with more than 63 digits in
// a row, more than 64 levels are left to JsonTokens. It never takes one that is none.
//
// Threading: one thread. Lifetime: what it shows lives until the next Begin().

#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace tocsin {

class JsonBitmap {
  struct Cursor {
    const std::uint64_t* starts;
    std::uint64_t rest;  // the tokens of this block behind `at`
    std::uint32_t block;
    std::uint32_t at;

    void Step() {
      while (rest == 0) rest = starts[++block];
      at = block * 64 + static_cast<std::uint32_t>(std::countr_zero(rest));
      rest &= rest - 1;
    }
    void GoTo(std::uint32_t to) {
      at = to;
      block = to / 64;
      rest = starts[block] & (~std::uint64_t{1} << (to % 64));
    }
  };

 public:
  // False: this processor lacks AVX2, and Begin() refuses everything.
  static bool Supported();

  JsonBitmap() = default;
  JsonBitmap(const JsonBitmap&) = delete;
  JsonBitmap& operator=(const JsonBitmap&) = delete;

  // Copies the text. False: it is not proven to be JSON, and there is nothing to read.
  [[nodiscard]] bool Begin(std::string_view json);

  bool at_end() const { return cursor_.at == size_; }
  // The first character of the token; 0 at the end.
  char First() const { return text_[cursor_.at]; }
  // To the next token. Not at the end.
  void Step() { cursor_.Step(); }
  [[nodiscard]] bool Take(char wanted) {
    if (First() != wanted) return false;
    Step();
    return true;
  }

  // At a `"`: the string as it is written, between its quotes; `escaped`: with escapes, which are
  // good ones. Always true, as the two below: the text is proven.
  [[nodiscard]] bool String(std::string_view& inside, bool& escaped) {
    const char* const begin = text_ + cursor_.at + 1;
    Step();
    inside = {begin, static_cast<std::size_t>(EndOfToken() - 1 - begin)};
    escaped = has_escapes_ && inside.find('\\') != std::string_view::npos;
    return true;
  }
  // At something else that is no bracket.
  [[nodiscard]] bool Word(std::string_view& word) {
    const char* const begin = text_ + cursor_.at;
    Step();
    word = {begin, static_cast<std::size_t>(EndOfToken() - begin)};
    return true;
  }
  // A whole value.
  [[nodiscard]] bool Skip(std::size_t) {
    if ((First() | 0x20) == '{') cursor_.GoTo(closing_[cursor_.at]);
    Step();
    return true;
  }

  static constexpr bool kPassesMembers = true;
  // At a member's name: over members until one that is `wanted(name)`, or has escapes in its name.
  // False: there is none, and this is the object's end.
  template <typename Wanted>
  [[nodiscard]] bool PassMembers(const Wanted& wanted) {
    Cursor cursor = cursor_;
    while (true) {
      const Cursor member = cursor;
      cursor.Step();
      const char* end = text_ + cursor.at;  // the colon
      while (static_cast<unsigned char>(end[-1]) <= ' ') --end;
      const char* const begin = text_ + member.at + 1;
      const std::string_view name(begin, static_cast<std::size_t>(end - 1 - begin));
      if (wanted(name) || (has_escapes_ && name.find('\\') != std::string_view::npos)) {
        cursor_ = member;
        return true;
      }
      cursor.Step();
      if ((text_[cursor.at] | 0x20) == '{') cursor.GoTo(closing_[cursor.at]);
      cursor.Step();
      if (text_[cursor.at] == '}') {
        cursor_ = cursor;
        return false;
      }
      cursor.Step();
    }
  }

 private:
  struct Check;

  void Reserve(std::size_t bytes);

  // Of the token before this one.
  const char* EndOfToken() const {
    const char* end = text_ + cursor_.at;
    while (static_cast<unsigned char>(end[-1]) <= ' ') --end;
    return end;
  }

  std::unique_ptr<char[]> buffer_;
  std::unique_ptr<std::uint64_t[]> starts_;  // a bit each; one more at the text's end, where a 0 is
  std::unique_ptr<std::uint32_t[]> closing_;  // at an opening bracket: where its closing one is
  std::size_t capacity_ = 0;
  const char* text_ = nullptr;
  Cursor cursor_{};
  std::uint32_t size_ = 0;
  bool has_escapes_ = false;
};

}  // namespace tocsin

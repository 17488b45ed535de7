// Texts that are JSON or nearly, for the tests of those who read it.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "broker/base/json_scan.h"
#include "broker/base/random.h"

namespace tocsin {

// As a payload: names may repeat.
inline bool IsJson(std::string_view text) {
  JsonValue value;
  return JsonScanner(text, kJsonDepthMax, JsonNames::kMayRepeat).ReadDocument(value).ok();
}

// Texts that are none.
inline constexpr const char* kNoJson[] = {
    "01",
    "-",
    "1.",
    ".5",
    "1e",
    "+1",
    "1 2",
    "tru",
    "truee",
    "true1",
    "true-1",
    "true.5",
    "nul",
    "True",
    "{",
    "[1",
    "[1,]",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{a:1}",
    "[1 2]",
    "[1}",
    "{]",
    "\"a",
    "\"\\x\"",
    "\"\n\"",
    "\"\xff\"",
    "1e400",
    "[1],",
    "\"a\"b",
    "1\"a\"",
    "[\"a\"\"b\"]",
    "nan",
    "0x1",
    "1_0",
    "[,1]",
    "]",
    "\xef\xbb\xbf{}",
    ":",
    "{:1}",
    "{\"a\",1}",
    "[\"a\":1]",
    "-01",
    "00",
    "1.2.3",
    "1-2",
    "--1",
    "1.-2",
    "[01,1e5]",
    "[1e5,01]",
    "1e5e5",
    "1e5.5",
    "e5",
    "1e5x",
    "1e5 2",
    "{\"a\":1 \"b\":2}",
    "{\"a\":\"b\":1,2}",
    "{\"a\":1,2}",
    "{1}",
    "{1:2}",
    "{\"a\":1:2}",
    "{\"a\" \"b\":1}",
    "{\"a\":1}}",
    "[[]",
    "{\"a\":[1}]",
    "{[1]}",
    "{{}}",
    "\\",
    "[\\\"a\"]",
    "\"\\",
    "true false",
    "[1,,2]",
    "\x0b",
    "\"\x1f\"",
    "1.0.",
    "-\"a\"",
    "[-]",
    "{\"a\":-}",
    "[1.]",
    "{,}",
    "{\"a\":1,,\"b\":2}",
    "{\"a\"::1}",
    "[:]",
    "\"\xed\xa0\x80\"",
    "[1]2",
    "2[1]",
    "{}\"a\"",
    "\"a\"{}",
    "[]{}",
    "[}",
    "{\"a\":1]",
    "\"\\ud800\"",
    "\"\\udc00\"",
};

// So many characters are taken out, put in, changed, or the rest is cut off.
inline void Damage(std::string& text, SeededRandom& random, std::uint64_t changes) {
  constexpr std::string_view kBytes = "{}[]:,\"\\ 0123456789.eE+-truefalsn\n\x80\xc3\x01/u";
  for (; changes > 0 && !text.empty(); --changes) {
    const std::size_t at = random.Next() % text.size();
    const char byte = kBytes[random.Next() % kBytes.size()];
    switch (random.Next() % 5) {
      case 0:
        text.erase(at, 1 + random.Next() % 4);
        break;
      case 1:
        text.insert(at, 1, byte);
        break;
      case 2:
        text.resize(std::max<std::size_t>(at, 1));
        break;
      case 3:  // two characters change places
        std::swap(text[at], text[random.Next() % text.size()]);
        break;
      default:
        text[at] = byte;
    }
  }
}

// Puts all tokens behind each other, as a reader of them shows them. False: it refuses the text,
// here or on its way.
template <typename Reader>
bool ShowTokens(Reader& reader, std::string_view text, std::string& shown) {
  shown.clear();
  if (!reader.Begin(text)) return false;
  while (!reader.at_end()) {
    const char first = reader.First();
    std::string_view inside;
    bool escaped = false;
    if (std::string_view("{}[]:,").find(first) != std::string_view::npos) {
      reader.Step();
    } else if (first == '"' ? !reader.String(inside, escaped) : !reader.Word(inside)) {
      return false;
    }
    shown += first;
    shown.append(inside).append(escaped ? "\\" : " ");
  }
  return true;
}

}  // namespace tocsin

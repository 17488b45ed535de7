// Base64 of RFC 4648 section 4: the standard alphabet, padded.

#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tocsin {

std::string EncodeBase64(std::string_view bytes);

// Strict: nullopt for any other character (white space too), missing or misplaced padding, and
// for bits that are set where none belong.
std::optional<std::string> DecodeBase64(std::string_view text);

}  // namespace tocsin

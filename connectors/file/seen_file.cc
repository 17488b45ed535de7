#include "connectors/file/seen_file.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

namespace tocsin {
namespace {

constexpr std::string_view kRootFormat = "dir1:";

// `count` hexadecimal numbers separated by `-`, then the rest.
template <std::size_t count>
std::optional<std::array<std::uint64_t, count>> ReadHex(std::string_view& text) {
  std::array<std::uint64_t, count> numbers{};
  for (std::size_t i = 0; i < count; ++i) {
    if (i > 0) {
      if (!text.starts_with('-')) return std::nullopt;
      text.remove_prefix(1);
    }
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), numbers[i], 16);
    if (error != std::errc()) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  }
  return numbers;
}

}  // namespace

std::string EncodeIdentity(const FileIdentity& identity) {
  return fmt::format("{:x}-{:x}-{:x}", identity.device, identity.inode,
                     static_cast<std::uint64_t>(identity.born_ns));
}

std::optional<FileIdentity> DecodeIdentity(std::string_view key) {
  const auto numbers = ReadHex<3>(key);
  if (!numbers || !key.empty()) return std::nullopt;
  return FileIdentity{(*numbers)[0], (*numbers)[1], static_cast<std::int64_t>((*numbers)[2])};
}

std::string EncodeSeenFile(const SeenFile& seen) {
  return fmt::format("{:x}-{:x} {}", seen.size, static_cast<std::uint64_t>(seen.modified_ns),
                     seen.path);
}

std::optional<SeenFile> DecodeSeenFile(std::string_view value) {
  const auto numbers = ReadHex<2>(value);
  if (!numbers || !value.starts_with(' ')) return std::nullopt;
  return SeenFile{(*numbers)[0], static_cast<std::int64_t>((*numbers)[1]),
                  std::string(value.substr(1))};
}

std::string FileEventId(const FileIdentity& identity, std::uint64_t size,
                        std::int64_t modified_ns) {
  return fmt::format("{}-{:x}-{:x}", EncodeIdentity(identity), size,
                     static_cast<std::uint64_t>(modified_ns));
}

std::optional<FileEventKey> ParseFileEventId(std::string_view id) {
  const auto numbers = ReadHex<5>(id);
  if (!numbers || !id.empty()) return std::nullopt;
  return FileEventKey{
      FileIdentity{(*numbers)[0], (*numbers)[1], static_cast<std::int64_t>((*numbers)[2])},
      (*numbers)[3], static_cast<std::int64_t>((*numbers)[4])};
}

std::string EncodeRoot(const FileIdentity& root) {
  return fmt::format("{}{}", kRootFormat, EncodeIdentity(root));
}

std::optional<FileIdentity> DecodeRoot(std::string_view position) {
  if (!position.starts_with(kRootFormat)) return std::nullopt;
  return DecodeIdentity(position.substr(kRootFormat.size()));
}

}  // namespace tocsin

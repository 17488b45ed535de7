#include "broker/journal/manifest.h"

#include <simdjson.h>

#include <cctype>
#include <charconv>
#include <utility>

#include "broker/base/crc32c.h"
#include "broker/base/status.h"
#include "broker/journal/segment.h"

namespace tocsin {
namespace {

constexpr char kPath[] = "manifest.json";
constexpr char kTemp[] = "manifest.json.tmp";
constexpr std::size_t kBytesMax = 64 * 1024;

// What the CRC covers: every value, so that a flipped bit in any of them is seen.
std::uint32_t ManifestCrc(const Manifest& m) {
  return Crc32c(AsBytes(fmt::format("{}\n{}\n{}\n{}\n{}\n{}", m.format, m.created_by, m.data_dir_id,
                                    m.partitions, m.partitioner, m.hash_seed)));
}

absl::Status Damaged(std::string_view why) {
  return absl::DataLossError(fmt::format(
      "manifest.json is damaged ({}); restore it from a copy of this data directory. Nothing was "
      "changed",
      why));
}

absl::StatusOr<bool> HasData(FileSystem& fs) {
  for (const std::string dir : {"log", "dead", "checkpoint"}) {
    const auto names = fs.List(dir);
    if (absl::IsNotFound(names.status())) continue;
    TOCSIN_RETURN_IF_ERROR(names.status());
    if (!names->empty()) return true;
  }
  return false;
}

absl::Status WriteManifest(FileSystem& fs, const Manifest& manifest) {
  absl::Status removed = fs.Remove(kTemp);
  if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
  {
    TOCSIN_ASSIGN_OR_RETURN(const auto file, fs.Create(kTemp));
    TOCSIN_RETURN_IF_ERROR(WriteOne(*file, 0, EncodeManifest(manifest)));
    TOCSIN_RETURN_IF_ERROR(file->SyncData());
  }
  TOCSIN_RETURN_IF_ERROR(fs.Rename(kTemp, kPath));
  return fs.SyncDir("");
}

}  // namespace

std::string Manifest::RawId() const {
  std::string raw;
  for (std::size_t i = 0; i + 1 < data_dir_id.size(); i += 2) {
    unsigned byte = 0;
    std::from_chars(data_dir_id.data() + i, data_dir_id.data() + i + 2, byte, 16);
    raw.push_back(static_cast<char>(byte));
  }
  return raw;
}

std::string EncodeManifest(const Manifest& m) {
  return fmt::format(
      "{{\n"
      "  \"format\": {},\n"
      "  \"created_by\": \"{}\",\n"
      "  \"data_dir_id\": \"{}\",\n"
      "  \"partitions\": {},\n"
      "  \"partitioner\": \"{}\",\n"
      "  \"hash_seed\": {},\n"
      "  \"crc32c\": {}\n"
      "}}\n",
      m.format, m.created_by, m.data_dir_id, m.partitions, m.partitioner, m.hash_seed,
      ManifestCrc(m));
}

absl::StatusOr<Manifest> DecodeManifest(const std::string& json) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (parser.parse(json).get(root) != simdjson::SUCCESS) return Damaged("not JSON");
  Manifest manifest;
  std::uint64_t format = 0;
  std::uint64_t partitions = 0;
  std::uint64_t crc = 0;
  std::string_view created_by;
  std::string_view id;
  std::string_view partitioner;
  if (root["format"].get(format) != simdjson::SUCCESS ||
      root["created_by"].get(created_by) != simdjson::SUCCESS) {
    return Damaged("no format or created_by");
  }
  manifest.format = static_cast<std::uint32_t>(format);
  manifest.created_by = std::string(created_by);
  // A later format may have other fields; the caller names both versions.
  if (manifest.format > kJournalFormat) return manifest;
  if (root["data_dir_id"].get(id) != simdjson::SUCCESS ||
      root["partitions"].get(partitions) != simdjson::SUCCESS ||
      root["partitioner"].get(partitioner) != simdjson::SUCCESS ||
      root["hash_seed"].get(manifest.hash_seed) != simdjson::SUCCESS ||
      root["crc32c"].get(crc) != simdjson::SUCCESS) {
    return Damaged("a field is missing");
  }
  manifest.data_dir_id = std::string(id);
  manifest.partitions = static_cast<std::uint32_t>(partitions);
  manifest.partitioner = std::string(partitioner);
  if (crc != ManifestCrc(manifest) || id.size() != 2 * kDataDirIdBytes) {
    return Damaged("its CRC does not fit");
  }
  return manifest;
}

absl::StatusOr<Manifest> OpenManifest(FileSystem& fs, Random& random, const ManifestWish& wish) {
  auto file = fs.Open(kPath);
  if (absl::IsNotFound(file.status())) {
    TOCSIN_ASSIGN_OR_RETURN(const bool has_data, HasData(fs));
    if (has_data) {
      return absl::DataLossError(
          "manifest.json is missing although the directory holds data; restore it from a copy of "
          "this data directory. Nothing was changed");
    }
    Manifest manifest;
    manifest.created_by = wish.version;
    manifest.data_dir_id = fmt::format("{:016x}{:016x}", random.Next(), random.Next());
    manifest.partitions = wish.partitions;
    manifest.hash_seed = random.Next();
    TOCSIN_RETURN_IF_ERROR(Annotate(WriteManifest(fs, manifest), "writing manifest.json"));
    return manifest;
  }
  TOCSIN_RETURN_IF_ERROR(file.status());
  TOCSIN_ASSIGN_OR_RETURN(const std::string json, ReadRange(**file, 0, kBytesMax));
  TOCSIN_ASSIGN_OR_RETURN(Manifest manifest, DecodeManifest(json));
  if (manifest.format > kJournalFormat) {
    return absl::FailedPreconditionError(fmt::format(
        "the data directory has format {}, made by version {}; this is version {}, which reads up "
        "to format {}: use the later version",
        manifest.format, manifest.created_by, wish.version, kJournalFormat));
  }
  if (manifest.partitions != wish.partitions) {
    return absl::FailedPreconditionError(
        fmt::format("the data directory has {} partitions and the configuration says {}; the "
                    "number is fixed once data exists: set partitions to {}",
                    manifest.partitions, wish.partitions, manifest.partitions));
  }
  if (manifest.partitioner != Manifest().partitioner) {
    return absl::FailedPreconditionError(
        fmt::format("the data directory's partitioner is '{}', which this version does not know",
                    manifest.partitioner));
  }
  return manifest;
}

}  // namespace tocsin

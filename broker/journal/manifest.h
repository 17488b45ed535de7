// manifest.json: what is fixed for the life of a data directory. Written once, by temp file, sync,
// rename, sync of the directory.

#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "broker/base/file_system.h"
#include "broker/base/random.h"

namespace tocsin {

struct Manifest {
  std::uint32_t format = 1;
  std::string created_by;   // the version that made it
  std::string data_dir_id;  // 32 hex digits
  std::uint32_t partitions = 0;
  std::string partitioner = "xxh3-64";  // partition of a key = its hash with seed 0 mod partitions
  std::uint64_t hash_seed = 0;          // of keys and ids in memory

  std::string RawId() const;  // data_dir_id as 16 bytes
};

struct ManifestWish {
  std::uint32_t partitions = 4;
  std::string version;
};

// Reads the manifest, or writes it if the directory holds no data yet.
//   kFailedPrecondition  a newer format (names both versions), another number of partitions (names
//                        both), another partitioner
//   kDataLoss            damaged, or missing although there is data: nothing was changed
//   kResourceExhausted   no space to write it
absl::StatusOr<Manifest> OpenManifest(FileSystem& fs, Random& random, const ManifestWish& wish);

std::string EncodeManifest(const Manifest& manifest);
// kDataLoss
absl::StatusOr<Manifest> DecodeManifest(const std::string& json);

}  // namespace tocsin

// RequestBatch: the events of one PublishRequest, as its fields one after the other, and whom to
// tell. Internal to sdk/cpp.
//
// The bytes are shared with gRPC, which may read them until after the answer; they are only changed
// while nobody else has them. Movable; not thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/cpp/publisher.h"

namespace tocsin::sdk::internal {

void AddVarint(std::uint64_t value, std::string* out);

class RequestBatch {
 public:
  std::uint64_t sequence = 0;
  bool part = false;  // sent although it had room for more

  std::size_t size() const { return ends_.size(); }
  const std::string& bytes() const { return *bytes_; }
  std::shared_ptr<const std::string> Share() const { return bytes_; }

  void Add(std::string_view encoded, PublishDone done);
  // An event that is a field already, of another batch.
  void AddField(std::string_view field, PublishDone done);

  std::string_view Field(std::size_t i) const;
  PublishDone& done(std::size_t i) { return dones_[i]; }

  // Without tags and lengths: of one event, of all.
  std::size_t EventBytes(std::size_t i) const;
  std::size_t EventBytes() const;

  // Takes a copy if the bytes are still shared, so that more can be added.
  void Own();
  // Empty again, with memory of at most `capacity_max` bytes.
  void Clear(std::size_t capacity_max);

 private:
  bool Owned() const;

  std::shared_ptr<std::string> bytes_ = std::make_shared<std::string>();
  std::vector<std::uint32_t> ends_;  // of the fields in `bytes`
  std::vector<PublishDone> dones_;   // parallel
};

}  // namespace tocsin::sdk::internal

#include "sdk/cpp/request_batch.h"

#include <atomic>
#include <utility>

namespace tocsin::sdk::internal {
namespace {

constexpr char kEventsTag = (2 << 3) | 2;  // of PublishRequest

}  // namespace

void AddVarint(std::uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

void RequestBatch::Add(std::string_view encoded, PublishDone done) {
  // The events are encoded already and are not decoded to be encoded again.
  bytes_->push_back(kEventsTag);
  AddVarint(encoded.size(), bytes_.get());
  bytes_->append(encoded);
  ends_.push_back(static_cast<std::uint32_t>(bytes_->size()));
  dones_.push_back(std::move(done));
}

void RequestBatch::AddField(std::string_view field, PublishDone done) {
  bytes_->append(field);
  ends_.push_back(static_cast<std::uint32_t>(bytes_->size()));
  dones_.push_back(std::move(done));
}

std::string_view RequestBatch::Field(std::size_t i) const {
  const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
  return std::string_view(*bytes_).substr(begin, ends_[i] - begin);
}

std::size_t RequestBatch::EventBytes(std::size_t i) const {
  const std::string_view field = Field(i);
  std::size_t header = 1;
  while ((field[header] & 0x80) != 0) ++header;
  return field.size() - header - 1;
}

std::size_t RequestBatch::EventBytes() const {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < size(); ++i) bytes += EventBytes(i);
  return bytes;
}

bool RequestBatch::Owned() const {
  if (bytes_.use_count() != 1) return false;
  std::atomic_thread_fence(std::memory_order_acquire);
  return true;
}

void RequestBatch::Own() {
  if (!Owned()) bytes_ = std::make_shared<std::string>(*bytes_);
}

void RequestBatch::Clear(std::size_t capacity_max) {
  if (!Owned() || bytes_->capacity() > capacity_max) bytes_ = std::make_shared<std::string>();
  bytes_->clear();
  ends_.clear();
  dones_.clear();
}

}  // namespace tocsin::sdk::internal

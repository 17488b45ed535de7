#include "dispatch/grpc/byte_buffer.h"

#include <utility>

namespace tocsin {

bool FlatBytes::Assign(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  if (!buffer.TrySingleSlice(&slice).ok() && !buffer.DumpToSingleSlice(&slice).ok()) return false;
  slice_ = std::make_shared<const grpc::Slice>(std::move(slice));
  // Taken from where it now lies: gRPC keeps small slices inside the object.
  bytes_ = {reinterpret_cast<const char*>(slice_->begin()), slice_->size()};
  return true;
}

grpc::Slice TakeSlice(std::string bytes, std::size_t begin) {
  auto* owner = new std::string(std::move(bytes));
  return grpc::Slice(
      owner->data() + begin, owner->size() - begin,
      [](void* data) { delete static_cast<std::string*>(data); }, owner);
}

grpc::ByteBuffer TakeByteBuffer(std::string bytes) {
  const grpc::Slice slice = TakeSlice(std::move(bytes));
  return grpc::ByteBuffer(&slice, 1);
}

grpc::Slice ReferToSlice(std::string_view bytes, std::shared_ptr<const std::string> keep_alive) {
  using Owner = std::shared_ptr<const std::string>;
  auto* owner = new Owner(std::move(keep_alive));
  return grpc::Slice(
      const_cast<char*>(bytes.data()), bytes.size(),
      [](void* data) { delete static_cast<Owner*>(data); }, owner);
}

}  // namespace tocsin

// Bytes to and from gRPC's ByteBuffers without a copy where there is a way.

#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <string>
#include <string_view>

namespace tocsin {

// The bytes of a received message, whole and in one piece. Copies may be kept by anyone who still
// reads from bytes().
class FlatBytes {
 public:
  // A buffer of one slice is referred to; one of many is copied once. False if gRPC could not
  // decode (decompress) it.
  bool Assign(const grpc::ByteBuffer& buffer);

  std::string_view bytes() const { return bytes_; }
  const std::shared_ptr<const grpc::Slice>& keep_alive() const { return slice_; }

 private:
  std::shared_ptr<const grpc::Slice> slice_;
  std::string_view bytes_;
};

// A message of `bytes` from `begin` on; the string is moved, not copied.
grpc::Slice TakeSlice(std::string bytes, std::size_t begin = 0);
grpc::ByteBuffer TakeByteBuffer(std::string bytes);

// Refers to `bytes`, which `keep_alive` keeps.
grpc::Slice ReferToSlice(std::string_view bytes, std::shared_ptr<const std::string> keep_alive);

}  // namespace tocsin

// Files and standard input, whole or in pieces; and events cut out of a stream of JSON.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tocsin::cli {

// `-` is standard input. Owns its descriptor.
class InputFile {
 public:
  InputFile() = default;
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&&) = delete;

  //   kNotFound, kPermissionDenied, kFailedPrecondition (a directory); the text names the path
  static absl::StatusOr<InputFile> Open(const std::string& path);

  // Appends up to 64 KiB to `buffer`; 0 at the end. Interrupted by a signal: 0 too.
  absl::StatusOr<std::size_t> Read(std::string& buffer);

  // Bytes of a regular file; 0 if not known.
  std::uint64_t size() const { return size_; }
  const std::string& name() const { return name_; }  // for messages

 private:
  int fd_ = -1;
  std::uint64_t size_ = 0;
  std::string name_;
};

//   kOutOfRange  longer than `bytes_max`
absl::StatusOr<std::string> ReadWhole(const std::string& path, std::size_t bytes_max);

// Replaces the file's content.
//   kPermissionDenied, kNotFound (the folder), kFailedPrecondition; the text names the path
absl::Status WriteWhole(const std::string& path, std::string_view text);

// Cuts a stream of JSON into the texts of its objects, whichever way they come: one object, an
// array of objects, or one after the other (as in JSON lines), also in pieces at any byte. Only the
// brackets are looked at; what is inside is the parser's. Bounded by the longest object.
class ObjectSplitter {
 public:
  explicit ObjectSplitter(std::size_t object_bytes_max) : object_bytes_max_(object_bytes_max) {}

  struct Object {
    std::string text;
    std::uint64_t line = 1;  // where it begins
  };

  void Feed(std::string_view bytes);

  // True and `object` filled, or false: more bytes are needed.
  //   kInvalidArgument  something that is no object where one belongs; the text has the line
  //   kOutOfRange       an object over the limit
  absl::StatusOr<bool> Next(Object& object);

  // After the last byte.
  //   kInvalidArgument  inside an object or an array
  absl::Status End() const;

 private:
  absl::Status Wrong(std::string_view what) const;

  enum class Where { kStart, kBetween, kAfterArray };

  std::size_t object_bytes_max_;
  std::string buffer_;
  std::size_t next_ = 0;  // the first byte not looked at

  // Of the object that is open.
  bool inside_ = false;
  std::size_t begin_ = 0;
  std::uint64_t begin_line_ = 1;
  std::size_t depth_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;

  Where where_ = Where::kStart;
  bool in_array_ = false;
  bool comma_needed_ = false;
  bool element_needed_ = false;
  std::uint64_t line_ = 1;
};

}  // namespace tocsin::cli

// The parts of SystemTree; private to system_tree*.cc.

#pragma once

#include <unistd.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "connectors/file/directory_tree.h"

namespace tocsin {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }

  int get() const { return number_; }
  bool valid() const { return number_ >= 0; }
  int Release() { return std::exchange(number_, -1); }

 private:
  int number_ = -1;
};

class SystemTree final : public DirectoryTree {
 public:
  SystemTree(std::string root, const Clock& clock, Descriptor wake)
      : root_path_(std::move(root)), clock_(clock), wake_(std::move(wake)) {}

  absl::StatusOr<TreeRoot> Open() override;
  absl::StatusOr<std::vector<TreeEntry>> List(const std::string& directory) override;
  absl::StatusOr<FileFacts> Facts(const std::string& path) override;
  WriterState Writer(const std::string& path) override;
  absl::Status Watch(const std::string& directory) override;
  void ForgetWatches() override;
  void Wait(Instant until, std::vector<TreeChange>& changes) override;
  void Interrupt() override;
  absl::Status Remove(const std::string& path, const FileFacts& facts) override;
  absl::Status MoveTo(const std::string& path, const FileFacts& facts,
                      const std::string& directory) override;

 private:
  // The directory that holds the last name of `path`, and that name.
  struct Place {
    Descriptor directory;
    std::string name;
  };
  absl::StatusOr<Descriptor> OpenDirectory(int base, std::string_view path, bool make) const;
  absl::StatusOr<Place> Find(const std::string& path) const;
  absl::StatusOr<FileFacts> FactsAt(int directory, const std::string& name) const;
  absl::Status CheckSame(const Place& place, const std::string& path, const FileFacts& facts) const;
  absl::Status ErrnoStatus(int error, std::string_view what, std::string_view path) const;
  void ReadEvents(std::vector<TreeChange>& changes);
  void Translate(int watch, std::uint32_t mask, std::string_view name,
                 std::vector<TreeChange>& changes);

  const std::string root_path_;
  const Clock& clock_;
  const Descriptor wake_;  // eventfd
  Descriptor root_;
  std::uint64_t root_device_ = 0;
  bool leases_ = false;
  Descriptor inotify_;
  std::map<int, std::string> watched_;  // watch descriptor -> directory
};

}  // namespace tocsin

#include "broker/journal/checkpoint_store.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "broker/base/crc32c.h"
#include "broker/base/status.h"
#include "broker/journal/batch_header.h"
#include "broker/journal/segment.h"

namespace tocsin {
namespace {

constexpr char kDir[] = "checkpoint";
constexpr std::size_t kDeltasMax = 8;
constexpr std::size_t kCommitBytes = 16;

template <typename T>
void Put(std::string& out, T value) {
  std::array<char, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}

template <typename T>
bool Get(std::string_view& bytes, T& value) {
  if (bytes.size() < sizeof(T)) return false;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return true;
}

}  // namespace

CheckpointStore::CheckpointStore(FileSystem& fs, Quarantine& quarantine, PartitionId partition,
                                 std::size_t piece_bytes)
    : fs_(fs), quarantine_(quarantine), partition_(partition), piece_bytes_(piece_bytes) {}

std::string CheckpointStore::Path(std::uint64_t sequence, const char* suffix) const {
  return fmt::format("{}/{:08x}-{:016x}.{}", kDir, partition_.value(), sequence, suffix);
}

absl::StatusOr<LargeBuffer> CheckpointStore::ReadFile(std::uint64_t sequence) const {
  TOCSIN_ASSIGN_OR_RETURN(const auto file, fs_.Open(Path(sequence, "ckpt")));
  TOCSIN_ASSIGN_OR_RETURN(const std::uint64_t size, file->Size());
  return ReadLarge(*file, 0, size);
}

// Goes through the file's batches to the last readable commit; `pages`, if given, gets what counts.
CheckpointStore::StoredFile CheckpointStore::Parse(std::string_view content, Pages* pages) {
  StoredFile file;
  file.clean = false;
  std::uint64_t at = 0;
  std::uint32_t prev_crc = 0;
  std::vector<CheckpointPage> waiting;
  bool base = false;
  while (true) {
    if (at == content.size()) {
      file.clean = waiting.empty();
      break;
    }
    BatchHeader header;
    const std::string_view rest = content.substr(static_cast<std::size_t>(at));
    if (DecodeBatchHeader(AsBytes(rest), at, header) != HeaderCheck::kValid ||
        header.end() > content.size() || header.prev_header_crc != prev_crc) {
      break;
    }
    std::string_view body = rest.substr(kBatchHeaderBytes, header.body_bytes);
    if (Crc32c(AsBytes(body)) != header.body_crc) break;
    if ((header.flags & kFlagCheckpointCommit) != 0) {
      Commit commit;
      std::uint64_t replay_from = 0;
      std::uint64_t log_synced = 0;
      if (!Get(body, replay_from) || !Get(body, log_synced)) break;
      commit = {header.end(), replay_from, log_synced, header.epoch};
      if (file.commits.empty()) file.base_bytes = header.end();
      base = file.commits.empty();
      file.commits.push_back(commit);
      file.last_header_crc = header.header_crc;
      if (pages != nullptr) {
        if (base) pages->clear();
        for (CheckpointPage& page : waiting) {
          const std::pair key(page.table, page.page);
          if (page.bytes.empty()) {
            pages->erase(key);
          } else {
            (*pages)[key] = std::move(page.bytes);
          }
        }
      }
      waiting.clear();
    } else {
      bool whole = true;
      while (!body.empty()) {
        CheckpointPage page;
        std::uint32_t length = 0;
        if (!Get(body, page.table) || !Get(body, page.page) || !Get(body, length) ||
            length > body.size()) {
          whole = false;
          break;
        }
        if (pages != nullptr) page.bytes = std::string(body.substr(0, length));
        body.remove_prefix(length);
        waiting.push_back(std::move(page));
      }
      if (!whole) break;
    }
    prev_crc = header.header_crc;
    at = header.end();
  }
  return file;
}

absl::Status CheckpointStore::Recover(std::size_t& keep_bytes) {
  files_.clear();
  kept_.reset();
  appendable_ = false;
  auto names = fs_.List(kDir);
  if (absl::IsNotFound(names.status())) return absl::OkStatus();
  TOCSIN_RETURN_IF_ERROR(names.status());
  const std::string prefix = fmt::format("{:08x}-", partition_.value());
  for (const std::string& name : *names) {
    if (!name.starts_with(prefix) || name.size() < prefix.size() + 16) continue;
    std::uint64_t sequence = 0;
    const char* digits = name.data() + prefix.size();
    if (std::from_chars(digits, digits + 16, sequence, 16).ptr != digits + 16) continue;
    if (name.ends_with(".tmp")) {
      TOCSIN_RETURN_IF_ERROR(fs_.Remove(fmt::format("{}/{}", kDir, name)));
      continue;
    }
    if (!name.ends_with(".ckpt")) continue;
    StoredFile file;
    if (auto content = ReadFile(sequence); content.ok()) {
      file = Parse(content->view(), nullptr);
      if (!file.commits.empty()) Keep(sequence, *std::move(content), keep_bytes);
    } else {
      file.error = std::string(MessageOf(content.status()));
    }
    file.sequence = sequence;
    files_.push_back(std::move(file));
  }
  return absl::OkStatus();
}

void CheckpointStore::Keep(std::uint64_t sequence, LargeBuffer content, std::size_t& bytes) {
  if (kept_) bytes += kept_->content.size();
  kept_.reset();
  if (content.size() > bytes) return;
  bytes -= content.size();
  kept_ = Kept{sequence, std::move(content)};
}

std::uint64_t CheckpointStore::log_synced() const {
  std::uint64_t synced = 0;
  for (const StoredFile& file : files_) {
    for (const Commit& commit : file.commits) synced = std::max(synced, commit.log_synced);
  }
  return synced;
}

std::uint32_t CheckpointStore::epoch_max() const {
  std::uint32_t epoch = 0;
  for (const StoredFile& file : files_) {
    for (const Commit& commit : file.commits) epoch = std::max(epoch, commit.epoch);
  }
  return epoch;
}

absl::StatusOr<CheckpointStore::Pages> CheckpointStore::LoadPages(const StoredFile& file,
                                                                  std::optional<Kept> kept) const {
  LargeBuffer content;
  if (kept && kept->sequence == file.sequence) {
    content = std::move(kept->content);
  } else {
    kept.reset();
    TOCSIN_ASSIGN_OR_RETURN(content, ReadFile(file.sequence));
  }
  Pages pages;
  const StoredFile again = Parse(content.view(), &pages);
  if (again.commits.size() != file.commits.size()) {
    return absl::DataLossError(
        fmt::format("{} changed while it was read", Path(file.sequence, "ckpt")));
  }
  return pages;
}

absl::StatusOr<std::optional<Checkpoint>> CheckpointStore::Load(
    std::uint64_t log_start, std::vector<std::string>& warnings) {
  std::optional<Kept> kept = std::exchange(kept_, std::nullopt);
  if (files_.empty()) return std::optional<Checkpoint>();
  std::string reasons;
  const auto skip = [&](const StoredFile& file, std::string_view why) {
    reasons += fmt::format("{}{} {}", reasons.empty() ? "" : ", ", file.sequence, why);
    warnings.push_back(fmt::format("{} {}; the checkpoint before it is looked for",
                                   Path(file.sequence, "ckpt"), why));
  };
  for (std::size_t i = files_.size(); i-- > 0;) {
    const StoredFile& file = files_[i];
    if (!file.error.empty()) {
      skip(file, fmt::format("cannot be read ({})", file.error));
      continue;
    }
    if (file.commits.empty() || file.commits.back().replay_from < log_start) {
      skip(file,
           file.commits.empty() ? "is damaged" : "is damaged behind a commit that is too old");
      continue;
    }
    auto pages = LoadPages(file, std::exchange(kept, std::nullopt));
    if (!pages.ok()) {
      skip(file, fmt::format("cannot be read ({})", MessageOf(pages.status())));
      continue;
    }
    if (!file.clean) {
      warnings.push_back(
          fmt::format("{} ends in a checkpoint that is unfinished or damaged; using the one "
                      "before it",
                      Path(file.sequence, "ckpt")));
    }
    for (std::size_t newer = i + 1; newer < files_.size(); ++newer) {
      files_[newer].commits.clear();
      appendable_ = false;
    }
    Checkpoint checkpoint{JournalPosition(file.commits.back().replay_from), {}};
    checkpoint.pages.reserve(pages->size());
    for (auto& [key, bytes] : *pages) {
      checkpoint.pages.push_back({key.first, key.second, std::move(bytes)});
    }
    return std::optional<Checkpoint>(std::move(checkpoint));
  }
  return absl::DataLossError(
      fmt::format("no checkpoint of partition {} can be read ({}): restore {}/{:08x}-* from a copy "
                  "of this data directory. Nothing was changed",
                  partition_.value(), reasons, kDir, partition_.value()));
}

std::uint64_t CheckpointStore::trim_limit() const {
  // The newest readable one, then the one before it.
  std::size_t readable = 0;
  for (std::size_t i = files_.size(); i-- > 0;) {
    if (files_[i].commits.empty()) continue;
    if (++readable == 2) return files_[i].commits.back().replay_from;
  }
  return 0;
}

bool CheckpointStore::MustRebase(const CheckpointDelta& delta) const {
  if (delta.base || !appendable_ || trim_limit() == 0) return true;
  const StoredFile& file = files_.back();
  return file.commits.size() > kDeltasMax ||
         file.commits.back().end - file.base_bytes > file.base_bytes / 2;
}

void CheckpointStore::AddBatch(Write& write, std::uint8_t flags, const CheckpointDelta& delta,
                               const std::string& body) {
  BatchHeader header;
  header.flags = flags;
  header.partition = partition_.value();
  header.epoch = delta.epoch.value();
  header.log_position = write.commit.end;
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.synced_through = write.position;
  header.prev_header_crc = write.last_header_crc;
  header.body_crc = Crc32c(AsBytes(body));
  std::string batch(kBatchHeaderBytes, '\0');
  EncodeBatchHeader(header, reinterpret_cast<std::byte*>(batch.data()));
  batch += body;
  write.last_header_crc = header.header_crc;
  write.commit.end += batch.size();
  write.batches.push_back(std::move(batch));
}

absl::Status CheckpointStore::Begin(Request request) {
  if (write_) return absl::FailedPreconditionError("a checkpoint is being written already");
  CheckpointDelta& delta = request.delta;
  Write write;
  write.new_file = MustRebase(delta);
  Pages pages;
  if (write.new_file) {
    const auto newest = std::find_if(files_.rbegin(), files_.rend(),
                                     [](const StoredFile& file) { return !file.commits.empty(); });
    if (!delta.base && newest != files_.rend()) {
      TOCSIN_ASSIGN_OR_RETURN(pages, LoadPages(*newest, std::nullopt));
    }
    for (CheckpointPage& page : delta.pages) {
      const std::pair key(page.table, page.page);
      if (page.bytes.empty()) {
        pages.erase(key);
      } else {
        pages[key] = std::move(page.bytes);
      }
    }
    write.sequence = files_.empty() ? 1 : files_.back().sequence + 1;
    TOCSIN_RETURN_IF_ERROR(fs_.CreateDir(kDir));
    TOCSIN_RETURN_IF_ERROR(fs_.SyncDir(""));
    const std::string temp = Path(write.sequence, "tmp");
    fs_.Remove(temp).IgnoreError();
    TOCSIN_ASSIGN_OR_RETURN(write.file, fs_.Create(temp));
  } else {
    for (CheckpointPage& page : delta.pages) {
      pages[{page.table, page.page}] = std::move(page.bytes);
    }
    const StoredFile& file = files_.back();
    write.sequence = file.sequence;
    write.position = file.commits.back().end;
    write.last_header_crc = file.last_header_crc;
    TOCSIN_ASSIGN_OR_RETURN(write.file, fs_.Open(Path(file.sequence, "ckpt")));
  }
  write.commit = {write.position, request.replay_from, request.log_synced, delta.epoch.value()};
  std::string body;
  // Freed as they are taken over: there may be many.
  for (auto page = pages.begin(); page != pages.end(); page = pages.erase(page)) {
    const auto& [key, bytes] = *page;
    if (!body.empty() && body.size() + bytes.size() > piece_bytes_) {
      AddBatch(write, kFlagCheckpointPages, delta, body);
      body.clear();
    }
    Put(body, key.first);
    Put(body, key.second);
    Put(body, static_cast<std::uint32_t>(bytes.size()));
    body += bytes;
  }
  if (!body.empty()) AddBatch(write, kFlagCheckpointPages, delta, body);
  std::string commit;
  commit.reserve(kCommitBytes);
  Put(commit, request.replay_from);
  Put(commit, request.log_synced);
  AddBatch(write, kFlagCheckpointCommit, delta, commit);
  write_ = std::move(write);
  return absl::OkStatus();
}

absl::StatusOr<CheckpointStore::Progress> CheckpointStore::Step() {
  Write& write = *write_;
  const std::string batch = std::move(write.batches[write.next]);
  absl::Status status = WriteOne(*write.file, write.position, batch);
  if (status.ok()) status = write.file->SyncData();
  Progress progress{false, batch.size()};
  if (status.ok()) {
    write.position += batch.size();
    if (++write.next == write.batches.size()) {
      status = Finish();
      progress.finished = true;
    }
  }
  if (!status.ok()) {
    Cancel();
    return status;
  }
  if (progress.finished) write_.reset();
  return progress;
}

void CheckpointStore::Cancel() {
  if (!write_) return;
  // The file may have a torn tail now, or pages that were never synced: it is not appended to.
  if (write_->new_file) {
    write_->file.reset();
    fs_.Remove(Path(write_->sequence, "tmp")).IgnoreError();
  } else {
    appendable_ = false;
  }
  write_.reset();
}

absl::Status CheckpointStore::Finish() {
  Write& write = *write_;
  if (!write.new_file) {
    files_.back().commits.push_back(write.commit);
    files_.back().last_header_crc = write.last_header_crc;
    return absl::OkStatus();
  }
  TOCSIN_RETURN_IF_ERROR(fs_.Rename(Path(write.sequence, "tmp"), Path(write.sequence, "ckpt")));
  StoredFile file;
  file.sequence = write.sequence;
  file.commits.push_back(write.commit);
  file.base_bytes = write.commit.end;
  file.last_header_crc = write.last_header_crc;
  appendable_ = false;
  TOCSIN_RETURN_IF_ERROR(fs_.SyncDir(kDir));
  files_.push_back(std::move(file));
  appendable_ = true;
  // Only now, with the new one durable, may the oldest go; what cannot be read is kept aside. What
  // cannot be removed is met again after the next restart.
  std::vector<StoredFile> kept;
  for (std::size_t i = files_.size(); i-- > 0;) {
    const std::string path = Path(files_[i].sequence, "ckpt");
    if (files_[i].commits.empty()) {
      quarantine_.Move(path, path.substr(path.find('/') + 1)).IgnoreError();
    } else if (kept.size() >= 2) {
      fs_.Remove(path).IgnoreError();
    } else {
      kept.push_back(std::move(files_[i]));
    }
  }
  std::reverse(kept.begin(), kept.end());
  files_ = std::move(kept);
  return absl::OkStatus();
}

}  // namespace tocsin

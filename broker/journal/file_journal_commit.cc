// FileJournalEngine: the committer.

#include <algorithm>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/crc32c.h"
#include "broker/base/status.h"
#include "broker/journal/file_journal_engine.h"
#include "broker/journal/record.h"

namespace tocsin {
namespace {

constexpr Duration kRollsFast = std::chrono::seconds(1);
// Owners of a group up to this size are served by the committer itself if nothing else is to be
// written: that is less than waking them.
constexpr std::size_t kHereBytesMax = 16 * 1024;

std::int64_t WallUs(const Clock& clock) { return clock.Wall().time_since_epoch().count(); }

void Tell(std::vector<Notify>& notify, const absl::Status& status) {
  for (Notify& one : notify) one(status);
  notify.clear();
}

}  // namespace

void FileJournalEngine::Append(RecordBatch batch, AppendDone done) {
  TOCSIN_CHECK(batch.body != nullptr, "a batch without a body");
  Item item;
  // Here, on the owner's thread, not on the one that all partitions share.
  item.body_crc = Crc32c(AsBytes(*batch.body));
  for (const LetterPut& letter : batch.letters) item.letters.push_back(EncodeLetter(letter));
  {
    const MutexLock lock(mutex_);
    const Partition& partition = Find(batch.partition);
    TOCSIN_CHECK(partition.owner != nullptr, "partition {} is not open", batch.partition.value());
    item.owner = partition.owner;
    item.refusals_heard = *partition.refusals_heard;
  }
  item.batch = std::move(batch);
  item.done = std::move(done);
  Enqueue(std::move(item));
}

void FileJournalEngine::Enqueue(Item item) {
  const MutexLock lock(mutex_);
  pending_.push_back(std::move(item));
  if (commit_posted_) return;
  commit_posted_ = true;
  committer_.Follow([this] { Commit(); });
}

void FileJournalEngine::Commit() {
  {
    const MutexLock lock(mutex_);
    for (Item& item : pending_) backlog_.push_back(std::move(item));
    pending_.clear();
    if (backlog_.empty()) {
      commit_posted_ = false;
      return;
    }
  }
  // One group per task; what arrives during it is the next one.
  absl::Status clean = main_->Clean();
  if (clean.ok()) clean = dead_->Clean();
  if (failed_) {
    RefuseBacklog(absl::UnavailableError("the journal failed and is read-only until the restart"));
  } else if (absl::IsResourceExhausted(clean)) {
    RefuseBacklog(clean);
  } else if (!clean.ok()) {
    failed_ = true;
    RefuseBacklog(absl::UnavailableError(std::string(MessageOf(clean))));
    Fail(clean);
  } else {
    Fate fate = Fate::kTaken;
    while (!backlog_.empty()) {
      fate = Admit(backlog_.front());
      if (fate == Fate::kGroupFull || fate == Fate::kWait) break;
      group_.push_back(std::move(backlog_.front()));
      backlog_.pop_front();
    }
    std::vector<Item> group;
    group.swap(group_);
    // An opening is no short thing to tell: its owner recovers next.
    const bool small = std::exchange(group_bytes_, 0) <= kHereBytesMax &&
                       std::none_of(group.begin(), group.end(), [](const Item& item) {
                         return item.open_done || !item.letters.empty();
                       });
    const absl::Status status = main_->group_empty() ? absl::OkStatus() : WriteGroup(group);
    if (!status.ok()) {
      const bool full = absl::IsResourceExhausted(status);
      if (full) {
        TakeBack(group, status);
      } else {
        for (Item& item : group) {
          if (!item.result.ok()) continue;
          item.result = absl::UnknownError(fmt::format(
              "whether the batch is durable is known after a restart: {}", MessageOf(status)));
        }
      }
      if (!full) failed_ = true;
    }
    Answer(std::move(group), small);
    if (failed_) Fail(status);
    if (fate == Fate::kWait && status.ok()) {
      if (prepare_error_) {
        const absl::Status error = *std::exchange(prepare_error_, std::nullopt);
        if (absl::IsResourceExhausted(error)) {
          RefuseBacklog(error);
        } else {
          failed_ = true;
          RefuseBacklog(absl::UnavailableError(std::string(MessageOf(error))));
          Fail(error);
        }
      } else {
        WaitForSegment(main_->prepared() == 0 ? *main_ : *dead_);
        return;  // the preparation goes on with Commit()
      }
    }
  }
  {
    const MutexLock lock(mutex_);
    if (pending_.empty() && backlog_.empty()) {
      commit_posted_ = false;
      return;
    }
  }
  committer_.Post([this] { Commit(); });
}

// Without a prepared segment: the background makes one, and comes back.
void FileJournalEngine::WaitForSegment(Chain& chain) {
  background_.Post([this, &chain] {
    absl::Status status = PrepareChain(chain);
    committer_.Post([this, status = std::move(status)] {
      if (!status.ok()) prepare_error_ = status;
      Commit();
    });
  });
}

absl::Status FileJournalEngine::CheckItem(Item& item) {
  RecordBatch& batch = item.batch;
  const MutexLock lock(mutex_);
  Partition& partition = Find(batch.partition);
  if (item.open_done) {
    ++partition.epoch;
    *partition.refusals_heard = partition.refusals;
    item.opened.epoch = Epoch(partition.epoch);
    item.opened.next_offset = Offset(partition.next_offset);
    std::string body;
    RecordWriter(body).Add(RecordType::kOwnerOpened,
                           OwnerOpened{item.opened.epoch, options_.version}.Encode());
    batch.epoch = item.opened.epoch;
    batch.base_offset = Offset(partition.next_offset);
    batch.record_count = 1;
    batch.append_time_us = std::max(partition.append_time_us, WallUs(clock_));
    batch.body = std::make_shared<const std::string>(std::move(body));
    item.body_crc = Crc32c(AsBytes(*batch.body));
    return absl::OkStatus();
  }
  if (batch.epoch.value() != partition.epoch) {
    return absl::AbortedError(fmt::format("partition {} was opened again: epoch {} is now {}",
                                          batch.partition.value(), batch.epoch.value(),
                                          partition.epoch));
  }
  if (batch.base_offset.value() < partition.next_offset) {
    return absl::InvalidArgumentError(
        fmt::format("offset {} of partition {} is used: the next one is {}",
                    batch.base_offset.value(), batch.partition.value(), partition.next_offset));
  }
  absl::Status space = CheckSpaceFor(item);
  if (space.ok() && item.refusals_heard < partition.refusals) {
    space = absl::ResourceExhaustedError("a batch before this one was refused");
  }
  if (!space.ok()) {
    Refuse(partition, item, space);
    ++refused_;
  }
  return space;
}

void FileJournalEngine::Refuse(Partition& partition, Item& item, const absl::Status& status) {
  item.result = status;
  if (item.open_done) return;
  // Those that were under way when one was refused share its number.
  if (item.refusals_heard == partition.refusals) ++partition.refusals;
  item.refusals_heard = partition.refusals;
  item.heard = partition.refusals_heard;
}

absl::Status FileJournalEngine::CheckSpaceFor(const Item& item) {
  const RecordBatch& batch = item.batch;
  if (batch.body->size() > options_.batch_bytes_max) {
    return absl::ResourceExhaustedError(fmt::format("a batch of {} bytes is over the limit of {}",
                                                    batch.body->size(), options_.batch_bytes_max));
  }
  std::uint64_t letter_bytes = 0;
  for (const std::string& letter : item.letters) letter_bytes += kBatchHeaderBytes + letter.size();
  if (letter_bytes > dead_->batch_bytes_max()) {
    return absl::ResourceExhaustedError(
        fmt::format("{} bytes of dead letters in one batch are over the limit of {}", letter_bytes,
                    dead_->batch_bytes_max()));
  }
  if (reserve_only_ && batch.event_count > 0 && !batch.may_use_reserve) {
    if (!space_check_posted_.exchange(true)) {
      background_.Post([this] {
        space_check_posted_ = false;
        CheckSpace();
      });
    }
    return absl::ResourceExhaustedError(
        fmt::format("the disk is nearly full: what is left ({} bytes) is kept for settlements",
                    free_bytes_.load()));
  }
  return absl::OkStatus();
}

// Room for `bytes` in the chain's group; else `fate` says what to do first.
bool FileJournalEngine::MakeRoom(Chain& chain, std::uint64_t bytes, Fate& fate) {
  if (chain.Fits(bytes)) return true;
  // A group is in one segment of each log, so the group so far goes first.
  if (!group_.empty()) {
    fate = Fate::kGroupFull;
    return false;
  }
  if (chain.Roll()) {
    if (&chain == main_.get()) NoteRoll();
    background_.Post([this] { PrepareNow(); });
    if (chain.Fits(bytes)) return true;
  }
  fate = Fate::kWait;
  return false;
}

// Above a certain rate the disk's bandwidth is what counts, not how fast a sync is: groups are long
// then, and zeros would be written for nothing.
void FileJournalEngine::NoteRoll() {
  const Instant now = clock_.Monotonic();
  rolls_fast_ = now - last_roll_ < kRollsFast;
  last_roll_ = now;
}

FileJournalEngine::Fate FileJournalEngine::Admit(Item& item) {
  const std::size_t body_bytes = item.batch.body ? item.batch.body->size() : 0;
  if (!group_.empty() && group_bytes_ + body_bytes > options_.group_bytes_max) {
    return Fate::kGroupFull;
  }
  std::uint64_t letter_bytes = 0;
  for (const std::string& letter : item.letters) letter_bytes += kBatchHeaderBytes + letter.size();
  // Room first, for an opening takes its epoch only when it is certain to be written now; 64 bytes
  // hold any OwnerOpened but for the version.
  const std::uint64_t bytes =
      kBatchHeaderBytes + (item.open_done ? 64 + options_.version.size() : body_bytes);
  Fate fate = Fate::kTaken;
  const bool possible =
      bytes <= main_->batch_bytes_max() && letter_bytes <= dead_->batch_bytes_max();
  if (possible && (!MakeRoom(*main_, bytes, fate) ||
                   (letter_bytes > 0 && !MakeRoom(*dead_, letter_bytes, fate)))) {
    return fate;
  }
  if (const absl::Status status = CheckItem(item); !status.ok()) {
    item.result = status;
    return Fate::kRefused;
  }
  PutLetters(item);
  const RecordBatch& batch = item.batch;
  BatchHeader header;
  header.partition = batch.partition.value();
  header.epoch = batch.epoch.value();
  header.base_offset = batch.base_offset.value();
  header.event_count = batch.event_count;
  header.record_count = batch.record_count;
  header.append_time_us = batch.append_time_us;
  header.body_crc = item.body_crc;
  item.result->position = JournalPosition(main_->Add(header, *batch.body));
  item.result->end =
      JournalPosition(item.result->position.value() + kBatchHeaderBytes + batch.body->size());
  group_bytes_ += batch.body->size();
  const MutexLock lock(mutex_);
  Partition& partition = Find(batch.partition);
  partition.next_offset = batch.base_offset.value() + batch.event_count;
  partition.append_time_us = batch.append_time_us;
  return Fate::kTaken;
}

void FileJournalEngine::PutLetters(Item& item) {
  for (const std::string& letter : item.letters) {
    BatchHeader header;
    header.flags = kFlagLetter;
    header.partition = item.batch.partition.value();
    header.epoch = item.batch.epoch.value();
    header.record_count = 1;
    header.append_time_us = item.batch.append_time_us;
    header.body_crc = Crc32c(AsBytes(letter));
    item.result->letters.emplace_back(dead_->Add(header, letter));
  }
}

absl::Status FileJournalEngine::WriteGroup(std::vector<Item>& group) {
  // Letters first: a settlement that says "dead" must find its letter.
  absl::Status letters = dead_->Write();
  if (letters.ok()) letters = dead_->Sync();
  if (!letters.ok()) {
    main_->Abandon();
    return letters;
  }
  TOCSIN_RETURN_IF_ERROR(main_->Write());
  for (Item& item : group) {
    if (item.result.ok()) Tell(item.batch.notify_written, absl::OkStatus());
  }
  TOCSIN_RETURN_IF_ERROR(main_->Sync());
  ++groups_;
  return absl::OkStatus();
}

// A group that was refused as a whole: its offsets are free again, and asked for again in order.
void FileJournalEngine::TakeBack(std::vector<Item>& group, const absl::Status& status) {
  const MutexLock lock(mutex_);
  for (Item& item : group) {
    if (!item.result.ok()) continue;
    Partition& partition = Find(item.batch.partition);
    partition.next_offset = std::min(partition.next_offset, item.batch.base_offset.value());
    Refuse(partition, item, status);
    ++refused_;
  }
}

void FileJournalEngine::RefuseBacklog(const absl::Status& status) {
  std::vector<Item> items;
  for (Item& item : backlog_) {
    item.result = status;
    if (absl::IsResourceExhausted(status)) {
      const MutexLock lock(mutex_);
      Refuse(Find(item.batch.partition), item, status);
      ++refused_;
    }
    items.push_back(std::move(item));
  }
  backlog_.clear();
  Answer(std::move(items), false);
}

bool FileJournalEngine::NothingWaits() {
  if (!backlog_.empty()) return false;
  const MutexLock lock(mutex_);
  return pending_.empty();
}

void FileJournalEngine::Answer(std::vector<Item> items, bool small) {
  for (Item& item : items) {
    if (item.open_done) {
      const MutexLock lock(mutex_);
      --Find(item.batch.partition).openings;
    }
    if (item.result.ok()) ++batches_;
    const absl::Status& status = item.result.status();
    Tell(item.batch.notify_written, status);  // unless they were told when it was written
    Tell(item.batch.notify, status);
  }
  // One task per owner, not per batch; in the order in which they come, which a run repeats.
  std::vector<std::pair<Executor*, std::vector<Item>>> by_owner;
  for (Item& item : items) {
    auto own = std::find_if(by_owner.begin(), by_owner.end(),
                            [&item](const auto& one) { return one.first == item.owner; });
    if (own == by_owner.end()) own = by_owner.emplace(own, item.owner, std::vector<Item>());
    own->second.push_back(std::move(item));
  }
  for (auto& [owner, own] : by_owner) {
    Task tell = [own = std::move(own)]() mutable {
      for (Item& item : own) {
        if (item.heard != nullptr) *item.heard = item.refusals_heard;
        if (!item.open_done) {
          item.done(std::move(item.result));
        } else if (item.result.ok()) {
          item.opened.end = item.result->end;
          item.open_done(std::move(item.opened));
        } else {
          item.open_done(item.result.status());
        }
      }
    };
    if (small && NothingWaits()) {
      owner->Dispatch(std::move(tell));
    } else {
      owner->Post(std::move(tell));
    }
  }
}

void FileJournalEngine::Fail(const absl::Status& status) {
  if (std::exchange(fatal_told_, true)) return;
  if (options_.on_fatal) options_.on_fatal(status);
}

}  // namespace tocsin

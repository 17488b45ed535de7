#include "broker/journal/file_journal.h"

#include <algorithm>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/journal/file_journal_engine.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kPartitionsMax = 64;
constexpr std::uint32_t kEpochsSkipped = 1024;
constexpr std::uint64_t kEventBytesMin = 16;  // no event's record is shorter

FileJournalOptions Sane(FileJournalOptions options) {
  TOCSIN_CHECK(options.partitions >= 1 && options.partitions <= kPartitionsMax, "{} partitions",
               options.partitions);
  const std::uint64_t room = options.segment_bytes - kSegmentHeaderBytes - kBatchHeaderBytes;
  TOCSIN_CHECK(options.segment_bytes >= 2 * kSegmentHeaderBytes &&
               options.letter_segment_bytes >= 2 * kSegmentHeaderBytes);
  options.batch_bytes_max =
      static_cast<std::size_t>(std::min<std::uint64_t>(options.batch_bytes_max, room));
  return options;
}

}  // namespace

FileJournalEngine::FileJournalEngine(FileJournalOptions options, FileJournalPorts ports)
    : options_(Sane(std::move(options))),
      fs_(ports.fs),
      clock_(ports.clock),
      random_(ports.random),
      committer_(ports.committer),
      reader_(ports.reader),
      background_(ports.background),
      quarantine_(fs_, options_.quarantine_bytes_max) {}

FileJournalEngine::~FileJournalEngine() = default;

absl::Status FileJournalEngine::Recover() {
  TOCSIN_ASSIGN_OR_RETURN(lock_, fs_.Lock("lock"));
  TOCSIN_ASSIGN_OR_RETURN(
      manifest_, OpenManifest(fs_, random_, ManifestWish{options_.partitions, options_.version}));
  TOCSIN_RETURN_IF_ERROR(quarantine_.Open());

  std::uint64_t known_synced = 0;
  std::size_t keep_bytes = options_.checkpoints_kept_max;
  const MutexLock lock(mutex_);
  for (std::uint32_t i = 0; i < manifest_.partitions; ++i) {
    const PartitionId id(i);
    Partition& partition = partitions_[id];
    partition.checkpoints =
        std::make_unique<CheckpointStore>(fs_, quarantine_, id, options_.checkpoint_piece_bytes);
    TOCSIN_RETURN_IF_ERROR(Annotate(partition.checkpoints->Recover(keep_bytes),
                                    fmt::format("checkpoints of partition {}", i)));
    known_synced = std::max(known_synced, partition.checkpoints->log_synced());
    partition.epoch = partition.checkpoints->epoch_max();
  }

  ChainOptions chain;
  chain.data_dir_id = manifest_.RawId();
  chain.degraded = options_.degraded;
  chain.dir = "log";
  chain.segment_bytes = options_.segment_bytes;
  chain.segments_ahead = options_.segments_ahead;
  main_ = std::make_unique<Chain>(fs_, quarantine_, chain);
  chain.dir = "dead";
  chain.segment_bytes = options_.letter_segment_bytes;
  chain.segments_ahead = 1;
  dead_ = std::make_unique<Chain>(fs_, quarantine_, chain);
  TOCSIN_RETURN_IF_ERROR(Annotate(main_->Recover(known_synced), "log"));
  TOCSIN_RETURN_IF_ERROR(Annotate(dead_->Recover(0), "dead-letter log"));
  warnings_ = main_->warnings();
  warnings_.insert(warnings_.end(), dead_->warnings().begin(), dead_->warnings().end());
  if (quarantine_.dropped() > 0) {
    warnings_.push_back(fmt::format("quarantine/ is full: {} bytes that were cut were not kept",
                                    quarantine_.dropped()));
  }

  for (const auto& [id, end] : main_->PartitionEnds()) {
    const auto found = partitions_.find(PartitionId(id));
    if (found == partitions_.end()) continue;
    Partition& partition = found->second;
    partition.epoch = std::max(partition.epoch, end.epoch);
    partition.next_offset = end.next_offset;
    partition.append_time_us = end.append_time_us;
  }
  if (main_->damaged_ranges() > 0) {
    // What cannot be read may have been an opening, or events: no epoch and no offset is given out
    // twice.
    for (auto& [id, partition] : partitions_) {
      partition.epoch += kEpochsSkipped;
      partition.next_offset += main_->unknown_bytes() / kEventBytesMin;
    }
  }
  CheckSpace();
  background_.Post([this] {
    PrepareNow();
    WatchSpace();
  });
  return absl::OkStatus();
}

FileJournalEngine::Partition& FileJournalEngine::Find(PartitionId id) {
  const auto found = partitions_.find(id);
  TOCSIN_CHECK(found != partitions_.end(), "no partition {} of {}", id.value(), partitions_.size());
  return found->second;
}

Executor& FileJournalEngine::OwnerOf(PartitionId id) {
  const MutexLock lock(mutex_);
  Executor* owner = Find(id).owner;
  TOCSIN_CHECK(owner != nullptr, "partition {} is not open", id.value());
  return *owner;
}

void FileJournalEngine::Open(PartitionId id, Executor& owner, OpenDone done) {
  {
    const MutexLock lock(mutex_);
    Find(id).owner = &owner;
  }
  background_.Post([this, id, &owner, done = std::move(done)]() mutable {
    OpenNow(id, owner, std::move(done));
  });
}

void FileJournalEngine::OpenNow(PartitionId id, Executor& owner, OpenDone done) {
  CheckpointStore* store = nullptr;
  {
    const MutexLock lock(mutex_);
    store = Find(id).checkpoints.get();
  }
  Item item;
  item.owner = &owner;
  item.batch.partition = id;
  const std::uint64_t start = main_->start();
  const auto refuse = [&](absl::Status status) {
    owner.Post([done = std::move(done), status = std::move(status)]() mutable { done(status); });
  };
  auto checkpoint = store->Load(start, item.opened.warnings);
  if (!checkpoint.ok()) return refuse(checkpoint.status());
  if (!*checkpoint && start > 0) {
    return refuse(absl::DataLossError(
        fmt::format("the checkpoints of partition {} are missing although the log was trimmed up "
                    "to {}: restore checkpoint/ from a copy of this data directory. Nothing was "
                    "changed",
                    id.value(), start)));
  }
  if (*checkpoint && (*checkpoint)->replay_from.value() > main_->durable_end()) {
    return refuse(absl::FailedPreconditionError(
        fmt::format("the checkpoint of partition {} is ahead of the log: log/ is an older copy. "
                    "Nothing was changed",
                    id.value())));
  }
  item.opened.checkpoint = *std::move(checkpoint);
  item.opened.start = JournalPosition(start);
  {
    const MutexLock lock(mutex_);
    ++Find(id).openings;
  }
  item.open_done = std::move(done);
  Enqueue(std::move(item));
}

JournalPosition FileJournalEngine::Locate(PartitionId partition, Offset offset) const {
  return JournalPosition(main_->Locate(partition.value(), offset.value()).value_or(main_->start()));
}

JournalInfo FileJournalEngine::Info() const {
  JournalInfo info;
  info.data_dir_id = manifest_.data_dir_id;
  info.format = manifest_.format;
  info.created_by = manifest_.created_by;
  info.hash_seed = manifest_.hash_seed;
  info.segments = main_->segments();
  info.segments_prepared = main_->prepared();
  info.log_bytes = main_->bytes_used();
  info.letter_bytes = dead_->bytes_used();
  info.start = JournalPosition(main_->start());
  info.durable_end = JournalPosition(main_->durable_end());
  info.groups = groups_;
  info.batches = batches_;
  info.appends_refused = refused_;
  info.quarantine_files = quarantine_.files();
  info.quarantine_bytes = quarantine_.bytes();
  info.cut_bytes = main_->cut_bytes() + dead_->cut_bytes();
  info.damaged_ranges = main_->damaged_ranges() + dead_->damaged_ranges() + damaged_read_;
  info.free_bytes = free_bytes_;
  info.reserve_only = reserve_only_;
  const std::uint64_t used = info.log_bytes + info.letter_bytes;
  const std::uint64_t room =
      info.free_bytes > options_.reserve_bytes ? info.free_bytes - options_.reserve_bytes : 0;
  info.space_pressure_percent = 100.0 * static_cast<double>(used) /
                                static_cast<double>(std::max<std::uint64_t>(used + room, 1));
  info.failed = failed_;
  info.warnings = warnings_;
  return info;
}

absl::StatusOr<std::unique_ptr<FileJournal>> OpenFileJournal(FileJournalOptions options,
                                                             FileJournalPorts ports) {
  auto engine = std::make_unique<FileJournalEngine>(std::move(options), ports);
  TOCSIN_RETURN_IF_ERROR(engine->Recover());
  return std::unique_ptr<FileJournal>(std::move(engine));
}

absl::StatusOr<std::unique_ptr<FileJournal>> OpenFileJournal(FileJournalOptions options,
                                                             FileSystem& fs, Clock& clock,
                                                             Random& random) {
  auto threads = std::make_unique<JournalThreads>(clock);
  auto engine = std::make_unique<FileJournalEngine>(
      std::move(options), FileJournalPorts{fs, clock, random, threads->committer, threads->reader,
                                           threads->background});
  engine->Own(std::move(threads));
  TOCSIN_RETURN_IF_ERROR(engine->Recover());
  return std::unique_ptr<FileJournal>(std::move(engine));
}

}  // namespace tocsin

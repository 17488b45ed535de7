// Crashes of the file journal, from seeds.
//
//   workload -> power cut at a random operation (recovery's own included) -> open -> shadow check
//
// Faults: SimFileSystem's (lost sectors, lengths and names after a power cut; EIO; no space, half
// way through a write too), and one flipped bit in what was durable. Whole classes are switched off
// at random per seed. Each failure prints its seed and the command that repeats it.
//
// A canary (--canary=KIND) plants a bug that the checks must find: `lying-sync` (answers before the
// sync), `lying-dir-sync`, `ignore-synced-through` (damage before S is taken for a torn tail).

#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/journal/file_journal.h"
#include "broker/journal/segment.h"
#include "broker/virtual/one_thread_executor.h"
#include "tests/sim/journal_shadow.h"
#include "tests/sim/sim_file_system.h"

namespace tocsin {
namespace {

enum class Canary { kNone, kLyingSync, kLyingDirSync, kIgnoreSyncedThrough };

class History {
 public:
  History(std::uint64_t seed, Canary canary)
      : random_(seed * 2 + 1),
        fs_(seed),
        canary_(canary),
        shadow_(static_cast<std::uint32_t>(1 + random_.Below(3))) {
    options_.partitions = static_cast<std::uint32_t>(shadow_.count());
    options_.segment_bytes = 8192 + 4096 * random_.Below(8);
    options_.letter_segment_bytes = 12288;
    options_.batch_bytes_max = 3000;
    options_.group_bytes_max = 1000 + random_.Below(12000);
    options_.segments_ahead = 1 + random_.Below(2);
    options_.checkpoint_piece_bytes = 600;
    options_.checkpoint_bytes_per_second = 0;
    options_.reserve_bytes = 0;
    errors_ = random_.Below(4) == 0;
    space_ = random_.Below(3) == 0;
    letters_ = random_.Below(2) == 0;
    // A checkpoint would say what was synced.
    checkpoints_ = random_.Below(3) != 0 && canary != Canary::kIgnoreSyncedThrough;
    damage_ = random_.Below(3) == 0 || canary == Canary::kIgnoreSyncedThrough;
    fs_.LieAboutSyncs(canary == Canary::kLyingSync, canary == Canary::kLyingDirSync);
  }
  ~History() { Stop(); }

  // The violation, or empty.
  std::string Run() {
    const std::uint64_t rounds = 2 + random_.Below(3);
    for (std::uint64_t round = 0; round < rounds && Good(); ++round) {
      if (!Start()) continue;
      Work();
      Stop();
      fs_.Crash(Coins());
    }
    if (Good() && damage_) Damage();
    if (Good()) Start(/*calm=*/true);
    return shadow_.violation();
  }

 private:
  bool Good() const { return shadow_.violation().empty(); }

  SimFileSystem::Coins Coins() { return static_cast<SimFileSystem::Coins>(random_.Below(5)); }

  // Runs some tasks of some executor; false if there is nothing to run.
  bool Step() {
    OneThreadExecutor* const all[] = {&committer_, &reader_, &background_, &owner_};
    const std::size_t first = random_.Below(4);
    for (std::size_t i = 0; i < 4; ++i) {
      if (all[(first + i) % 4]->RunUntilIdle(1 + random_.Below(3)) > 0) return true;
    }
    return false;
  }
  void Settle() {
    while (Step()) {
    }
  }

  void Stop() {
    for (OneThreadExecutor* one : {&committer_, &reader_, &background_, &owner_}) one->Clear();
    journal_.reset();
    for (OneThreadExecutor* one : {&committer_, &reader_, &background_, &owner_}) one->Clear();
    shadow_.Forget();
  }

  // Opens the directory and all partitions, and compares with the shadow. False: the power went.
  bool Start(bool calm = false) {
    // On a full disk an opening may be refused; that is another test's.
    fs_.SetCapacity(std::uint64_t{1} << 40);
    for (int attempt = 0; Good(); ++attempt) {
      const bool cut = !calm && attempt < 4 && random_.Below(2) == 0;
      if (cut) fs_.PowerOffAfter(random_.Below(40));
      if (OpenAll()) {
        fs_.NoPowerOff();
        Check();
        return Good();
      }
      if (!fs_.powered_off()) {
        shadow_.Violate(fmt::format("the journal does not open: {}", why_));
        return false;
      }
      Stop();
      fs_.Crash(Coins());
    }
    return false;
  }

  bool OpenAll() {
    why_.clear();
    failed_ = false;
    FileJournalOptions options;
    options.partitions = options_.partitions;
    options.segment_bytes = options_.segment_bytes;
    options.letter_segment_bytes = options_.letter_segment_bytes;
    options.batch_bytes_max = options_.batch_bytes_max;
    options.group_bytes_max = options_.group_bytes_max;
    options.segments_ahead = options_.segments_ahead;
    options.checkpoint_piece_bytes = options_.checkpoint_piece_bytes;
    options.checkpoint_bytes_per_second = 0;
    options.reserve_bytes = 0;
    options.on_fatal = [this](const absl::Status&) { failed_ = true; };
    auto opened =
        OpenFileJournal(std::move(options),
                        FileJournalPorts{fs_, clock_, random_, committer_, reader_, background_});
    if (!opened.ok()) {
      why_ = opened.status().ToString();
      return false;
    }
    journal_ = *std::move(opened);
    opened_.assign(shadow_.count(), std::nullopt);
    for (std::uint32_t i = 0; i < shadow_.count(); ++i)
      OpenPartition(PartitionId(i), /*restarted=*/true);
    Settle();
    for (const auto& one : opened_) {
      if (!one) return false;
    }
    return true;
  }

  void OpenPartition(PartitionId id, bool restarted) {
    journal_->Open(id, owner_, [this, id, restarted](absl::StatusOr<OpenResult> result) {
      if (!result.ok()) {
        why_ = result.status().ToString();
        return;
      }
      shadow_.Opened(id, *result, restarted);
      // What is under way completes, or is fenced; the new owner waits to know which.
      JournalShadow::Partition& partition = shadow_.at(id);
      partition.resume_offset = partition.resume_offset.value_or(partition.next_offset);
      opened_[id.value()] = *std::move(result);
    });
  }

  void Check() {
    for (std::uint32_t i = 0; i < shadow_.count() && Good(); ++i) {
      const PartitionId id(i);
      const OpenResult& opened = *opened_[i];
      const JournalPosition start(journal_->Info().start);
      std::optional<absl::StatusOr<ReadResult>> read;
      journal_->Read(id, start, SIZE_MAX / 2, [&read](auto result) { read = std::move(result); });
      std::optional<absl::StatusOr<std::vector<LetterRef>>> letters;
      journal_->ListLetters(id, LetterPosition(0),
                            [&letters](auto result) { letters = std::move(result); });
      Settle();
      if (!read || !read->ok() || !letters || !letters->ok()) {
        shadow_.Violate("the journal cannot be read");
        return;
      }
      OpenResult now = opened;
      now.start = start;
      shadow_.Observe(id, now, **read);
      shadow_.ObserveLetters(id, **letters);
      if (damaged_ && (*read)->unreadable.empty() && damaged_partition_ == i) {
        shadow_.Violate("damage was not reported");
      }
      if (!damaged_ && !(*read)->unreadable.empty()) shadow_.Violate("damage where there is none");
    }
  }

  void Work() {
    fs_.PowerOffAfter(random_.Below(150));
    const std::uint64_t steps = 20 + random_.Below(120);
    for (std::uint64_t i = 0; i < steps && Good() && !fs_.powered_off() && !failed_; ++i) Act();
    // Half of the time the process ends at rest.
    if (random_.Below(2) == 0) Settle();
  }

  void Act() {
    const PartitionId id(static_cast<std::uint32_t>(random_.Below(shadow_.count())));
    JournalShadow::Partition& partition = shadow_.at(id);
    const std::uint64_t dice = random_.Below(100);
    if (dice < 45) {
      AppendOne(id);
    } else if (dice < 80) {
      Step();
    } else if (dice < 86 && checkpoints_) {
      Checkpoint(id);
    } else if (dice < 90 && checkpoints_) {
      partition.trim_below = std::max(partition.trim_below, partition.durable_end);
      journal_->TrimBelow(id, partition.durable_end);
    } else if (dice < 91 && letters_) {
      for (const JournalShadow::Batch& batch : partition.batches) {
        if (batch.letter_positions.empty() || random_.Below(4) != 0) continue;
        partition.trim_letters_below =
            std::max(partition.trim_letters_below, batch.letter_positions[0]);
      }
      journal_->TrimLettersBelow(id, partition.trim_letters_below);
    } else if (dice < 92 && !partition.pending) {
      opened_[id.value()].reset();
      OpenPartition(id, /*restarted=*/false);
      if (random_.Below(2) == 0) Settle();
    } else if (dice < 94 && errors_) {
      const auto call =
          random_.Below(2) == 0 ? SimFileSystem::Call::kWrite : SimFileSystem::Call::kSync;
      fs_.Fail(call, random_.Below(4) == 0 ? "" : "log", absl::InternalError("EIO"));
    } else if (dice < 97 && space_) {
      if (random_.Below(2) == 0) {
        fs_.SetCapacity(random_.Below(2) == 0 ? 0 : std::uint64_t{1} << 40);
      } else {
        fs_.Fail(SimFileSystem::Call::kWrite, random_.Below(4) == 0 ? "dead" : "log",
                 absl::ResourceExhaustedError("ENOSPC"));
      }
    } else {
      Settle();
      fs_.SetCapacity(std::uint64_t{1} << 40);
    }
  }

  void AppendOne(PartitionId id) {
    JournalShadow::Partition& partition = shadow_.at(id);
    if (!opened_[id.value()]) return;
    if (partition.resume_offset) {
      if (partition.outstanding > 0) return;
      partition.next_offset = *std::exchange(partition.resume_offset, std::nullopt);
    }
    const std::size_t bytes = random_.Below(8) == 0 ? random_.Below(900) : random_.Below(120);
    Epoch epoch = opened_[id.value()]->epoch;
    auto events = static_cast<std::uint32_t>(random_.Below(4));
    if (random_.Below(100) == 0 && epoch.value() > 1) {
      epoch = Epoch(epoch.value() - 1);  // a zombie
      events = 0;
    }
    RecordBatch batch = shadow_.Submit(
        id, epoch, events, bytes, letters_ && random_.Below(5) == 0 ? 1 + random_.Below(2) : 0);
    const std::uint64_t batch_id = JournalShadow::NextId(batch);
    journal_->Append(std::move(batch),
                     [this, id, batch_id](auto result) { shadow_.Answered(id, batch_id, result); });
  }

  void Checkpoint(PartitionId id) {
    JournalShadow::Partition& partition = shadow_.at(id);
    if (partition.pending || !opened_[id.value()]) return;
    CheckpointDelta delta;
    delta.partition = id;
    delta.epoch = opened_[id.value()]->epoch;
    delta.base = random_.Below(4) == 0;
    JournalShadow::Pages pages = delta.base ? JournalShadow::Pages() : partition.pages;
    for (std::uint64_t n = random_.Below(5); n > 0; --n) {
      CheckpointPage page{static_cast<std::uint32_t>(random_.Below(2)), random_.Below(6), {}};
      if (random_.Below(5) != 0) {
        page.bytes = fmt::format("{}", random_.Next()) + std::string(random_.Below(300), 'p');
        pages[{page.table, page.page}] = page.bytes;
      } else {
        pages.erase({page.table, page.page});
      }
      std::erase_if(delta.pages, [&page](const CheckpointPage& other) {
        return other.table == page.table && other.page == page.page;
      });
      delta.pages.push_back(std::move(page));
    }
    const JournalPosition replay_from =
        random_.Below(3) == 0 ? std::max(partition.replay_from, opened_[id.value()]->start)
                              : partition.durable_end;
    partition.pending = JournalShadow::PendingCheckpoint{std::move(pages), replay_from};
    journal_->WriteCheckpoint(std::move(delta), replay_from, [this, id](absl::Status status) {
      JournalShadow::Partition& done = shadow_.at(id);
      // After an error a restart may still find it whole, so it stays possible until then.
      if (!status.ok() || !done.pending) return;
      done.checkpointed = true;
      done.pages = std::move(done.pending->pages);
      done.replay_from = done.pending->replay_from;
      done.pending.reset();
    });
  }

  // One bit of a durable batch with later ones behind it; it must be reported, the rest served.
  void Damage() {
    std::vector<std::pair<std::string, BatchHeader>> all;
    std::uint64_t synced = 0;
    for (const std::string& path : fs_.Paths()) {
      if (!path.starts_with("log/")) continue;
      const auto first = ParseSegmentName(path.substr(4));
      if (!first) continue;
      const SegmentScan scan = ScanSegment(fs_.Bytes(path), *first);
      for (const BatchHeader& header : scan.batches) {
        all.emplace_back(path, header);
        synced = std::max(synced, header.synced_through);
      }
    }
    std::erase_if(all, [&](const auto& one) {
      // An opening's batch is not the shadow's.
      return one.second.end() > synced || one.second.event_count == 0;
    });
    if (all.empty()) return;
    const auto& [path, header] = all[random_.Below(all.size())];
    if (!shadow_.MarkDamaged(JournalPosition(header.log_position), JournalPosition(header.end()))) {
      return;
    }
    if (canary_ == Canary::kIgnoreSyncedThrough) ForgetSyncedThrough();
    const std::uint64_t first = *ParseSegmentName(path.substr(4));
    const std::uint64_t byte =
        header.log_position - first + random_.Below(header.end() - header.log_position);
    fs_.FlipBit(path, byte, static_cast<unsigned>(random_.Below(8)));
    damaged_ = true;
    damaged_partition_ = header.partition;
  }

  // Rewrites the log as if no header had ever said what was synced.
  void ForgetSyncedThrough() {
    std::uint32_t prev = 0;
    for (const std::string& path : fs_.Paths()) {
      if (path.ends_with(".idx")) fs_.Delete(path);
      if (!path.starts_with("log/") || !path.ends_with(".seg")) continue;
      const std::uint64_t first = *ParseSegmentName(path.substr(4));
      std::string bytes = fs_.Bytes(path);
      for (BatchHeader header : ScanSegment(bytes, first).batches) {
        header.synced_through = 0;
        header.prev_header_crc = prev;
        EncodeBatchHeader(
            header, reinterpret_cast<std::byte*>(bytes.data() + (header.log_position - first)));
        prev = header.header_crc;
      }
      fs_.Put(path, std::move(bytes));
    }
  }

  SeededRandom random_;
  VirtualClock clock_;
  SimFileSystem fs_;
  const Canary canary_;
  JournalShadow shadow_;
  FileJournalOptions options_;
  bool errors_ = false;
  bool space_ = false;
  bool letters_ = false;
  bool checkpoints_ = false;
  bool damage_ = false;
  bool damaged_ = false;
  std::uint32_t damaged_partition_ = 0;
  bool failed_ = false;
  std::string why_;
  std::vector<std::optional<OpenResult>> opened_;
  OneThreadExecutor committer_{clock_};
  OneThreadExecutor reader_{clock_};
  OneThreadExecutor background_{clock_};
  OneThreadExecutor owner_{clock_};
  std::unique_ptr<FileJournal> journal_;
};

int Main(int argc, char** argv) {
  std::uint64_t seeds = 2000;
  std::uint64_t first = 1;
  std::string canary_name;
  if (const char* seed = std::getenv("TOCSIN_SEED")) {
    first = std::strtoull(seed, nullptr, 10);
    seeds = 1;
  }
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--seeds" && i + 1 < argc) {
      seeds = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--first-seed" && i + 1 < argc) {
      first = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument.starts_with("--canary=")) {
      canary_name = argument.substr(9);
    } else {
      fmt::print(stderr, "usage: {} [--seeds N] [--first-seed S] [--canary=KIND]\n", argv[0]);
      return 2;
    }
  }
  Canary canary = Canary::kNone;
  if (canary_name == "lying-sync") canary = Canary::kLyingSync;
  if (canary_name == "lying-dir-sync") canary = Canary::kLyingDirSync;
  if (canary_name == "ignore-synced-through") canary = Canary::kIgnoreSyncedThrough;
  if (!canary_name.empty() && canary == Canary::kNone) {
    fmt::print(stderr, "unknown canary {}\n", canary_name);
    return 2;
  }
  std::uint64_t failures = 0;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    const std::string violation = History(seed, canary).Run();
    if (violation.empty()) continue;
    ++failures;
    fmt::print("seed {}: {}\n  repeat: {} --first-seed {} --seeds 1{}\n", seed, violation, argv[0],
               seed, canary_name.empty() ? "" : " --canary=" + canary_name);
    if (canary != Canary::kNone || failures >= 10) break;
  }
  if (canary != Canary::kNone) {
    fmt::print("the canary was {}\n", failures > 0 ? "found" : "NOT found");
    return failures > 0 ? 0 : 1;
  }
  fmt::print("{} seeds from {}: {} failed\n", seeds, first, failures);
  return failures > 0 ? 1 : 0;
}

}  // namespace
}  // namespace tocsin

int main(int argc, char** argv) { return tocsin::Main(argc, argv); }

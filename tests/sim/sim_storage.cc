#include "tests/sim/sim_storage.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <utility>

#include "broker/journal/batch_header.h"
#include "broker/journal/file_journal.h"
#include "broker/journal/segment.h"
#include "broker/partition/event_cache.h"
#include "broker/partition/records.h"
#include "broker/virtual/memory_journal.h"
#include "broker/virtual/one_thread_executor.h"
#include "tests/sim/sim_file_system.h"

namespace tocsin::broker_sim {
namespace {

constexpr std::uint64_t kRoomy = std::uint64_t{1} << 40;

class MemoryStorage final : public SimStorage {
 public:
  MemoryStorage(VirtualClock& clock, std::uint64_t seed)
      : engine_(clock), journal_(engine_, Options(seed)) {}
  ~MemoryStorage() override { engine_.Clear(); }

  absl::Status Start() override { return absl::OkStatus(); }
  Journal& journal() override { return journal_; }
  std::uint64_t small_log() const override { return 4000; }
  std::size_t Run(std::size_t tasks_max) override { return engine_.RunUntilIdle(tasks_max); }
  void Hold(bool held) override { held ? journal_.Hold() : journal_.Release(); }
  void SetFull(bool full) override {
    journal_.SetLogBytesMax(full ? journal_.log_bytes() + 200 : UINT64_MAX);
  }
  void BreakSoon() override {}
  void LieAboutSyncs(bool, bool) override {}
  void Heal() override {
    SetFull(false);
    Hold(false);
  }
  bool faulty() const override { return false; }
  std::uint32_t failing_reads() const override { return 0; }
  void DropTasks() override { engine_.Clear(); }
  void Crash(bool) override {
    engine_.Clear();
    journal_.Crash();
  }
  std::optional<FlippedBit> FlipBit(bool) override { return std::nullopt; }
  std::uint64_t power_cuts() const override { return 0; }

 private:
  // Reads of one batch, of a few, and of all there is: what reads on must cope with each.
  static MemoryJournalOptions Options(std::uint64_t seed) {
    static constexpr std::size_t kReads[] = {1, 500, 2000, 2000, 64 * 1024};
    MemoryJournalOptions options;
    options.batch_bytes_max = 256 * 1024;
    options.read_bytes_max = kReads[(seed >> 3) % std::size(kReads)];
    return options;
  }

  OneThreadExecutor engine_;
  MemoryJournal journal_;
};

class DiskStorage final : public SimStorage {
 public:
  DiskStorage(VirtualClock& clock, std::uint64_t seed, std::uint32_t partitions)
      : clock_(clock),
        random_(seed ^ 0x6469736b),
        fs_(seed),
        partitions_(partitions),
        segment_bytes_(kBatchBytes + 8192 * (1 + random_.Below(8))),
        group_bytes_(1000 + random_.Below(64 * 1024)),
        segments_ahead_(1 + random_.Below(2)) {}
  ~DiskStorage() override { End(); }

  absl::Status Start() override {
    FileJournalOptions options;
    options.partitions = partitions_;
    options.segment_bytes = segment_bytes_;
    options.letter_segment_bytes = kBatchBytes + 8192;
    options.batch_bytes_max = kBatchBytes;
    options.group_bytes_max = group_bytes_;
    options.segments_ahead = segments_ahead_;
    options.checkpoint_piece_bytes = 600;
    options.checkpoint_bytes_per_second = 0;
    options.reserve_bytes = 0;
    auto opened =
        OpenFileJournal(std::move(options),
                        FileJournalPorts{fs_, clock_, random_, committer_, reader_, background_});
    if (!opened.ok()) return opened.status();
    journal_ = *std::move(opened);
    return absl::OkStatus();
  }
  Journal& journal() override { return *journal_; }
  std::uint64_t small_log() const override { return 2 * segment_bytes_; }

  std::size_t Run(std::size_t tasks_max) override {
    std::size_t ran = 0;
    while (ran < tasks_max) {
      const std::array<OneThreadExecutor*, 3> threads = {&reader_, &background_, &committer_};
      const std::size_t first = random_.Below(3);
      std::size_t now = 0;
      for (std::size_t i = 0; i < 3 && now == 0; ++i) {
        OneThreadExecutor* thread = threads[(first + i) % 3];
        if (held_ && thread == &committer_) continue;
        now = thread->RunUntilIdle(std::min<std::size_t>(tasks_max - ran, 1 + random_.Below(3)));
      }
      if (now == 0) break;
      ran += now;
    }
    return ran;
  }

  void Hold(bool held) override { held_ = held; }
  void SetFull(bool full) override {
    fs_.SetCapacity(full ? fs_.Used() + 4096 * random_.Below(16) : kRoomy);
  }
  void BreakSoon() override {
    if (faulty_) return;
    faulty_ = true;
    using Call = SimFileSystem::Call;
    static constexpr std::array kCalls = {Call::kWrite, Call::kSync,   Call::kSync,
                                          Call::kRead,  Call::kCreate, Call::kPreallocate};
    if (random_.Below(2) == 0) {
      fs_.PowerOffAfter(random_.Below(60));
    } else {
      const Call call = kCalls[random_.Below(kCalls.size())];
      if (call == Call::kRead) ++failing_reads_;
      fs_.Fail(call, "", absl::InternalError("EIO (simulated)"), 1,
               static_cast<int>(random_.Below(20)));
    }
  }
  std::uint32_t failing_reads() const override { return failing_reads_; }
  void LieAboutSyncs(bool files, bool directories) override {
    fs_.LieAboutSyncs(files, directories);
  }
  void Heal() override {
    fs_.NoPowerOff();
    fs_.ClearFaults();
    SetFull(false);
    Hold(false);
  }
  bool faulty() const override { return faulty_; }
  void DropTasks() override {
    for (OneThreadExecutor* one : {&committer_, &reader_, &background_}) one->Clear();
  }
  void Crash(bool again) override {
    End();
    // A process that ends leaves everything it wrote; the power takes what was not synced.
    const bool power = fs_.powered_off() || random_.Below(2) == 0;
    if (power) ++power_cuts_;
    fs_.Crash(power ? static_cast<SimFileSystem::Coins>(random_.Below(5))
                    : SimFileSystem::Coins::kAll);
    fs_.ClearFaults();
    faulty_ = false;
    held_ = false;
    fs_.SetCapacity(kRoomy);
    if (again && random_.Below(3) == 0) {
      faulty_ = true;
      fs_.PowerOffAfter(random_.Below(40));
    }
  }
  std::optional<FlippedBit> FlipBit(bool in_checkpoint) override {
    return in_checkpoint ? FlipCheckpoint() : FlipBatch();
  }
  std::uint64_t power_cuts() const override { return power_cuts_; }

 private:
  static constexpr std::size_t kBatchBytes = 16 * 1024;

  std::optional<FlippedBit> FlipCheckpoint() {
    std::map<std::string, std::vector<std::string>> by_partition;
    for (const std::string& path : fs_.Paths()) {
      if (!path.starts_with("checkpoint/") || !path.ends_with(".ckpt")) continue;
      by_partition[path.substr(0, path.find('-'))].push_back(path);
    }
    std::erase_if(by_partition, [](const auto& one) { return one.second.size() < 2; });
    if (by_partition.empty()) return std::nullopt;
    const auto chosen = std::next(by_partition.begin(),
                                  static_cast<std::ptrdiff_t>(random_.Below(by_partition.size())));
    Flip(chosen->second[random_.Below(chosen->second.size())], 0, UINT64_MAX);
    return FlippedBit{true, {}};
  }

  // Of a batch that a later one says was synced, so that it is no torn end of the log.
  std::optional<FlippedBit> FlipBatch() {
    std::vector<std::pair<std::string, BatchHeader>> all;
    std::uint64_t synced = 0;
    for (const std::string& path : fs_.Paths()) {
      if (!path.starts_with("log/")) continue;
      const auto first = ParseSegmentName(path.substr(4));
      if (!first) continue;
      for (const BatchHeader& header : ScanSegment(fs_.Bytes(path), *first).batches) {
        all.emplace_back(path, header);
        synced = std::max(synced, header.synced_through);
      }
    }
    std::erase_if(all, [&](const auto& one) { return one.second.end() > synced; });
    if (all.empty()) return std::nullopt;
    const auto& [path, header] = all[random_.Below(all.size())];
    const std::uint64_t from = header.log_position - *ParseSegmentName(path.substr(4));
    FlippedBit flipped;
    const std::string body = fs_.Bytes(path).substr(from + kBatchHeaderBytes, header.body_bytes);
    std::vector<EventSlot> slots;
    EventRecord record;
    if (IndexEvents(body, slots).ok()) {
      for (const EventSlot& slot : slots) {
        if (!DecodeEvent(std::string_view(body).substr(slot.position, slot.bytes), record).ok()) {
          continue;
        }
        flipped.events.emplace_back(record.event);
      }
    }
    Flip(path, from, kBatchHeaderBytes + header.body_bytes);
    return flipped;
  }

  void Flip(const std::string& path, std::uint64_t from, std::uint64_t bytes_max) {
    const std::uint64_t bytes = std::min(fs_.Bytes(path).size() - from, bytes_max);
    fs_.FlipBit(path, from + random_.Below(bytes), static_cast<unsigned>(random_.Below(8)));
  }

  void End() {
    DropTasks();
    journal_.reset();
    DropTasks();
  }

  VirtualClock& clock_;
  SeededRandom random_;
  SimFileSystem fs_;
  const std::uint32_t partitions_;
  const std::uint64_t segment_bytes_;
  const std::size_t group_bytes_;
  const std::size_t segments_ahead_;
  OneThreadExecutor committer_{clock_};
  OneThreadExecutor reader_{clock_};
  OneThreadExecutor background_{clock_};
  std::unique_ptr<FileJournal> journal_;
  bool held_ = false;
  bool faulty_ = false;
  std::uint32_t failing_reads_ = 0;
  std::uint64_t power_cuts_ = 0;
};

}  // namespace

std::unique_ptr<SimStorage> NewMemoryStorage(VirtualClock& clock, std::uint64_t seed) {
  return std::make_unique<MemoryStorage>(clock, seed);
}

std::unique_ptr<SimStorage> NewDiskStorage(VirtualClock& clock, std::uint64_t seed,
                                           std::uint32_t partitions) {
  return std::make_unique<DiskStorage>(clock, seed, partitions);
}

}  // namespace tocsin::broker_sim

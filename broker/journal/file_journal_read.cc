// FileJournalEngine: reading batches and dead letters.

#include <utility>

#include "broker/base/status.h"
#include "broker/base/wire.h"
#include "broker/journal/chain_cursor.h"
#include "broker/journal/file_journal_engine.h"

namespace tocsin {
namespace {

// Bytes of a letter's body before the letter itself, at most: three varints.
constexpr std::size_t kLetterPrefixMax = 20;

template <typename Result, typename Done>
void PostResult(Executor& owner, Done done, Result result) {
  owner.Post(
      [done = std::move(done), result = std::move(result)]() mutable { done(std::move(result)); });
}

}  // namespace

std::string EncodeLetter(const LetterPut& letter) {
  std::string out;
  out.reserve(kLetterPrefixMax + letter.bytes.size());
  PutVarint(out, letter.id.offset.value());
  PutVarint(out, letter.id.trigger.value());
  PutVarint(out, letter.id.run);
  out += letter.bytes;
  return out;
}

std::optional<DeliveryId> DecodeLetter(PartitionId partition, std::string_view body,
                                       std::string_view& bytes) {
  WireReader reader(body);
  std::uint64_t offset = 0;
  std::uint64_t trigger = 0;
  std::uint64_t run = 0;
  if (!reader.ReadVarint(offset) || !reader.ReadVarint(trigger) || !reader.ReadVarint(run) ||
      trigger > UINT32_MAX || run > UINT32_MAX) {
    return std::nullopt;
  }
  bytes = body.substr(reader.position());
  return DeliveryId{partition, Offset(offset), TriggerOrdinal(static_cast<std::uint32_t>(trigger)),
                    static_cast<std::uint32_t>(run)};
}

absl::StatusOr<ReadResult> FileJournalEngine::ReadNow(PartitionId id, std::uint64_t from,
                                                      std::size_t bytes_max) {
  const std::uint64_t start = main_->start();
  if (from < start) {
    return absl::OutOfRangeError(
        fmt::format("position {} was trimmed; the log starts at {}", from, start));
  }
  ReadResult result;
  std::size_t bytes = 0;
  ChainCursor cursor(*main_, from);
  while (true) {
    TOCSIN_ASSIGN_OR_RETURN(const ChainCursor::Step step, cursor.Next());
    if (step == ChainCursor::Step::kEnd) {
      result.next = JournalPosition(cursor.position());
      result.at_end = true;
      return result;
    }
    if (step == ChainCursor::Step::kBad) {
      ++damaged_read_;
      result.unreadable.push_back({JournalPosition(cursor.bad().from), std::nullopt, 0,
                                   fmt::format("the log's bytes from {} to {} cannot be read",
                                               cursor.bad().from, cursor.bad().to)});
      continue;
    }
    const BatchHeader& header = cursor.header();
    if (header.partition != id.value()) continue;
    if (!result.batches.empty() && bytes + header.body_bytes > bytes_max) {
      result.next = JournalPosition(header.log_position);
      return result;
    }
    TOCSIN_ASSIGN_OR_RETURN(std::optional<std::string> body, cursor.Body());
    if (!body) {
      ++damaged_read_;
      result.unreadable.push_back({JournalPosition(header.log_position), Offset(header.base_offset),
                                   header.event_count,
                                   fmt::format("the batch at {} is damaged", header.log_position)});
      continue;
    }
    bytes += body->size();
    result.batches.push_back({JournalPosition(header.log_position), Epoch(header.epoch),
                              Offset(header.base_offset), header.event_count, header.record_count,
                              header.append_time_us,
                              std::make_shared<const std::string>(*std::move(body))});
  }
}

void FileJournalEngine::Read(PartitionId id, JournalPosition from, std::size_t bytes_max,
                             ReadDone done) {
  Executor& owner = OwnerOf(id);
  reader_.Post([this, id, from, bytes_max, &owner, done = std::move(done)]() mutable {
    PostResult(owner, std::move(done), ReadNow(id, from.value(), bytes_max));
  });
}

absl::StatusOr<std::vector<LetterRef>> FileJournalEngine::ListLettersNow(PartitionId id,
                                                                         std::uint64_t from) {
  {
    const MutexLock lock(mutex_);
    from = std::max(from, Find(id).trim_letters_below);
  }
  std::vector<LetterRef> letters;
  ChainCursor cursor(*dead_, from);
  while (true) {
    TOCSIN_ASSIGN_OR_RETURN(const ChainCursor::Step step, cursor.Next());
    if (step == ChainCursor::Step::kEnd) return letters;
    if (step == ChainCursor::Step::kBad) {
      ++damaged_read_;
      continue;
    }
    const BatchHeader& header = cursor.header();
    if (header.partition != id.value() || (header.flags & kFlagLetter) == 0) continue;
    TOCSIN_ASSIGN_OR_RETURN(const std::optional<std::string> body, cursor.Body());
    std::string_view bytes;
    const auto letter = body ? DecodeLetter(id, *body, bytes) : std::nullopt;
    if (!letter) {
      ++damaged_read_;
      continue;
    }
    letters.push_back(
        {*letter, LetterPosition(header.log_position), static_cast<std::uint32_t>(bytes.size())});
  }
}

void FileJournalEngine::ListLetters(PartitionId id, LetterPosition from, LettersDone done) {
  Executor& owner = OwnerOf(id);
  reader_.Post([this, id, from, &owner, done = std::move(done)]() mutable {
    PostResult(owner, std::move(done), ListLettersNow(id, from.value()));
  });
}

absl::StatusOr<std::string> FileJournalEngine::ReadLetterNow(PartitionId id,
                                                             std::uint64_t position) {
  const absl::Status missing = absl::NotFoundError(
      fmt::format("partition {} has no dead letter at {}", id.value(), position));
  {
    const MutexLock lock(mutex_);
    if (position < Find(id).trim_letters_below) return missing;
  }
  if (position < dead_->start()) return missing;
  ChainCursor cursor(*dead_, position);
  TOCSIN_ASSIGN_OR_RETURN(const ChainCursor::Step step, cursor.Next());
  if (step == ChainCursor::Step::kEnd) return missing;
  const absl::Status damaged = absl::DataLossError(
      fmt::format("the dead letter at {} of partition {} is damaged", position, id.value()));
  if (step == ChainCursor::Step::kBad) return damaged;
  if (cursor.header().log_position != position || cursor.header().partition != id.value()) {
    return missing;
  }
  TOCSIN_ASSIGN_OR_RETURN(const std::optional<std::string> body, cursor.Body());
  std::string_view bytes;
  if (!body || !DecodeLetter(id, *body, bytes)) return damaged;
  return std::string(bytes);
}

void FileJournalEngine::ReadLetter(PartitionId id, LetterPosition position, LetterDone done) {
  Executor& owner = OwnerOf(id);
  reader_.Post([this, id, position, &owner, done = std::move(done)]() mutable {
    PostResult(owner, std::move(done), ReadLetterNow(id, position.value()));
  });
}

}  // namespace tocsin

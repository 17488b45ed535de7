#include "connectors/database/postgres/pgoutput.h"

#include <fmt/format.h>

#include <cstddef>

namespace tocsin {
namespace {

// A row of a table has at most 1,600 columns.
constexpr std::size_t kColumnsMax = 1600;

class Bytes {
 public:
  explicit Bytes(std::string_view text) : text_(text) {}

  template <typename T>
  T Number() {
    if (text_.size() < sizeof(T)) {
      Fail();
      return 0;
    }
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      value = (value << 8) | static_cast<unsigned char>(text_[i]);
    }
    text_.remove_prefix(sizeof(T));
    return static_cast<T>(value);
  }
  char Letter() { return static_cast<char>(Number<std::uint8_t>()); }
  std::string_view Text() {
    const std::size_t end = text_.find('\0');
    if (end == std::string_view::npos) {
      Fail();
      return {};
    }
    const std::string_view text = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    return text;
  }
  std::string_view Sized() {
    const auto size = Number<std::uint32_t>();
    if (size > text_.size()) {
      Fail();
      return {};
    }
    const std::string_view text = text_.substr(0, size);
    text_.remove_prefix(size);
    return text;
  }
  void Fail() {
    failed_ = true;
    text_ = {};
  }
  bool failed() const { return failed_; }
  bool empty() const { return text_.empty(); }

 private:
  std::string_view text_;
  bool failed_ = false;
};

void ReadTuple(Bytes& bytes, std::vector<PgValue>& values) {
  const auto count = bytes.Number<std::uint16_t>();
  values.clear();
  if (count > kColumnsMax) return bytes.Fail();
  for (std::size_t i = 0; i < count && !bytes.failed(); ++i) {
    PgValue value;
    value.kind = static_cast<PgValueKind>(bytes.Letter());
    switch (value.kind) {
      case PgValueKind::kNull:
      case PgValueKind::kUnchanged:
        break;
      case PgValueKind::kText:
      case PgValueKind::kBinary:
        value.text = bytes.Sized();
        break;
      default:
        bytes.Fail();
    }
    values.push_back(value);
  }
}

void ReadRelation(Bytes& bytes, PgMessage& out) {
  out.relation = bytes.Number<std::uint32_t>();
  out.space = bytes.Text();
  out.name = bytes.Text();
  out.identity = bytes.Letter();
  const auto count = bytes.Number<std::uint16_t>();
  out.columns.clear();
  if (count > kColumnsMax) return bytes.Fail();
  for (std::size_t i = 0; i < count && !bytes.failed(); ++i) {
    PgColumn column;
    column.key = (bytes.Number<std::uint8_t>() & 1) != 0;
    column.name = bytes.Text();
    column.type = bytes.Number<std::uint32_t>();
    column.modifier = bytes.Number<std::int32_t>();
    out.columns.push_back(column);
  }
}

void ReadRow(Bytes& bytes, PgMessage& out) {
  out.relation = bytes.Number<std::uint32_t>();
  out.old_kind = 0;
  out.old_values.clear();
  out.new_values.clear();
  char next = bytes.Letter();
  if (out.kind != PgKind::kInsert && (next == 'K' || next == 'O')) {
    out.old_kind = next;
    ReadTuple(bytes, out.old_values);
    if (out.kind == PgKind::kDelete) return;
    next = bytes.Letter();
  }
  if (out.kind == PgKind::kDelete || next != 'N') return bytes.Fail();
  ReadTuple(bytes, out.new_values);
}

void ReadTruncate(Bytes& bytes, PgMessage& out) {
  const auto count = bytes.Number<std::uint32_t>();
  const auto options = bytes.Number<std::uint8_t>();
  out.cascade = (options & 1) != 0;
  out.restart_identity = (options & 2) != 0;
  out.relations.clear();
  for (std::uint32_t i = 0; i < count && !bytes.failed(); ++i) {
    out.relations.push_back(bytes.Number<std::uint32_t>());
  }
}

// Flags, two places, a time: Commit and its kin.
void ReadEnd(Bytes& bytes, PgMessage& out) {
  (void)bytes.Letter();
  out.lsn = bytes.Number<std::uint64_t>();
  out.end_lsn = bytes.Number<std::uint64_t>();
  out.time_us = bytes.Number<std::int64_t>();
}

void Read(Bytes& bytes, bool in_stream, PgMessage& out) {
  if (in_stream && HasStreamXid(out.kind)) out.xid = bytes.Number<std::uint32_t>();
  switch (out.kind) {
    case PgKind::kBegin:
      out.lsn = bytes.Number<std::uint64_t>();
      out.time_us = bytes.Number<std::int64_t>();
      out.xid = bytes.Number<std::uint32_t>();
      return;
    case PgKind::kCommit:
      return ReadEnd(bytes, out);
    case PgKind::kOrigin:
      out.lsn = bytes.Number<std::uint64_t>();
      out.name = bytes.Text();
      return;
    case PgKind::kRelation:
      return ReadRelation(bytes, out);
    case PgKind::kType:
      out.relation = bytes.Number<std::uint32_t>();
      out.space = bytes.Text();
      out.name = bytes.Text();
      return;
    case PgKind::kInsert:
    case PgKind::kUpdate:
    case PgKind::kDelete:
      return ReadRow(bytes, out);
    case PgKind::kTruncate:
      return ReadTruncate(bytes, out);
    case PgKind::kMessage:
      out.transactional = (bytes.Number<std::uint8_t>() & 1) != 0;
      out.lsn = bytes.Number<std::uint64_t>();
      out.name = bytes.Text();
      out.content = bytes.Sized();
      return;
    case PgKind::kStreamStart:
      out.xid = bytes.Number<std::uint32_t>();
      out.first_segment = bytes.Number<std::uint8_t>() == 1;
      return;
    case PgKind::kStreamStop:
      return;
    case PgKind::kStreamCommit:
      out.xid = bytes.Number<std::uint32_t>();
      return ReadEnd(bytes, out);
    case PgKind::kStreamAbort:
      out.xid = bytes.Number<std::uint32_t>();
      out.subxid = bytes.Number<std::uint32_t>();
      return;
    case PgKind::kBeginPrepare:
      out.lsn = bytes.Number<std::uint64_t>();
      out.end_lsn = bytes.Number<std::uint64_t>();
      out.time_us = bytes.Number<std::int64_t>();
      out.xid = bytes.Number<std::uint32_t>();
      out.name = bytes.Text();
      return;
    case PgKind::kPrepare:
    case PgKind::kCommitPrepared:
    case PgKind::kStreamPrepare:
      ReadEnd(bytes, out);
      out.xid = bytes.Number<std::uint32_t>();
      out.name = bytes.Text();
      return;
    case PgKind::kRollbackPrepared:
      ReadEnd(bytes, out);
      (void)bytes.Number<std::int64_t>();  // when it was rolled back
      out.xid = bytes.Number<std::uint32_t>();
      out.name = bytes.Text();
      return;
  }
  bytes.Fail();
}

}  // namespace

bool HasStreamXid(PgKind kind) {
  switch (kind) {
    case PgKind::kRelation:
    case PgKind::kType:
    case PgKind::kInsert:
    case PgKind::kUpdate:
    case PgKind::kDelete:
    case PgKind::kTruncate:
    case PgKind::kMessage:
      return true;
    default:
      return false;
  }
}

absl::Status DecodePgoutput(std::string_view bytes, bool in_stream, PgMessage& message) {
  if (bytes.empty()) return absl::InvalidArgumentError("an empty message of pgoutput");
  message.kind = static_cast<PgKind>(bytes[0]);
  Bytes rest(bytes.substr(1));
  Read(rest, in_stream, message);
  if (rest.failed() || !rest.empty()) {
    const auto letter = static_cast<unsigned char>(bytes[0]);
    return absl::InvalidArgumentError(
        fmt::format("a message of pgoutput (kind {:#04x}, {} bytes) is {}", letter, bytes.size(),
                    rest.failed() ? "cut short or unknown" : "longer than its parts"));
  }
  return absl::OkStatus();
}

}  // namespace tocsin

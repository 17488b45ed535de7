#include "connectors/database/postgres/postgres_position.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "absl/strings/str_split.h"
#include "broker/base/base64.h"

namespace tocsin {
namespace {

template <typename T>
bool ReadNumber(const std::string& text, T& out) {
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, out);
  return error == std::errc() && at == end;
}

}  // namespace

std::string EncodePgPosition(const PgPosition& position) {
  // A database's name may have spaces.
  return fmt::format("pg1 {} {} {} {} {} {} {}", position.system, position.timeline, position.slot,
                     EncodeBase64(position.database), FormatLsn(position.commit), position.index,
                     FormatLsn(position.done));
}

std::optional<PgPosition> DecodePgPosition(std::string_view text) {
  const std::vector<std::string> words = absl::StrSplit(std::string(text), ' ');
  if (words.size() != 8 || words[0] != "pg1" || words[1].empty() || words[3].empty()) {
    return std::nullopt;
  }
  PgPosition out;
  out.system = words[1];
  out.slot = words[3];
  const std::optional<std::string> database = DecodeBase64(words[4]);
  const std::optional<Lsn> commit = ParseLsn(words[5]);
  const std::optional<Lsn> done = ParseLsn(words[7]);
  if (!database || !commit || !done) return std::nullopt;
  if (!ReadNumber(words[2], out.timeline) || !ReadNumber(words[6], out.index)) return std::nullopt;
  out.database = *database;
  out.commit = *commit;
  out.done = *done;
  return out;
}

PgVerdict JudgePgPosition(const PgPosition& position, const PgServerFacts& server,
                          const PgSlotFacts& slot, Lsn restart_before) {
  using Kind = PgVerdictKind;
  const std::string at = FormatLsn(position.done);
  if (server.system != position.system) {
    return {Kind::kAnother, "T0221",
            fmt::format("this is another cluster: its system identifier is {}, what was read up to "
                        "{} was {}",
                        server.system, at, position.system),
            position.done};
  }
  if (server.database != position.database) {
    return {Kind::kAnother, "T0221",
            fmt::format("the position is of database `{}`, the connection is to `{}`",
                        position.database, server.database),
            position.done};
  }
  if (slot.there && slot.wal_status == "lost") {
    return {Kind::kGap, "T0220",
            fmt::format("the server invalidated the slot and removed the log that it needs "
                        "(max_slot_wal_keep_size); a gap is possible since {}",
                        at),
            position.done};
  }
  if (server.timeline != position.timeline) {
    return {Kind::kGap, "T0221",
            fmt::format("the server is on timeline {}, what was read up to {} was timeline {}: a "
                        "standby was promoted, or a backup restored; a gap is possible since {}",
                        server.timeline, at, position.timeline, at),
            position.done};
  }
  if (server.end < position.done) {
    return {Kind::kGap, "T0221",
            fmt::format("the server's log ends at {}, before {} that was read: it was restored "
                        "from an older backup; a gap is possible since {}",
                        FormatLsn(server.end), at, FormatLsn(server.end)),
            server.end};
  }
  if (!slot.there) {
    return {Kind::kGap, "T0220",
            fmt::format("the slot is gone; it had been read up to {}; a gap is possible since {}",
                        at, at),
            position.done};
  }
  if (slot.restart != 0 && slot.restart < restart_before) {
    // Where the two ways of the server part is not known.
    const Lsn since = std::min(slot.confirmed, position.done);
    return {Kind::kGap, "T0221",
            fmt::format("the slot needs the log from {} on, and had needed it from {} on before: "
                        "the server was restored from an older copy of its files; a gap is "
                        "possible since {}",
                        FormatLsn(slot.restart), FormatLsn(restart_before), FormatLsn(since)),
            since};
  }
  if (slot.confirmed > position.done) {
    return {Kind::kGap, "T0221",
            fmt::format("the slot is at {}, what is known here ends at {}: somebody else read from "
                        "it, or this broker's data are an older copy; a gap is possible since {}",
                        FormatLsn(slot.confirmed), at, at),
            position.done};
  }
  return {};
}

Lsn PgRestartBefore(const std::map<std::string, std::string>& entries) {
  const auto found = entries.find(std::string(kPgRestartKey));
  return found == entries.end() ? 0 : ParseLsn(found->second).value_or(0);
}

}  // namespace tocsin

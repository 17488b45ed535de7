// What the broker answered, as text for people or as JSON for programs. Pure: everything goes to a
// sink, which says false when nobody reads any more.

#pragma once

#include <string>
#include <string_view>

#include "broker/cli/command.h"
#include "broker/cli/json_writer.h"
#include "broker/cli/table.h"
#include "tocsin/v1/admin.pb.h"
#include "tocsin/v1/publish.pb.h"

namespace tocsin::cli {

// -o json|text, for streams also jsonl: a JSON document a line.
struct OutputFlags {
  std::string format = "text";
  bool json() const { return format == "json"; }
  bool json_lines() const { return format == "jsonl"; }
  bool text() const { return format == "text"; }
};
void AddOutput(Command& command, OutputFlags& flags, bool with_lines = false);

void WriteStatus(const v1::StatusResponse& status, std::int64_t now_us, TableLook look,
                 const Table::Sink& sink);
std::string StatusJson(const v1::StatusResponse& status);

void WriteTriggers(const v1::ListTriggersResponse& triggers, TableLook look,
                   const Table::Sink& sink);
void WriteTriggersJson(const v1::ListTriggersResponse& triggers, const Table::Sink& sink);

void WriteSources(const v1::ListSourcesResponse& sources, TableLook look, const Table::Sink& sink);
void WriteSourcesJson(const v1::ListSourcesResponse& sources, const Table::Sink& sink);

void WriteWorkers(const v1::ListWorkersResponse& workers, TableLook look, const Table::Sink& sink);
void WriteWorkersJson(const v1::ListWorkersResponse& workers, const Table::Sink& sink);

Table LetterTable(TableLook look, Table::Sink sink);
std::vector<Cell> LetterRow(const v1::Letter& letter);
void WriteLetter(const v1::Letter& letter, TableLook look, const Table::Sink& sink);
void AppendLetter(JsonWriter& json, const v1::Letter& letter);  // the event if it is there

std::string TailLine(const v1::TailEvent& event, TableLook look);
void AppendTailEvent(JsonWriter& json, const v1::TailEvent& event);

// `1/4711`.
std::string RefText(const v1::EventRef& ref);

// RFC 3339; `-` for 0.
std::string TimeText(std::int64_t microseconds);

// As CloudEvents JSON; what is no event as {"undecoded_base64": …}.
std::string EncodedEventToJson(std::string_view bytes);

}  // namespace tocsin::cli

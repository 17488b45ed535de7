// tocsin tail.

#include <fmt/format.h>

#include <memory>

#include "broker/cli/commands.h"
#include "broker/cli/session.h"

namespace tocsin::cli {
namespace {

struct Flags : SessionFlags {
  std::string trigger;
  std::string from = "end";
  std::uint64_t limit = 0;
  bool no_follow = false;
};

// `start`, `end`, or `P/O`.
bool IsPosition(std::string_view text) {
  if (text == "start" || text == "end") return true;
  const std::size_t slash = text.find('/');
  auto digits = [](std::string_view part) {
    return !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
  };
  return slash != std::string_view::npos && digits(text.substr(0, slash)) &&
         digits(text.substr(slash + 1));
}

int Tail(Console& console, const Flags& flags) {
  if (!IsPosition(flags.from)) {
    return console.FailUsage(
        "tail", fmt::format("--from: '{}' is neither PARTITION/OFFSET nor start nor end",
                            Clean(flags.from)));
  }
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::TailRequest request;
    request.set_trigger(flags.trigger);
    request.set_from(flags.from);
    request.set_follow(!flags.no_follow);
    request.set_limit(flags.limit);
    const TableLook look = console.table_look();
    JsonWriter document;
    if (flags.output.json()) document.Array();
    std::uint64_t shown = 0;
    auto each = [&](const v1::TailEvent& event) {
      bool reading = true;
      if (flags.output.json()) {
        AppendTailEvent(document, event);
        reading = console.Out(document);
      } else if (flags.output.json_lines()) {
        JsonWriter line(JsonWriter::Layout::kLine);
        AppendTailEvent(line, event);
        reading = console.Out(line);
      } else {
        reading = console.Out(TailLine(event, look));
      }
      ++shown;
      return reading && (flags.limit == 0 || shown < flags.limit);
    };
    CatchInterrupts();
    const absl::Status status = client.Tail(request, each, [&] { console.Flush(); });
    if (flags.output.json()) {
      document.End();
      console.Out(document);
    }
    // To be interrupted is how a follower ends.
    if (!status.ok() && !Interrupted()) return console.Fail(status);
    return kExitOk;
  });
}

}  // namespace

void AddTail(Command& root) {
  Command& command = root.Add(
      "tail",
      "show events as they are recorded: time, position, type, source, id, subject, key, triggers",
      "tocsin tail --trigger import-new-files --from start --no-follow\n"
      "tocsin tail -o jsonl | jq .event.data");
  auto flags = std::make_shared<Flags>();
  command.options = {
      {"--trigger", &flags->trigger, "NAME", "only events that this trigger matched"},
      {"--from", &flags->from, "P/O|start|end", "where to begin (default end)"},
      {"-n,--limit", &flags->limit, "N", "stop after so many events (default: no limit)"},
      {"--no-follow", &flags->no_follow, "", "stop at the end of what is recorded"},
  };
  AddSession(command, *flags, true);
  command.run = [flags](Console& console) { return Tail(console, *flags); };
}

}  // namespace tocsin::cli

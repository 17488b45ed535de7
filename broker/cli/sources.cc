// tocsin sources.

#include <memory>

#include "broker/cli/commands.h"
#include "broker/cli/session.h"

namespace tocsin::cli {

void AddSources(Command& root) {
  Command& command =
      root.Add("sources", "show the sources and how far they have come", "tocsin sources -o json");
  auto flags = std::make_shared<SessionFlags>();
  AddSession(command, *flags);
  command.run = [flags](Console& console) {
    return WithClient(console, flags->connection, [&](Client& client) {
      const auto answer = client.ListSources();
      if (!answer.ok()) return console.Fail(answer.status());
      if (flags->output.json()) {
        WriteSourcesJson(*answer, console.Sink());
      } else if (answer->sources().empty()) {
        console.Note("no sources");
      } else {
        WriteSources(*answer, console.table_look(), console.Sink());
      }
      return kExitOk;
    });
  };
}

}  // namespace tocsin::cli

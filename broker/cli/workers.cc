// tocsin workers.

#include <memory>

#include "broker/cli/commands.h"
#include "broker/cli/session.h"

namespace tocsin::cli {

void AddWorkers(Command& root) {
  Command& command = root.Add("workers", "show the attached workers", "tocsin workers -o json");
  auto flags = std::make_shared<SessionFlags>();
  AddSession(command, *flags);
  command.run = [flags](Console& console) {
    return WithClient(console, flags->connection, [&](Client& client) {
      const auto answer = client.ListWorkers();
      if (!answer.ok()) return console.Fail(answer.status());
      if (flags->output.json()) {
        WriteWorkersJson(*answer, console.Sink());
      } else if (answer->workers().empty()) {
        console.Note("no workers");
      } else {
        WriteWorkers(*answer, console.table_look(), console.Sink());
      }
      return kExitOk;
    });
  };
}

}  // namespace tocsin::cli

// tocsin supervise: the broker's own; see local/supervisor.h.

#include <unistd.h>

#include "broker/cli/commands.h"
#include "broker/cli/console.h"
#include "local/supervisor.h"

namespace tocsin::cli {

void AddSupervise(Command& root) {
  Command& command = root.Add(
      "supervise", "serve a broker's local functions; the broker starts it, nobody else need",
      "tocsin supervise < /dev/null");
  command.run = [](Console&) { return RunSupervisor(STDIN_FILENO); };
}

}  // namespace tocsin::cli

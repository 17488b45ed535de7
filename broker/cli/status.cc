// tocsin status.

#include <memory>

#include "broker/base/system_clock.h"
#include "broker/cli/commands.h"
#include "broker/cli/session.h"

namespace tocsin::cli {

void AddStatus(Command& root) {
  Command& command = root.Add("status", "show how the broker is: state, log, partitions, warnings",
                              "tocsin status --target broker.example:7420");
  auto flags = std::make_shared<SessionFlags>();
  AddSession(command, *flags);
  command.run = [flags](Console& console) {
    return WithClient(console, flags->connection, [&](Client& client) {
      const auto answer = client.Status();
      if (!answer.ok()) return console.Fail(answer.status());
      if (flags->output.json()) {
        console.Out(StatusJson(*answer));
      } else {
        const std::int64_t now_us = SystemClock().Wall().time_since_epoch().count();
        WriteStatus(*answer, now_us, console.table_look(), console.Sink());
      }
      return kExitOk;
    });
  };
}

}  // namespace tocsin::cli

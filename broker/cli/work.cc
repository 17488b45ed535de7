// tocsin work FUNCTION -- COMMAND...

#include <memory>
#include <string>
#include <vector>

#include "broker/cli/commands.h"
#include "broker/cli/session.h"
#include "sdk/cpp/exec_worker.h"

namespace tocsin::cli {

void AddWork(Command& root) {
  struct Flags {
    ConnectionFlags connection;
    std::string function;
    std::vector<std::string> command;
    std::string name;
    std::uint64_t concurrency = 1;
    bool extend = false;
  };
  Command& command = root.Add(
      "work",
      "run a command for each event of a function: exit 0 acks, 65 rejects, else it is retried",
      "tocsin work send-report --concurrency 2 -- /usr/local/bin/report.sh --mail");
  auto flags = std::make_shared<Flags>();
  command.positionals.push_back(
      {.name = "FUNCTION", .target = &flags->function, .help = "the function to serve"});
  command.positionals.push_back(
      {.name = "COMMAND",
       .target = &flags->command,
       .help =
           "the command and its arguments, after --; the event comes as CloudEvents JSON on its "
           "standard input, its attributes as CE_* in the environment",
       .is_file = true});
  command.options.push_back({.names = "--concurrency",
                             .target = &flags->concurrency,
                             .value = "N",
                             .help = "commands at a time (default 1)"});
  command.options.push_back({.names = "--name",
                             .target = &flags->name,
                             .value = "NAME",
                             .help = "the worker's name (default: the function's)"});
  command.options.push_back(
      {.names = "--extend",
       .target = &flags->extend,
       .value = "",
       .help = "renew the lease while the command runs, instead of ending it"});
  AddConnection(command, flags->connection);
  command.run = [flags](Console& console) {
    const auto connection = ResolveConnection(flags->connection);
    if (!connection.ok()) {
      console.Fail(connection.status());
      return kExitUsage;
    }
    if (flags->concurrency == 0 || flags->concurrency > 1024) {
      return console.FailUsage("work", "--concurrency is between 1 and 1024");
    }
    sdk::ExecWorkerOptions options;
    options.worker.connection.target = connection->target;
    options.worker.connection.token = connection->token;
    options.worker.connection.tls.enabled = connection->tls;
    options.worker.connection.tls.ca_file = connection->ca_path;
    options.worker.connection.tls.cert_file = connection->cert_path;
    options.worker.connection.tls.key_file = connection->key_path;
    options.name = flags->name;
    options.function = flags->function;
    options.command = flags->command;
    options.concurrency = static_cast<std::uint32_t>(flags->concurrency);
    options.extend = flags->extend;
    return sdk::RunExecWorker(options);
  };
}

}  // namespace tocsin::cli

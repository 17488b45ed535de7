// tocsin serve.

#include <memory>

#include "broker/cli/commands.h"
#include "broker/cli/console.h"
#include "broker/server/server.h"

namespace tocsin::cli {

void AddServe(Command& root) {
  struct Flags {
    std::string config;
    std::string data_dir;
    std::string listen;
    std::string http;
    bool degraded = false;
  };
  Command& command = root.Add(
      "serve", "run a broker until SIGTERM; SIGHUP reloads its configuration",
      "tocsin serve -c tocsin.yaml\ntocsin serve -c tocsin.yaml --data-dir /var/lib/tocsin");
  auto flags = std::make_shared<Flags>();
  command.options.push_back({.names = "-c,--config",
                             .target = &flags->config,
                             .value = "FILE",
                             .help = "the configuration",
                             .required = true,
                             .is_file = true});
  command.options.push_back({.names = "--data-dir",
                             .target = &flags->data_dir,
                             .value = "DIR",
                             .help = "in place of broker.data_dir",
                             .is_file = true});
  command.options.push_back({.names = "--listen",
                             .target = &flags->listen,
                             .value = "ADDRESS",
                             .help = "in place of broker.listen; port 0 takes a free one"});
  command.options.push_back({.names = "--http",
                             .target = &flags->http,
                             .value = "ADDRESS",
                             .help = "in place of broker.http; port 0 takes a free one"});
  command.options.push_back({.names = "--degraded",
                             .target = &flags->degraded,
                             .value = "",
                             .help = "start although a segment of the journal is missing"});
  command.run = [flags](Console&) {
    ServerOptions options;
    options.config_path = flags->config;
    if (!flags->data_dir.empty()) options.data_dir = flags->data_dir;
    if (!flags->listen.empty()) options.listen = flags->listen;
    if (!flags->http.empty()) options.http = flags->http;
    options.degraded = flags->degraded;
    // This program, whatever has become of the path that it was started by.
    options.supervisor = {"/proc/self/exe", "supervise"};
    return RunServer(std::move(options));
  };
}

}  // namespace tocsin::cli

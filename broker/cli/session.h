// What commands that talk to the broker share: their flags, the client, the console.

#pragma once

#include <functional>

#include "broker/cli/client.h"
#include "broker/cli/command.h"
#include "broker/cli/console.h"
#include "broker/cli/output.h"

namespace tocsin::cli {

struct SessionFlags {
  ConnectionFlags connection;
  OutputFlags output;
};

inline void AddSession(Command& command, SessionFlags& flags, bool with_lines = false) {
  AddOutput(command, flags.output, with_lines);
  AddConnection(command, flags.connection);
}

// Runs `body` with a client, or fails in words.
inline int WithClient(Console& console, const ConnectionFlags& flags,
                      const std::function<int(Client&)>& body) {
  const auto client = Client::New(flags);
  if (!client.ok()) {
    console.Fail(client.status());
    return absl::IsInvalidArgument(client.status()) ? kExitUsage : kExitFailed;
  }
  if ((*client)->SendsTokenInTheClear()) {
    console.Warn("the token travels unencrypted to " + (*client)->target() + "; use --tls");
  }
  return body(**client);
}

}  // namespace tocsin::cli

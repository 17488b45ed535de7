// tocsin completion.

#include <memory>

#include "broker/cli/commands.h"
#include "broker/cli/completion.h"
#include "broker/cli/console.h"

namespace tocsin::cli {

void AddCompletion(Command& root) {
  Command& command = root.Add("completion", "print a script that makes a shell complete commands",
                              "source <(tocsin completion bash)\ntocsin completion fish | source");
  auto shell = std::make_shared<std::string>();
  command.positionals.push_back(
      {"SHELL", shell.get(), "bash, zsh or fish", {"bash", "zsh", "fish"}, true, false});
  command.run = [shell](Console& console) {
    console.Out(CompletionScript(*NewRoot(), *shell));
    return kExitOk;
  };
}

}  // namespace tocsin::cli

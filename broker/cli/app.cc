#include <algorithm>
#include <utility>

#include "broker/cli/commands.h"
#include "broker/cli/console.h"
#include "broker/cli/parse.h"

namespace tocsin::cli {

std::unique_ptr<Command> NewRoot() {
  auto root = std::make_unique<Command>();
  root->name = "tocsin";
  root->summary = "Tocsin: an event bus and trigger router in one program";
  root->example =
      "tocsin serve -c tocsin.yaml\n"
      "tocsin publish --type order.paid --source /shop --data '{\"total\": 12}'";
  AddServe(*root);
  AddValidate(*root);
  AddFilter(*root);
  AddExplain(*root);
  AddPublish(*root);
  AddTail(*root);
  AddTriggers(*root);
  AddSources(*root);
  AddSchedule(*root);
  AddFunctions(*root);
  AddWorkers(*root);
  AddDead(*root);
  AddReplay(*root);
  AddStatus(*root);
  AddReload(*root);
  AddWork(*root);
  AddCron(*root);
  AddImport(*root);
  AddSimulate(*root);
  AddTest(*root);
  AddSupervise(*root);
  AddVersion(*root);
  AddCompletion(*root);
  return root;
}

int RunCommandLine(std::vector<std::string> words) {
  Console console;
  // What other programs are asked for first.
  if (words.size() == 1 && words.front() == "--version") words = {"version"};
  const std::unique_ptr<Command> root = NewRoot();
  const Parsed parsed = Parse(*root, std::move(words));
  if (parsed.command == nullptr) {
    console.Out(parsed.out);
    std::string error = parsed.error;
    while (!error.empty() && error.back() == '\n') error.pop_back();
    if (!error.empty()) console.Note(error);
    return console.Finish(parsed.status);
  }
  return console.Finish(parsed.command->run(console));
}

}  // namespace tocsin::cli

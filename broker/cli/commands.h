// Every command, one file each. An Add function hangs its command below `root`; what the command
// needs at run time lives in the closure it leaves there.

#pragma once

#include <memory>
#include <string>

#include "broker/cli/command.h"

namespace tocsin::cli {

void AddServe(Command& root);
void AddValidate(Command& root);
void AddFilter(Command& root);
void AddExplain(Command& root);
void AddPublish(Command& root);
void AddTail(Command& root);
void AddTriggers(Command& root);
void AddSources(Command& root);
void AddSchedule(Command& root);
void AddFunctions(Command& root);  // functions, runs
void AddWorkers(Command& root);
void AddDead(Command& root);
void AddStatus(Command& root);
void AddReplay(Command& root);
void AddReload(Command& root);
void AddWork(Command& root);
void AddCron(Command& root);
void AddImport(Command& root);
void AddSimulate(Command& root);
void AddTest(Command& root);
void AddSupervise(Command& root);
void AddVersion(Command& root);
void AddCompletion(Command& root);

// The whole tree.
std::unique_ptr<Command> NewRoot();

// `0.1.0`.
std::string VersionText();

// Parses `words` (without the program's name), runs the command, gives the exit status.
int RunCommandLine(std::vector<std::string> words);

}  // namespace tocsin::cli

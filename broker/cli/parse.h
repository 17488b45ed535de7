// From the words of a command line to the command to run. The one file that knows CLI11.

#pragma once

#include <string>
#include <vector>

#include "broker/cli/command.h"

namespace tocsin::cli {

struct Parsed {
  // The command to run, or nullptr: then print `out` to stdout and `error` to stderr and exit
  // with `status`.
  const Command* command = nullptr;
  int status = kExitOk;
  std::string out;
  std::string error;
};

// Fills the targets of the options given. `words` without the program's name.
Parsed Parse(const Command& root, std::vector<std::string> words);

}  // namespace tocsin::cli

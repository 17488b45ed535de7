// Shell completion, generated from the tree of commands. Pure.

#pragma once

#include <string>
#include <string_view>

#include "broker/cli/command.h"

namespace tocsin::cli {

// A script for `shell` (bash, zsh or fish) that completes commands, options, their choices, and
// file names where an option or an argument is a file. Empty for another shell.
std::string CompletionScript(const Command& root, std::string_view shell);

}  // namespace tocsin::cli

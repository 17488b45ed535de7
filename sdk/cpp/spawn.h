// Spawn: starts a process as the leader of a process group of its own.
//
// Safe in a process with threads: between fork and exec there are system calls alone.

#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace tocsin::sdk {

struct SpawnOptions {
  std::vector<std::string> command;      // the program is looked up in PATH; at least one element
  std::vector<std::string> environment;  // NAME=VALUE, all of it; later ones win
  std::string directory;                 // empty: the user's home if there is a `user`, else ours
  std::string user;     // empty: as we are; sets HOME, USER and LOGNAME where they are not given
  int end_with_us = 0;  // the signal it gets when the calling thread ends; 0: none
  int stdin_fd = -1, stdout_fd = -1, stderr_fd = -1;  // -1: ours
};

// The process's id, or -1 and why: "cannot start x: No such file or directory".
pid_t Spawn(const SpawnOptions& options, std::string* error);

// The path that `program` stands for, as execvp() looks for it; empty if nothing can be run.
std::string FindProgram(const std::string& program);

}  // namespace tocsin::sdk

// The program: everything is in the commands.

#include "absl/synchronization/mutex.h"
#include "broker/cli/commands.h"

int main(int argc, char** argv) {
  // gRPC's mutexes are absl's, and Debian's absl, built without NDEBUG, keeps a graph of them to
  // find deadlocks: about 1 % of a busy broker's time, by its profile.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return tocsin::cli::RunCommandLine({argv + (argc > 0 ? 1 : 0), argv + argc});
}

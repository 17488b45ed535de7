// The program: everything is in the commands.

#include "broker/cli/commands.h"

int main(int argc, char** argv) {
  return tocsin::cli::RunCommandLine({argv + (argc > 0 ? 1 : 0), argv + argc});
}

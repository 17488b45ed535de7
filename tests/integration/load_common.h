// What the programs of load have in common (kill_load.cc, soak_load.cc): they publish until their
// input ends, and come back soon after the broker was away.

#pragma once

#include <poll.h>
#include <unistd.h>

#include "sdk/cpp/connection.h"

namespace tocsin {

// Waits for at most `wait_ms`; true once standard input is closed.
inline bool InputEnds(int wait_ms) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  if (::poll(&input, 1, wait_ms) <= 0) return false;
  char byte = 0;
  return ::read(STDIN_FILENO, &byte, 1) <= 0;
}

// Most of a short life of the broker is to be spent at work.
inline sdk::ConnectionOptions QuickToReturn() {
  sdk::ConnectionOptions connection;
  connection.backoff_min = std::chrono::milliseconds(10);
  connection.backoff_max = std::chrono::milliseconds(100);
  return connection;
}

}  // namespace tocsin

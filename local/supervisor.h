// RunSupervisor: the process that serves local functions: what `tocsin supervise` is.
//
//   broker --SupervisorCommand frames--> stdin of the supervisor --Attach over a Unix socket-->
//   broker
//
// Workers of functions with `run` are processes of their own, which attach by themselves; how many,
// the load decides (run_pool.h).
//
// Every command replaces what is served: for `exec` a worker with the new functions attaches, the
// old one takes nothing more, finishes what it holds and leaves; workers whose command changed are
// told to finish. When the input ends (the broker ended, in whatever way) or on SIGTERM, running
// commands and workers get TERM, then KILL, and the process ends: nothing of a broker outlives it.

#pragma once

namespace tocsin {

// `input`: a pipe from the broker. Blocks; the exit status: 0, or 1 after a frame that is none.
int RunSupervisor(int input);

}  // namespace tocsin

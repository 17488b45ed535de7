// RunSupervisor: the process that serves local functions: what `tocsin supervise` is.
//
//   broker --SupervisorCommand frames--> stdin of the supervisor --Attach over a Unix socket-->
//   broker
//
// Every command replaces what is served: a worker with the new functions attaches, the old one
// takes nothing more, finishes what it holds and leaves. When the input ends (the broker ended, in
// whatever way) or on SIGTERM, running commands get TERM, then KILL, and the process ends: nothing
// of a broker outlives it.

#pragma once

namespace tocsin {

// `input`: a pipe from the broker. Blocks; the exit status: 0, or 1 after a frame that is none.
int RunSupervisor(int input);

}  // namespace tocsin

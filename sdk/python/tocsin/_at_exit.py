"""What is still open when the interpreter ends is closed, in the process that opened it."""

from __future__ import annotations

import atexit
import os
import weakref


class ClosedAtExit:
    """Its threads are daemons, so that they never hold up the end of the process; in exchange it
    is told to close while they still run."""

    def _close_at_exit(self) -> None:
        """Must not wait for long."""
        raise NotImplementedError


_open: "weakref.WeakSet[ClosedAtExit]" = weakref.WeakSet()


def add(thing: ClosedAtExit) -> None:
    _open.add(thing)


def remove(thing: ClosedAtExit) -> None:
    _open.discard(thing)


def _forget() -> None:
    """In a forked child: the threads of what is open exist in the parent only."""
    _open.clear()


def _close_all() -> None:
    for thing in list(_open):
        thing._close_at_exit()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget)

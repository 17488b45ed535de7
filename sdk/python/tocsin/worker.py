"""Worker: serves functions to a Tocsin broker over one stream.

    worker = Worker("orders")

    @worker.function("charge", concurrency=8)
    def charge(event: CloudEvent, ctx: Context) -> None:
        if busy():
            raise Retry(after="10s")

    worker.run()        # until SIGTERM, SIGINT or stop()
"""

from __future__ import annotations

import os
import select
import signal
import threading
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Type, TypeVar, Union

from . import _at_exit
from ._connection import Connection, Tls, resolve
from ._functions import Function
from .duration import Duration, seconds

F = TypeVar("F", bound=Callable[..., Any])


class Worker(_at_exit.ClosedAtExit):
    """A process's functions, and its connection to the broker.

    name          of the worker, as `tocsin workers` shows it
    target        host:port; default TOCSIN_TARGET, else 127.0.0.1:7420
    token         default TOCSIN_TOKEN, else none
    tls           True or a Tls for TLS
    instance      tells processes of one worker apart; default host name and process id
    version       of the application, shown by `tocsin workers`
    prefetch      deliveries that may wait here beyond the functions' concurrency: throughput for
                  short handlers, at the price of less even spreading
    credit_bytes  of events that are under way here; 0: not limited by bytes
    threads_max   sync handlers at a time, over all functions

    What a handler raises is its answer: Retry, Reject and Drop say so, anything else is a retry by
    the trigger's policy with the exception's type and text. A handler that returns acks. Sync
    handlers run on threads, async ones on one event loop on a thread of its own; each function at
    most `concurrency` at a time. Deliveries come at least once: see Context.idempotency_key.

    Register before start. start, stop, abort and wait_attached from any thread; run on the main
    thread if signals are to be handled. After a fork only the parent's worker is attached; the
    child may start it anew if the parent had not started it.
    """

    def __init__(self, name: str, target: Optional[str] = None, *, token: Optional[str] = None,
                 tls: Union[Tls, bool, None] = None, instance: str = "", version: str = "",
                 prefetch: int = 0, credit_bytes: int = 64 * 1024 * 1024,
                 threads_max: int = 64) -> None:
        if not name:
            raise ValueError("a worker has a name")
        if prefetch < 0 or credit_bytes < 0 or threads_max < 1:
            raise ValueError("prefetch and credit_bytes are at least 0, threads_max at least 1")
        self._name = name
        self._connection: Connection = resolve(target, token, tls)
        self._instance = instance
        self._version = version
        self._prefetch = prefetch
        self._credit_bytes = credit_bytes
        self._threads_max = threads_max
        self._functions: Dict[str, Function] = {}
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._attachment: Any = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def target(self) -> str:
        return self._connection.target

    @property
    def functions(self) -> List[str]:
        """The names of what it serves, as registered."""
        return list(self._functions)

    # ---- registration

    def function(self, name: str, *, concurrency: int = 1) -> Callable[[F], F]:
        """Decorates the handler of a function: `def` or `async def`, (event, ctx) or (event).

        concurrency   of its calls at a time. The credit this gives the broker is also how many
                      deliveries it sends ahead.

        ValueError for a name that is taken or a concurrency below 1.
        """
        def register(handler: F) -> F:
            self._add(Function(name, handler, concurrency))
            return handler
        return register

    def batch(self, name: str, *, max_events: int = 100, max_wait: Duration = 0.2,
              concurrency: int = 1) -> Callable[[F], F]:
        """Decorates a batch handler: (events, contexts) or (events), lists of equal length.

        max_events    of a batch
        max_wait      for it to fill, from its first event
        concurrency   batches at a time

        Returning None acks all; see BatchReturn for answers event by event. What it raises holds
        for all of them.
        """
        wait = seconds(max_wait)

        def register(handler: F) -> F:
            self._add(Function(name, handler, concurrency, True, max_events, wait))
            return handler
        return register

    def _add(self, function: Function) -> None:
        with self._lock:
            if self._attachment is not None:
                raise RuntimeError(f"function {function.name!r}: register before the worker starts")
            if function.name in self._functions:
                raise ValueError(f"function {function.name!r} is registered already")
            self._functions[function.name] = function

    # ---- life

    def start(self) -> None:
        """Attaches in the background and returns at once; comes back for ever when the connection
        is lost. RuntimeError if it is started or serves nothing; OSError for unreadable TLS files.
        """
        self._start(lambda: None)

    def _start(self, on_end: Callable[[], None]) -> Any:
        from ._session import Attachment

        with self._lock:
            if self._attachment is not None and not self._attachment.ended:
                raise RuntimeError(f"worker {self._name} is started already")
            if not self._functions:
                raise RuntimeError(f"worker {self._name} serves nothing: register a function")
            functions = list(self._functions.values())
            attachment = Attachment(
                self._name, functions, self._connection, instance=self._instance,
                version=self._version, credit_bytes=self._credit_bytes,
                credit_events=self._prefetch + sum(function.credit for function in functions),
                threads_max=self._threads_max, on_end=on_end)
            attachment.start()
            self._attachment = attachment
        _at_exit.add(self)
        return attachment

    def wait_attached(self, timeout: Optional[Duration] = None) -> bool:
        """Waits until the broker has welcomed it. False: not in time, or it has ended."""
        attachment = self._attachment
        if attachment is None:
            return False
        return bool(attachment.wait_attached(None if timeout is None else seconds(timeout)))

    def stop(self, timeout: Optional[Duration] = None) -> bool:
        """Takes no more, finishes what it holds, leaves. Waits for that, at most `timeout`; then
        aborts. True: everything it held was answered. From a handler it does not wait, and
        returns False."""
        attachment = self._attachment
        if attachment is None:
            return True
        attachment.request_stop()
        if not attachment.join(None if timeout is None else seconds(timeout)):
            if timeout is not None:
                attachment.abort()
            return False
        _at_exit.remove(self)
        return not attachment.aborted

    def abort(self) -> None:
        """Cancels what runs and leaves without its answers; they are delivered again."""
        attachment = self._attachment
        if attachment is not None:
            attachment.abort()

    def run(self, *, handle_signals: bool = True) -> int:
        """Serves until SIGTERM, SIGINT or stop(): takes no more, finishes what it holds, leaves,
        returns 0. A second signal, or abort(): returns 1 at once, without waiting for handlers;
        their deliveries are made again.

        On another thread than the main one signals are not handled.
        """
        with _Wakeups(handle_signals) as wakeups:
            attachment = self._start(wakeups.end)
            try:
                signals = 0
                while wakeups.next(_ABORT_SECONDS if signals > 1 else None) != _END:
                    signals += 1
                    if signals == 1:
                        attachment.request_stop()
                    else:
                        attachment.abort()
            except BaseException:
                attachment.abort()
                raise
            finally:
                _at_exit.remove(self)
            return 1 if attachment.aborted else 0

    def _close_at_exit(self) -> None:
        attachment = self._attachment
        if attachment is not None and not attachment.ended:
            attachment.abort()
            attachment.join(2)

    def __enter__(self) -> Worker:
        """Starts it; the end of the block stops it."""
        self.start()
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Worker {self._name!r} of {os.getpid()}: {', '.join(self._functions)}>"


_END = 0  # no signal has this number
_ABORT_SECONDS = 2.0  # how long a connection that is cancelled may take to end


class _Wakeups:
    """What run() waits for: signals and the end of the attachment, as bytes of one pipe.

    The kernel may hand a signal to any thread. Python's own handlers run on the main one, which may
    sleep on; what is written to the pipe wakes it whichever thread it was.
    """

    def __init__(self, handle_signals: bool) -> None:
        self._signals = handle_signals and threading.current_thread() is threading.main_thread()
        self._read, self._write = os.pipe()
        self._handlers: Dict[int, Any] = {}
        self._before = -1
        self._lock = threading.Lock()
        self._closed = False  # guarded by the lock

    def __enter__(self) -> "_Wakeups":
        os.set_blocking(self._write, False)
        if self._signals:
            self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._signals:
            signal.set_wakeup_fd(self._before)
        with self._lock:
            self._closed = True
            os.close(self._write)
            os.close(self._read)

    def end(self) -> None:
        """From the attachment's thread, also after run() was left by an error."""
        with self._lock:
            if not self._closed:
                os.write(self._write, bytes([_END]))

    def next(self, timeout: Optional[float]) -> int:
        """The number of a signal that is handled, or _END, also after `timeout` seconds."""
        while True:
            if timeout is not None and not select.select([self._read], [], [], timeout)[0]:
                return _END
            number = os.read(self._read, 1)[0]
            if number == _END or number in self._handlers:
                return number

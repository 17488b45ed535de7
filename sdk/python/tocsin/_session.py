"""The connection of a worker: connects, serves a session, connects again.

    connect ─ Hello ─ Welcome ─ deliveries ... answers ─┬─ lost: back off, connect again
                                                        ├─ Drain: finish, Leaving, connect again
                                                        └─ stop: finish, Leaving, end

Threads: one of ours connects and reads; gRPC's thread that asks Requests for the next frame is the
session's writer. Everything they share is guarded by the engine's lock.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any, Callable, Iterator, List, Optional

from ._connection import Backoff, Connection, Ended, check, ended, metadata, new_channel
from ._engine import Engine
from ._functions import Function
from ._wire import ATTACH, PROTOCOL, BrokerFrame, WorkerFrame

_log = logging.getLogger("tocsin.worker")
_HEARTBEAT_DEFAULT = 4.0


class Requests(Iterator[Any]):
    """The frames of one session, as gRPC asks for them: each when the one before was handed to the
    connection. That is what batches answers: whatever came up meanwhile is the next frame."""

    def __init__(self, engine: Engine, connection: Connection, hello: Any) -> None:
        self._engine = engine
        self._connection = connection
        self._hello: Optional[Any] = hello
        self.call: Any = None
        # Guarded by the engine's lock.
        self.welcomed = False
        self.leaving = False
        self.over = False
        self.heartbeat = _HEARTBEAT_DEFAULT
        self._left = False
        self._welcome_due = time.monotonic() + connection.welcome_within
        self._heartbeat_due = time.monotonic() + _HEARTBEAT_DEFAULT
        self._goodbye: Optional[threading.Timer] = None

    def __next__(self) -> Any:
        with self._engine.lock:
            self._engine.written_locked()
            frame = self._next_locked()
        if frame is None:
            # Not under the lock: gRPC has its own.
            self.call.cancel()
            raise StopIteration
        return frame

    def _next_locked(self) -> Optional[Any]:
        """The next frame; None: the broker does not welcome us. StopIteration: no more."""
        engine = self._engine
        if self._hello is not None:
            hello, self._hello = self._hello, None
            return hello
        while True:
            if self.over:
                raise StopIteration
            now = time.monotonic()
            due = engine.tick_locked()
            frame = WorkerFrame()
            if self.leaving and not self._left:
                self._left = True
                frame.leaving.SetInParent()
                return frame
            if engine.take_answers_locked(frame.answers):
                self._heartbeat_due = now + self.heartbeat
                return frame
            if self._left and engine.idle_locked():
                engine.half_closed_locked()
                self._goodbye = threading.Timer(self._connection.goodbye_within, self.call.cancel)
                self._goodbye.daemon = True
                self._goodbye.start()
                raise StopIteration  # half-closes; the broker ends the call
            if not self.welcomed and now >= self._welcome_due:
                return None
            if now >= self._heartbeat_due:
                self._heartbeat_due = now + self.heartbeat
                frame = WorkerFrame()
                frame.heartbeat.SetInParent()
                return frame
            due = min(due, self._heartbeat_due if self.welcomed else self._welcome_due)
            engine.changed.wait(max(0.0, due - now))

    def on_welcome_locked(self, heartbeat_ms: int) -> None:
        self.welcomed = True
        if heartbeat_ms > 0:
            self.heartbeat = heartbeat_ms / 1000
        self._heartbeat_due = min(self._heartbeat_due, time.monotonic() + self.heartbeat)
        self._engine.changed.notify_all()

    def leave_locked(self) -> None:
        self.leaving = True
        self._engine.set_draining_locked()
        self._engine.changed.notify_all()

    def end(self) -> None:
        """The call is over: lets gRPC's thread go."""
        with self._engine.lock:
            self.over = True
            self._engine.changed.notify_all()
            goodbye = self._goodbye
        if goodbye is not None:
            goodbye.cancel()


class Attachment:
    """A worker that is attached, or trying to be. One life: start, then it ends by stop or abort.

    start() once; every other method from any thread.
    """

    def __init__(self, name: str, functions: List[Function], connection: Connection, *,
                 instance: str, version: str, credit_events: int, credit_bytes: int,
                 threads_max: int, on_end: Callable[[], None]) -> None:
        self._name = name
        self._functions = functions
        self._connection = connection
        self._instance = instance or f"{socket.gethostname()}/{os.getpid()}"
        self._version = version
        self._credit_events = credit_events
        self._credit_bytes = credit_bytes
        self._on_end = on_end
        self._engine = Engine(functions, threads_max)
        self._thread = threading.Thread(target=self._main, name=f"tocsin-{name}", daemon=True)
        self._stop_wanted = threading.Event()
        self._attached = threading.Condition(self._engine.lock)
        # Guarded by the engine's lock.
        self._session: Optional[Requests] = None
        self._aborted = False
        self._ended = False

    @property
    def aborted(self) -> bool:
        return self._aborted

    @property
    def ended(self) -> bool:
        return self._ended

    def start(self) -> None:
        """OSError if a TLS file cannot be read."""
        check(self._connection)
        self._thread.start()

    def request_stop(self) -> None:
        """Takes no more, finishes what it holds, leaves, ends."""
        if not self._stop_wanted.is_set():
            _log.info("worker %s: stopping; finishing what it holds", self._name)
        self._stop_wanted.set()
        with self._engine.lock:
            if self._session is not None:
                self._session.leave_locked()

    def abort(self) -> None:
        """Cancels what runs and ends without its answers."""
        self._aborted = True
        self._stop_wanted.set()
        self._engine.abandon()
        with self._engine.lock:
            call = self._session.call if self._session is not None else None
        if call is not None:
            call.cancel()

    def join(self, timeout: Optional[float] = None) -> bool:
        """Whether it has ended. From a handler: without waiting, because it waits for that."""
        if not self._engine.is_own_thread() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return self._ended

    def wait_attached(self, timeout: Optional[float]) -> bool:
        with self._engine.lock:
            return self._attached.wait_for(
                lambda: self._ended or (self._session is not None and self._session.welcomed),
                timeout) and not self._ended

    # ---- the connection's thread

    def _main(self) -> None:
        try:
            self._run()
        except BaseException:
            _log.exception("worker %s: ended by an error of its own", self._name)
            self.abort()
        finally:
            self._engine.shutdown()
            with self._engine.lock:
                self._ended = True
                self._attached.notify_all()
            self._on_end()

    def _run(self) -> None:
        backoff = Backoff(self._connection)
        while not self._stop_wanted.is_set():
            session, how = self._serve()
            if self._stop_wanted.is_set():
                return
            if session.welcomed:
                backoff.reset()
            wait = backoff.next()
            level = logging.INFO if session.leaving else logging.WARNING
            _log.log(level, "worker %s: %s %s (%s); trying again in %.1f s", self._name,
                     "lost the connection to" if session.welcomed else "cannot attach to",
                     self._connection.target, how, wait)
            self._stop_wanted.wait(wait)

    def _serve(self) -> "tuple[Requests, Ended]":
        """One session, to its end."""
        import grpc  # type: ignore[import]

        session = Requests(self._engine, self._connection, self._hello())
        self._engine.begin_session()
        channel = new_channel(self._connection)
        attach = channel.stream_stream(
            ATTACH, request_serializer=WorkerFrame.SerializeToString,
            response_deserializer=BrokerFrame.FromString)
        session.call = attach(session, metadata=metadata(self._connection))
        how = Ended("OK", "")
        with self._engine.lock:
            self._session = session
            if self._stop_wanted.is_set():
                session.leave_locked()
        if self._aborted:
            session.call.cancel()
        try:
            for frame in session.call:
                self._on_frame(session, frame)
        except grpc.RpcError as error:
            how = ended(error)
            if how.code == "CANCELLED" and not session.welcomed:
                how = Ended("DEADLINE_EXCEEDED", "the broker did not welcome us")
        finally:
            with self._engine.lock:
                self._session = None
            session.end()
            self._engine.end_session()
            channel.close()
        return session, how

    def _hello(self) -> Any:
        frame = WorkerFrame()
        hello = frame.hello
        hello.protocol = PROTOCOL
        hello.worker = self._name
        hello.instance = self._instance
        hello.version = self._version
        hello.functions.extend(function.name for function in self._functions)
        hello.credit.events = self._credit_events
        hello.credit.bytes = self._credit_bytes
        return frame

    def _on_frame(self, session: Requests, frame: Any) -> None:
        kind = frame.WhichOneof("frame")
        if kind == "welcome":
            _log.info("worker %s: attached to %s (session %d, %d functions, %d at a time)",
                      self._name, self._connection.target, frame.welcome.session,
                      len(self._functions), self._credit_events)
            with self._engine.lock:
                session.on_welcome_locked(frame.welcome.heartbeat_ms)
                self._attached.notify_all()
        elif kind == "deliveries":
            self._engine.deliver(frame.deliveries)
        elif kind == "cancel":
            self._engine.cancel(frame.cancel.handles)
        elif kind == "drain":
            _log.info("worker %s: the broker asks to finish and come back: %s", self._name,
                      frame.drain.reason)
            with self._engine.lock:
                session.leave_locked()
        elif kind == "refused":
            _log.info("worker %s: %d answers came too late: %s", self._name, frame.refused.count,
                      frame.refused.reason)

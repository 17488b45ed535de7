"""Publisher: sends events to a Tocsin broker, batching by itself, many batches under way.

    with Publisher() as publisher:
        stored = publisher.publish(CloudEvent("order.paid", "/shop", {"total": 12}))
        print(stored.result().partition)

    publish ─> queue ─> batch n+2 │ in flight: n, n+1 ─> answers in order ─> futures
                 ^──────────────── refused for want of room, or the connection was lost ──┘

A batch is whatever came while the one before was written: no timer, no delay at low load. Events
of one publisher keep their order, also over refusals (sent again from the first refused one after
the broker's hint) and lost connections (sent again with the same ids; the broker's dedupe makes
that exactly once within its window). A duplicate is a success.

An event with the extension `tocsindeliverat` (RFC 3339 text, or an aware datetime) or
`tocsindeliverin` (a duration as text, `90s`) is kept by the broker and delivered at that time.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional, Tuple, Type, Union

from . import _at_exit
from ._connection import (
    Backoff,
    Connection,
    Ended,
    Tls,
    check,
    ended,
    metadata,
    new_channel,
    resolve,
)
from ._publish_wire import Batch, Entry, PublishError, PublishResult, encode_request, read_response
from ._wire import PUBLISH_STREAM, PublishResponse
from .duration import Duration, seconds
from .event import CloudEvent

__all__ = ["PublishError", "PublishResult", "Publisher"]

_log = logging.getLogger("tocsin.publisher")
_ROOM_HINT_DEFAULT = 0.1
_ROOM_HINT_MAX = 10.0
_FATAL = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED")
_EXIT_FLUSH = 5.0

Done = Tuple["Future[PublishResult]", PublishResult]


class Publisher(_at_exit.ClosedAtExit):
    """Sends events. Connects at the first publish, and again whenever the connection is lost.

    target, token, tls       as of Worker
    positions                ask the broker for every event's partition and offset
    batch_events_max, batch_bytes_max    of one request; a larger event travels alone
    batches_in_flight_max    sent and not answered
    queue_events_max, queue_bytes_max    published and not answered: publish() waits beyond them

    Every method from any thread. Callbacks of the futures run on the publisher's thread: they must
    be quick, and may publish (then publish() does not wait). Close it, or use `with`; what is
    unanswered when the interpreter ends gets 5 s. Of no use in a forked child.
    """

    def __init__(self, target: Optional[str] = None, *, token: Optional[str] = None,
                 tls: Union[Tls, bool, None] = None, positions: bool = False,
                 batch_events_max: int = 2048, batch_bytes_max: int = 1024 * 1024,
                 batches_in_flight_max: int = 32, queue_events_max: int = 131_072,
                 queue_bytes_max: int = 64 * 1024 * 1024) -> None:
        if min(batch_events_max, batch_bytes_max, batches_in_flight_max, queue_events_max,
               queue_bytes_max) < 1:
            raise ValueError("a publisher's limits are at least 1")
        # Set at construction.
        self._connection: Connection = resolve(target, token, tls)
        self._positions = positions
        self._batch_events_max = batch_events_max
        self._batch_bytes_max = batch_bytes_max
        self._batches_in_flight_max = batches_in_flight_max
        self._queue_events_max = queue_events_max
        self._queue_bytes_max = queue_bytes_max
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._writer_wake = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)  # room, emptiness
        # Guarded by _lock.
        self._thread: Optional[threading.Thread] = None
        self._call: Any = None
        self._queue: Deque[Entry] = deque()
        self._in_flight: Deque[Batch] = deque()
        self._refused: List[Entry] = []  # in order; sent again when nothing is in flight any more
        self._unanswered_events = 0
        self._unanswered_bytes = 0
        self._next_sequence = 1
        self._resend = False  # the next batch begins with what was refused
        self._room_hint = 0.0
        self._answered_once = False  # on this connection
        self._closing = False

    # ---- publishing

    def publish(self, event: CloudEvent) -> "Future[PublishResult]":
        """Queues the event, and waits only while the queue is full. The future gives its
        PublishResult, or raises PublishError if the broker refused it.

        RuntimeError in a forked child; OSError for unreadable TLS files.
        """
        future = self._enqueue(event.to_protobuf(), wait=True)
        assert future is not None
        return future

    def publish_and_wait(self, event: CloudEvent,
                         timeout: Optional[Duration] = None) -> PublishResult:
        """The same, and waits for the answer. TimeoutError: not in time; it may still be stored."""
        future = self.publish(event)
        try:
            return future.result(None if timeout is None else seconds(timeout))
        except TimeoutError:
            raise
        except Exception as error:
            # concurrent.futures has a TimeoutError of its own before Python 3.11.
            if type(error).__name__ == "TimeoutError":
                raise TimeoutError(f"no answer within {timeout}") from error
            raise

    def publish_batch(self, events: Iterable[CloudEvent]) -> List[PublishResult]:
        """Publishes all in order and waits. One result per event; of those that were refused,
        `error` says why: nothing is raised for them."""
        futures = [self.publish(event) for event in events]
        results = []
        for future in futures:
            try:
                results.append(future.result())
            except PublishError as error:
                results.append(PublishResult(error=error))
        return results

    async def publish_async(self, event: CloudEvent) -> PublishResult:
        """publish() for asyncio: waits for the answer, and for room, without holding up the
        loop."""
        encoded = event.to_protobuf()
        future = self._enqueue(encoded, wait=False)
        if future is None:
            future = await asyncio.get_running_loop().run_in_executor(
                None, functools.partial(self._enqueue, encoded, wait=True))
            assert future is not None
        return await asyncio.wrap_future(future)

    def flush(self, timeout: Optional[Duration] = None) -> bool:
        """Waits until everything published is answered. False: the time was over first."""
        self._not_from_callback("flush")
        with self._lock:
            return self._changed.wait_for(lambda: self._unanswered_events == 0,
                                          None if timeout is None else seconds(timeout))

    def close(self, timeout: Duration = 10.0) -> None:
        """Flushes for at most `timeout`, then disconnects. What has no answer by then, and what is
        published later, gets PublishError CANCELLED: it may be stored or not. Idempotent."""
        self._not_from_callback("close")
        if self._pid != os.getpid():
            return
        self.flush(timeout)
        with self._lock:
            self._closing = True
            thread, call = self._thread, self._call if self._in_flight else None
            self._writer_wake.notify_all()
            self._changed.notify_all()
        if call is not None:
            call.cancel()
        if thread is not None:
            thread.join()
        _at_exit.remove(self)

    def _close_at_exit(self) -> None:
        with self._lock:
            waiting = self._unanswered_events
        if waiting:
            _log.warning("publisher: not closed, and %d events have no answer; waiting for at "
                         "most %.0f s", waiting, _EXIT_FLUSH)
        self.close(_EXIT_FLUSH)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def _not_from_callback(self, what: str) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"{what} from a future's callback would wait for itself")

    def _enqueue(self, encoded: bytes, wait: bool) -> "Optional[Future[PublishResult]]":
        """None: no room, and not to wait."""
        if self._pid != os.getpid():
            raise RuntimeError("this publisher belongs to the parent process: make one after the "
                               "fork")
        future: "Future[PublishResult]" = Future()
        future.set_running_or_notify_cancel()  # it cannot be taken back
        with self._lock:
            if threading.current_thread() is not self._thread:
                while not self._closing and not self._has_room_locked(len(encoded)):
                    if not wait:
                        return None
                    self._changed.wait()
            if not self._closing:
                self._start_locked()
                self._unanswered_events += 1
                self._unanswered_bytes += len(encoded)
                self._queue.append(Entry(encoded, future))
                if len(self._queue) == 1:
                    self._writer_wake.notify_all()
                return future
        future.set_exception(PublishError("CANCELLED", "the publisher is closed"))
        return future

    def _has_room_locked(self, size: int) -> bool:
        return (self._unanswered_events < self._queue_events_max
                and (self._unanswered_events == 0
                     or self._unanswered_bytes + size <= self._queue_bytes_max))

    def _start_locked(self) -> None:
        if self._thread is None:
            check(self._connection)
            self._thread = threading.Thread(target=self._main, name="tocsin-publisher",
                                            daemon=True)
            self._thread.start()
            _at_exit.add(self)

    # ---- the connection's thread

    def _main(self) -> None:
        try:
            backoff = Backoff(self._connection)
            while self._wait_for_events():
                self._one_connection(backoff)
        except BaseException:
            _log.exception("publisher: ended by an error of its own")
        finally:
            with self._lock:
                self._closing = True
                self._changed.notify_all()
                left = [*self._refused, *(e for b in self._in_flight for e in b.entries),
                        *self._queue]
                self._refused, self._in_flight, self._queue = [], deque(), deque()
            self._fail(left, "CANCELLED", "the publisher was closed before the broker answered")

    def _wait_for_events(self) -> bool:
        """False: closing."""
        with self._lock:
            self._writer_wake.wait_for(lambda: self._closing or bool(self._queue))
            return not self._closing

    def _one_connection(self, backoff: Backoff) -> None:
        how = self._serve()
        with self._lock:
            # What has no answer goes first on the next connection, in its order.
            unanswered = [entry for batch in self._in_flight for entry in batch.entries]
            self._in_flight.clear()
            refused, self._refused = self._refused, []
            self._resend = False
            poisoned = how.code == "INVALID_ARGUMENT"
            self._queue.extendleft(reversed(refused if poisoned else refused + unanswered))
            if self._answered_once:
                backoff.reset()
            closing = self._closing
        if poisoned:
            self._fail(unanswered, how.code, how.details)
        if closing:
            return
        if how.code in _FATAL:
            with self._lock:
                queue, self._queue = self._queue, deque()
            self._fail(list(queue), how.code, how.details)
            return
        wait = backoff.next()
        with self._lock:
            waiting = self._unanswered_events
        _log.log(logging.WARNING if waiting else logging.INFO,
                 "publisher: no connection to %s (%s); %d events wait, trying again in %.1f s",
                 self._connection.target, how, waiting, wait)
        with self._lock:
            self._writer_wake.wait_for(lambda: self._closing, wait)

    def _serve(self) -> Ended:
        """One connection, to its end."""
        import grpc  # type: ignore[import]

        requests = _Requests(self)
        channel = new_channel(self._connection)
        stream = channel.stream_stream(
            PUBLISH_STREAM, response_deserializer=PublishResponse.FromString)
        more = [("tocsin-refs", "1")] if self._positions else []
        call = stream(requests, metadata=metadata(self._connection, *more))
        with self._lock:
            self._answered_once = False
            self._call = call
            cancel = self._closing
        if cancel:
            call.cancel()
        try:
            for response in call:
                if not self._on_response(response):
                    call.cancel()
                    break
        except grpc.RpcError as error:
            return ended(error)
        finally:
            with self._lock:
                self._call = None
                requests.over = True
                self._writer_wake.notify_all()
            channel.close()
        return Ended("OK", "")

    def _on_response(self, response: Any) -> bool:
        """False: the answer fits nothing that was sent."""
        with self._lock:
            if not self._in_flight or self._in_flight[0].sequence != response.sequence:
                _log.warning("publisher: %s answered sequence %d, which was not asked",
                             self._connection.target, response.sequence)
                return False
            batch = self._in_flight.popleft()
            self._answered_once = True
        results, again, hint = read_response(response, len(batch.entries))
        refused = [entry for entry, one in zip(batch.entries, again) if one]
        done = [(entry, result) for entry, result, one in zip(batch.entries, results, again)
                if not one]
        with self._lock:
            self._unanswered_bytes -= sum(len(entry.encoded) for entry, _ in done)
            if refused:
                if not self._refused:
                    self._room_hint = _ROOM_HINT_DEFAULT
                self._room_hint = min(max(hint, self._room_hint), _ROOM_HINT_MAX)
                self._refused += refused
            self._writer_wake.notify_all()
        self._finish([(entry.future, result) for entry, result in done])
        return True

    # ---- the writer: gRPC's thread

    def _next_request(self, requests: _Requests) -> Optional[bytes]:
        """The next request's bytes when there is one; None: no more on this connection."""
        with self._lock:
            while True:
                if requests.over or self._closing:
                    return None
                if self._refused and not self._in_flight:
                    # Everything sent is answered, so what was refused can go again before
                    # anything newer.
                    due = time.monotonic() + self._room_hint
                    self._writer_wake.wait_for(
                        lambda: requests.over or self._closing, max(0.0, due - time.monotonic()))
                    if requests.over or self._closing:
                        return None
                    self._queue.extendleft(reversed(self._refused))
                    self._refused = []
                    self._resend = True
                elif (not self._refused and self._queue
                      and len(self._in_flight) < self._batches_in_flight_max):
                    return self._take_batch_locked()
                else:
                    self._writer_wake.wait()

    def _take_batch_locked(self) -> bytes:
        batch = Batch(self._next_sequence)
        self._next_sequence += 1
        size = 0
        while self._queue and len(batch.entries) < self._batch_events_max:
            entry = self._queue[0]
            if batch.entries and size + len(entry.encoded) > self._batch_bytes_max:
                break
            size += len(entry.encoded)
            batch.entries.append(self._queue.popleft())
        request = encode_request(batch, self._resend)
        self._resend = False
        self._in_flight.append(batch)
        return request

    # ---- answers

    def _fail(self, entries: List[Entry], code: str, message: str) -> None:
        if not entries:
            return
        with self._lock:
            self._unanswered_bytes -= sum(len(entry.encoded) for entry in entries)
        self._finish([(entry.future, PublishResult(error=PublishError(code, message)))
                      for entry in entries])

    def _finish(self, done: List[Done]) -> None:
        for future, result in done:
            if result.error is None:
                future.set_result(result)
            else:
                future.set_exception(result.error)
        with self._lock:
            self._unanswered_events -= len(done)
            self._changed.notify_all()


class _Requests(Iterator[bytes]):
    """The requests of one connection, as gRPC asks for them."""

    def __init__(self, publisher: Publisher) -> None:
        self._next: Callable[[_Requests], Optional[bytes]] = publisher._next_request
        self.over = False  # guarded by the publisher's lock

    def __next__(self) -> bytes:
        request = self._next(self)
        if request is None:
            raise StopIteration
        return request

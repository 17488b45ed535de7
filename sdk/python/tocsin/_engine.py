"""The worker's half of the worker protocol without the stream: what waits, what runs, what is to
be answered, and the threads that call the handlers.

    deliver ─> waiting ─(below its concurrency)─> handler ─> answers ─> take_answers

A session is one connection. Ending it forgets what waits, cancels what runs and drops answers,
because the broker queues everything again. started_through is one below the lowest handle that
still waits: handles rise within a session and each queue is first in, first out.

At low load what is begun is told to the broker before its handler can crash this process; that is
how it tells a poisonous event from its innocent neighbours. `_held` is the time between.

The lease of a delivery that waits here is renewed at its half, and once more when it begins: time
that it waited is not its handler's, and it must not become a dead letter without having run.

A delivery whose lease ended is answered when its handler has returned: the answer is stale and
settles nothing, but until then the broker counts this worker as busy with it.

Threads: one lock; `changed` is signalled when the session's writer may have something to do.
Methods that end in _locked are called with it. Handlers and callbacks run without it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import queue
import threading
import time
from collections import deque
from typing import Any, Deque, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from . import _functions
from ._functions import Function
from ._wire import Answer, clean_text
from .context import Context, ContextPort, Delivery
from .outcome import Drop, Outcome, Reject, Retry

_log = logging.getLogger("tocsin.worker")

# Of what was emitted, in one frame: the next frame takes the rest. One answer alone may have more.
_FRAME_BYTES_MAX = 1024 * 1024


class _Queue:
    """The deliveries of one function."""

    __slots__ = ("function", "waiting", "running")

    def __init__(self, function: Function) -> None:
        self.function = function
        self.waiting: Deque[Delivery] = deque()
        self.running = 0


class _Work:
    """One call of a handler."""

    __slots__ = ("queue", "contexts", "task")

    def __init__(self, of: _Queue, contexts: List[Context]) -> None:
        self.queue = of
        self.contexts = contexts
        self.task: Optional["asyncio.Task[None]"] = None


class Engine(ContextPort):
    """See the head of this file. One life: begun by the first delivery, ended by shutdown()."""

    def __init__(self, functions: Iterable[Function], threads_max: int) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        # Set at construction.
        self._queues = [_Queue(function) for function in functions]
        self._threads_max = threads_max
        self._work: "queue.SimpleQueue[Optional[_Work]]" = queue.SimpleQueue()
        # Guarded by lock.
        self._threads: List[threading.Thread] = []
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._loop_thread: Optional[threading.Thread] = None
        self._busy = 0  # threads with a handler, or about to have one
        self._next_queue = 0
        self._session = 0
        self._connected = False
        self._draining = False
        self._over = False
        self._abandoned = False
        self._held = False
        self._last_handle = 0
        self._started_reported = 0
        self._renew_due = math.inf  # when a waiting delivery's lease is half over, at the earliest
        self._running: Set[Context] = set()
        self._queue_of: Dict[int, _Queue] = {}  # by the broker's number
        self._trigger_of: Dict[Tuple[int, int], str] = {}
        self._acked: List[int] = []
        self._others: Deque[Any] = deque()

    # ---- the session

    def begin_session(self) -> None:
        with self.lock:
            self._session += 1
            self._connected = True
            self._draining = False
            self._held = False
            self._last_handle = 0
            self._started_reported = 0
            self._renew_due = math.inf
            self._queue_of.clear()
            self._trigger_of.clear()

    def half_closed_locked(self) -> None:
        """Nothing can be answered any more, so nothing more is begun."""
        self._connected = False

    def end_session(self) -> None:
        with self.lock:
            self._connected = False
            self._held = False
            for one in self._queues:
                one.waiting.clear()
            self._acked.clear()
            self._others.clear()
            ended = [c for c in self._running if c._session == self._session]
        self._cancel_contexts(ended)

    def deliver(self, frame: Any) -> None:
        """Takes a Deliveries frame in, and lets begin what may."""
        now = time.monotonic()
        with self.lock:
            if not self._connected:
                return
            for named in frame.functions:
                for one in self._queues:
                    if one.function.name == named.name:
                        self._queue_of[named.function] = one
            for named in frame.triggers:
                self._trigger_of[named.partition, named.trigger] = named.name
            for given in frame.deliveries:
                self._last_handle = max(self._last_handle, given.handle)
                to = self._queue_of.get(given.function)
                if to is None:
                    self._others.append(_stale(given.handle, given.token, "unknown_function",
                                               "this worker does not serve the function"))
                    continue
                name = self._trigger_of.get((given.partition, given.trigger), "")
                self._renew_due = min(self._renew_due, now + given.lease_ms / 2000)
                to.waiting.append(Delivery(
                    given.handle, given.token, given.partition, given.offset, given.trigger, name,
                    given.run, given.attempt, given.lease_ms, given.recorded_us, given.event, now))
            self._held = self._starts_now_locked()
            self._dispatch_locked(now)
            self.changed.notify_all()

    def cancel(self, handles: Iterable[int]) -> None:
        """Their leases ended."""
        ended = set(handles)
        with self.lock:
            for one in self._queues:
                if any(delivery.handle in ended for delivery in one.waiting):
                    for delivery in one.waiting:
                        if delivery.handle in ended:
                            self._others.append(_stale(delivery.handle, delivery.token,
                                                       "cancelled", "its lease ended here"))
                    one.waiting = deque(d for d in one.waiting if d.handle not in ended)
            running = [c for c in self._running
                       if c._session == self._session and c._delivery.handle in ended]
            self.changed.notify_all()
        self._cancel_contexts(running)

    def abandon(self) -> None:
        """Cancels everything; shutdown() no longer waits for handlers."""
        with self.lock:
            self._abandoned = True
            for one in self._queues:
                one.waiting.clear()
            running = list(self._running)
            self.changed.notify_all()
        self._cancel_contexts(running)

    def set_draining_locked(self) -> None:
        """Batches no longer wait to fill."""
        self._draining = True
        self._dispatch_locked(time.monotonic())

    def _cancel_contexts(self, contexts: Sequence[Context]) -> None:
        works = []
        for context in contexts:
            work = context._work
            context._cancel()
            if work is not None and work not in works:
                works.append(work)
        for work in works:
            if work.queue.function.is_async and all(c.cancelled for c in work.contexts):
                self._call_in_loop(self._cancel_task, work)

    # ---- what is to be sent

    def take_answers_locked(self, answers: Any) -> bool:
        """Moves what is to be answered into an Answers message. False: nothing."""
        started = self._started_through_locked()
        if not self._acked and not self._others and started == self._started_reported:
            return False
        _add_ranges(self._acked, answers)
        self._acked.clear()
        size = 0
        while self._others and size < _FRAME_BYTES_MAX:
            other = self._others.popleft()
            size += sum(len(event) for event in other.emitted)
            answers.others.append(other)
        self._started_reported = started
        answers.started_through = started
        return True

    def written_locked(self) -> None:
        """What was taken has been handed to the connection."""
        if self._held and self._started_reported >= self._last_handle:
            self._held = False
            self._dispatch_locked(time.monotonic())

    def tick_locked(self) -> float:
        """Does what is due: lets batches go that have waited long enough, renews the leases of
        what waits. When it is to be called again, by time.monotonic(); infinite: not for that."""
        now = time.monotonic()
        if now >= self._renew_due:
            self._renew_locked(now)
        due = [one.waiting[0].received + one.function.max_wait for one in self._queues
               if one.function.is_batch and one.waiting
               and one.running < one.function.concurrency]
        if due and min(due) <= now:
            self._dispatch_locked(now)
        return min([self._renew_due, *(moment for moment in due if moment > now)])

    def _renew_locked(self, now: float) -> None:
        self._renew_due = math.inf
        for one in self._queues:
            for delivery in one.waiting:
                half = delivery.lease_ms / 2000
                if now >= delivery.leased + half:
                    self._extend_locked(delivery, now)
                self._renew_due = min(self._renew_due, delivery.leased + half)

    def _extend_locked(self, delivery: Delivery, now: float) -> None:
        delivery.leased = now
        answer = Answer()
        answer.handle = delivery.handle
        answer.token = delivery.token
        answer.extend.by_ms = 0  # by the trigger's timeout
        self._others.append(answer)

    def idle_locked(self) -> bool:
        """Nothing waits, runs or is to be answered in this session."""
        return (not self._acked and not self._others
                and not any(one.waiting for one in self._queues)
                and not any(c._session == self._session for c in self._running))

    def _starts_now_locked(self) -> bool:
        """Whether everything that waits can begin at once."""
        threads = 0
        total = 0
        for one in self._queues:
            count = len(one.waiting)
            if count and (one.function.is_batch
                          or count > one.function.concurrency - one.running):
                return False
            total += count
            threads += 0 if one.function.is_async else count
        return 0 < total and threads <= self._threads_max - self._busy

    def _started_through_locked(self) -> int:
        if self._held:
            return self._last_handle
        lowest = self._last_handle + 1
        for one in self._queues:
            if one.waiting:
                lowest = min(lowest, one.waiting[0].handle)
        return max(lowest - 1, self._started_reported)

    # ---- running

    def _dispatch_locked(self, now: float) -> None:
        if self._held or self._over:
            return
        count = len(self._queues)
        for i in range(count):
            one = self._queues[(self._next_queue + i) % count]
            while self._may_start_locked(one, now):
                self._start_locked(one, now)
        self._next_queue = (self._next_queue + 1) % count
        if self._started_through_locked() != self._started_reported:
            self.changed.notify_all()

    def _may_start_locked(self, one: _Queue, now: float) -> bool:
        function = one.function
        if not one.waiting or one.running >= function.concurrency:
            return False
        if not function.is_async and self._busy >= self._threads_max:
            return False
        return (not function.is_batch or self._draining
                or len(one.waiting) >= function.max_events
                or now >= one.waiting[0].received + function.max_wait)

    def _start_locked(self, one: _Queue, now: float) -> None:
        count = min(one.function.max_events, len(one.waiting))
        for delivery in itertools.islice(one.waiting, count):
            if now >= delivery.leased + delivery.lease_ms / 4000:
                self._extend_locked(delivery, now)
        contexts = [Context(self, one.waiting.popleft(), one.function.name, self._session)
                    for _ in range(count)]
        work = _Work(one, contexts)
        for context in contexts:
            context._work = work
            self._running.add(context)
        one.running += 1
        if one.function.is_async:
            self._ensure_loop_locked().call_soon_threadsafe(self._start_task, work)
            return
        self._busy += 1
        if len(self._threads) < self._busy:
            self._add_thread_locked()
        self._work.put(work)

    def _add_thread_locked(self) -> None:
        thread = threading.Thread(target=self._thread_main, daemon=True,
                                  name=f"tocsin-handler-{len(self._threads)}")
        try:
            thread.start()
        except RuntimeError:  # the system has no more: those there are do the work
            if not self._threads:
                raise
            return
        self._threads.append(thread)

    def _thread_main(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                return
            contexts, outcomes = self._decoded(work)
            if contexts:
                for context, outcome in zip(contexts,
                                            _functions.run(work.queue.function, contexts)):
                    outcomes[context] = outcome
            self._finish(work, outcomes)

    def _decoded(self, work: _Work) -> Tuple[List[Context], Dict[Context, Optional[Outcome]]]:
        """Those whose events can be read, and the outcomes of the others."""
        good: List[Context] = []
        outcomes: Dict[Context, Optional[Outcome]] = {}
        for context in work.contexts:
            bad = _functions.decode(context)
            if bad is None:
                good.append(context)
            else:
                outcomes[context] = bad
        return good, outcomes

    def _finish(self, work: _Work, outcomes: Dict[Context, Optional[Outcome]]) -> None:
        with self.lock:
            work.queue.running -= 1
            if not work.queue.function.is_async:
                self._busy -= 1
            for context in work.contexts:
                self._finish_locked(context, outcomes[context])
            self._dispatch_locked(time.monotonic())
            self.changed.notify_all()

    def _finish_locked(self, context: Context, outcome: Optional[Outcome]) -> None:
        self._running.discard(context)
        context._work = None
        emitted = [encoded for _event, encoded in context._finish()]
        if not self._connected or context._session != self._session:
            return
        one = context._delivery
        if context._sent_more or one.leased != one.received:
            # An extension after the outcome would only be stale.
            self._others = deque(other for other in self._others if other.handle != one.handle)
        if context.cancelled:
            self._others.append(_stale(one.handle, one.token, "cancelled", "its lease ended here"))
        elif outcome is None and not emitted:
            self._acked.append(one.handle)
        else:
            self._others.append(_to_answer(one, outcome, emitted))

    # ---- async handlers: one loop on a thread of its own

    def _ensure_loop_locked(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop_thread = threading.Thread(target=self._loop_main, args=(self._loop,),
                                                 name="tocsin-async", daemon=True)
            self._loop_thread.start()
        return self._loop

    def _loop_main(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
                break
            except (SystemExit, KeyboardInterrupt) as error:
                # Of a task that a handler left behind: no reason to stop the others.
                _log.error("a task in the loop of the async handlers raised %r", error)
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _call_in_loop(self, callback: Any, work: _Work) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(callback, work)
            except RuntimeError:
                pass  # closed: nothing runs in it any more

    def _start_task(self, work: _Work) -> None:
        if all(context.cancelled for context in work.contexts):
            self._finish(work, {context: None for context in work.contexts})
            return
        assert self._loop is not None
        work.task = self._loop.create_task(self._run_async(work))

    def _cancel_task(self, work: _Work) -> None:
        if work.task is not None:
            work.task.cancel()

    async def _run_async(self, work: _Work) -> None:
        contexts, outcomes = self._decoded(work)
        if contexts:
            found = await _functions.run_async(work.queue.function, contexts)
            for context, outcome in zip(contexts, found):
                outcomes[context] = outcome
        self._finish(work, outcomes)

    # ---- the end

    def shutdown(self) -> None:
        """No handler begins any more. Returns when those that run have, or after abandon()."""
        with self.lock:
            self._over = True
            self.changed.wait_for(lambda: self._abandoned or not self._running)
            wait = not self._abandoned
            threads = list(self._threads)
            loop, loop_thread = self._loop, self._loop_thread
        for _ in threads:
            self._work.put(None)
        if loop is not None:
            try:
                loop.call_soon_threadsafe(loop.stop)
            except RuntimeError:
                pass
        if wait:
            for thread in threads:
                thread.join()
            if loop_thread is not None:
                loop_thread.join()

    def is_own_thread(self) -> bool:
        """Whether a handler is calling."""
        me = threading.current_thread()
        return me is self._loop_thread or me in self._threads

    # ---- ContextPort

    def extend(self, context: Context, by_ms: int) -> None:
        answer = _answer_of(context)
        answer.extend.by_ms = by_ms
        self._send_more(context, answer)

    def progress(self, context: Context, message: str) -> None:
        answer = _answer_of(context)
        answer.progress.message = message
        self._send_more(context, answer)

    def _send_more(self, context: Context, answer: Any) -> None:
        with self.lock:
            if (not self._connected or context._session != self._session or context.cancelled
                    or context not in self._running):
                return
            context._sent_more = True
            self._others.append(answer)
            self.changed.notify_all()


def _answer_of(context: Context) -> Any:
    answer = Answer()
    answer.handle = context._delivery.handle
    answer.token = context._delivery.token
    return answer


def _stale(handle: int, token: int, code: str, message: str) -> Any:
    answer = Answer()
    answer.handle = handle
    answer.token = token
    answer.retry.code = code
    answer.retry.message = message
    return answer


def _to_answer(one: Delivery, outcome: Optional[Outcome], emitted: List[bytes]) -> Any:
    answer = Answer()
    answer.handle = one.handle
    answer.token = one.token
    if isinstance(outcome, Retry):
        answer.retry.after_ms = outcome.after_ms
        answer.retry.code = clean_text(outcome.code)
        answer.retry.message = clean_text(outcome.message)
        return answer  # the next attempt emits again
    if isinstance(outcome, Reject):
        answer.reject.reason = clean_text(outcome.reason)
    elif isinstance(outcome, Drop):
        answer.drop.reason = clean_text(outcome.reason)
    else:
        answer.ack.SetInParent()
    answer.emitted.extend(emitted)
    return answer


def _add_ranges(handles: List[int], answers: Any) -> None:
    """Handles to inclusive ranges."""
    last: Any = None
    for handle in sorted(handles):
        if last is not None and handle == last.last + 1:
            last.last = handle
        else:
            last = answers.acked.add()
            last.first = handle
            last.last = handle

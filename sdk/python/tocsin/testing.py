"""TestBroker: runs a worker's handlers in memory, with the retry policy of a trigger, and records
what became of each event. No network, no broker, no waiting: delays are recorded, not slept.

    with TestBroker(worker, attempts=3) as broker:
        outcome = broker.emit("charge", CloudEvent("order.placed", "/shop", {"amount": 12}))
        assert outcome.acked and outcome.emitted[0].type == "order.charged"

    async with TestBroker(worker) as broker:
        outcome = await broker.emit("charge", event)
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Coroutine, Dict, List, Optional, Sequence, Type, TypeVar

from . import _functions
from ._functions import Function
from .context import Context, ContextPort, Delivery
from .duration import Duration, milliseconds, seconds
from .event import CloudEvent
from .outcome import Drop, Outcome, Reject, Retry
from .worker import Worker

T = TypeVar("T")

ACKED, DROPPED, DEAD = "acked", "dropped", "dead"


@dataclass
class TestOutcome:
    """What became of one event.

    kind      "acked", "dropped" or "dead" (rejected, attempts exhausted)
    reason    of a drop or a dead letter: "rejected: ...", "exhausted: ..."
    attempts  how often the handler was called with it
    delays    seconds that a broker would have waited before each further attempt
    failures  what each failed attempt said: "ValueError: no amount"
    emitted   with the ack, reject or drop; those of failed attempts are forgotten
    extended  how often the lease was extended
    progress  what ctx.progress() was told
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    kind: str = DEAD
    reason: str = ""
    attempts: int = 0
    delays: List[float] = field(default_factory=list)
    failures: List[str] = field(default_factory=list)
    emitted: List[CloudEvent] = field(default_factory=list)
    extended: int = 0
    progress: List[str] = field(default_factory=list)

    @property
    def acked(self) -> bool:
        return self.kind == ACKED

    @property
    def dropped(self) -> bool:
        return self.kind == DROPPED

    @property
    def dead(self) -> bool:
        return self.kind == DEAD


@dataclass(frozen=True)
class TestDeadLetter:
    """An event that was given up."""

    __test__ = False

    function: str
    event: CloudEvent
    reason: str
    attempts: int


class _Pending:
    """An event that has no outcome yet."""

    def __init__(self, event: CloudEvent, offset: int) -> None:
        self.event = event
        self.offset = offset
        self.outcome = TestOutcome()


class _Port(ContextPort):
    def __init__(self) -> None:
        self.pending: Dict[Context, _Pending] = {}

    def extend(self, context: Context, by_ms: int) -> None:
        self.pending[context].outcome.extended += 1

    def progress(self, context: Context, message: str) -> None:
        self.pending[context].outcome.progress.append(message)


class _Core:
    """Deliveries, attempts and records; sync and async brokers share it."""

    def __init__(self, worker: Worker, trigger: str, attempts: int, backoff: Duration,
                 factor: float, max_backoff: Duration, timeout: Duration) -> None:
        if attempts < 1 or factor < 1:
            raise ValueError("attempts and factor are at least 1")
        self._functions: Dict[str, Function] = worker._functions
        self._trigger = trigger
        self._attempts = attempts
        self._backoff = seconds(backoff)
        self._factor = factor
        self._max_backoff = seconds(max_backoff)
        self._timeout_ms = milliseconds(timeout)
        self._next_offset = 0
        self.dead_letters: List[TestDeadLetter] = []
        self.emitted: List[CloudEvent] = []

    async def emit(self, name: str, events: Sequence[CloudEvent]) -> List[TestOutcome]:
        function = self._functions.get(name)
        if function is None:
            raise LookupError(f"the worker does not serve {name!r}; it serves "
                              f"{', '.join(self._functions) or 'nothing'}")
        all_of_them = []
        for event in events:
            all_of_them.append(_Pending(event, self._next_offset))
            self._next_offset += 1
        left = list(all_of_them)
        while left:
            again: List[_Pending] = []
            for first in range(0, len(left), function.max_events):
                some = left[first:first + function.max_events]
                again += await self._attempt(function, some)
            left = again
        return [pending.outcome for pending in all_of_them]

    async def _attempt(self, function: Function, some: List[_Pending]) -> List[_Pending]:
        """Calls the handler once; those that are to be delivered again."""
        port = _Port()
        contexts: List[Context] = []
        for pending in some:
            pending.outcome.attempts += 1
            context = Context(port, Delivery(
                handle=len(contexts) + 1, token=1, partition=0, offset=pending.offset, trigger=0,
                trigger_name=self._trigger, run=0, attempt=pending.outcome.attempts,
                lease_ms=self._timeout_ms, recorded_us=time.time_ns() // 1000,
                event=pending.event.to_protobuf(), received=time.monotonic()), function.name)
            context._event = pending.event
            port.pending[context] = pending
            contexts.append(context)
        if function.is_async:
            outcomes = await _functions.run_async(function, contexts)
        else:
            # On another thread, as in a worker: a handler may call asyncio.run or block.
            outcomes = await asyncio.get_running_loop().run_in_executor(
                None, _functions.run, function, contexts)
        return [pending for pending, context, outcome in zip(some, contexts, outcomes)
                if self._settle(function, pending, context, outcome)]

    def _settle(self, function: Function, pending: _Pending, context: Context,
                outcome: Optional[Outcome]) -> bool:
        """True: not settled, it is delivered again."""
        record = pending.outcome
        emitted = [event for event, _encoded in context._finish()]
        if isinstance(outcome, Retry):
            failure = f"{outcome.code}: {outcome.message}".strip(": ")
            record.failures.append(failure)
            if record.attempts < self._attempts:
                record.delays.append(outcome.after_ms / 1000 if outcome.after_ms else min(
                    self._max_backoff, self._backoff * self._factor ** (record.attempts - 1)))
                return True
            record.kind, record.reason = DEAD, f"exhausted: {failure}"
            emitted = []
        elif isinstance(outcome, Reject):
            record.kind, record.reason = DEAD, f"rejected: {outcome.reason}"
        elif isinstance(outcome, Drop):
            record.kind, record.reason = DROPPED, outcome.reason
        else:
            record.kind = ACKED
        record.emitted = emitted
        self.emitted += emitted
        if record.dead:
            self.dead_letters.append(TestDeadLetter(function.name, pending.event, record.reason,
                                                    record.attempts))
        return False


class AsyncTestBroker:
    """A TestBroker inside `async with`."""

    def __init__(self, core: _Core) -> None:
        self._core = core

    @property
    def dead_letters(self) -> List[TestDeadLetter]:
        return self._core.dead_letters

    @property
    def emitted(self) -> List[CloudEvent]:
        """Of all events so far, in order."""
        return self._core.emitted

    async def emit(self, function: str, event: CloudEvent) -> TestOutcome:
        """Delivers the event to a function until it is settled. LookupError: the worker does not
        serve it."""
        return (await self._core.emit(function, [event]))[0]

    async def emit_batch(self, function: str, events: Sequence[CloudEvent]) -> List[TestOutcome]:
        """The same for many: a batch function gets them in batches of its max_events, and what is
        retried together again."""
        return await self._core.emit(function, events)


class TestBroker:
    """A broker in memory. The worker is not started, and may be one that never is.

    trigger                         its name, as ctx.trigger gives it
    attempts, backoff, factor, max_backoff    the retry policy, without jitter
    timeout                         the lease of an attempt; it never runs out

    Usable without `with` as well. One thread at a time. In a program that runs an event loop, use
    `async with`: then emit is awaited.
    """

    __test__ = False

    def __init__(self, worker: Worker, *, trigger: str = "test", attempts: int = 8,
                 backoff: Duration = 1.0, factor: float = 2.0, max_backoff: Duration = 300.0,
                 timeout: Duration = 30.0) -> None:
        self._core = _Core(worker, trigger, attempts, backoff, factor, max_backoff, timeout)

    @property
    def dead_letters(self) -> List[TestDeadLetter]:
        return self._core.dead_letters

    @property
    def emitted(self) -> List[CloudEvent]:
        """Of all events so far, in order."""
        return self._core.emitted

    def emit(self, function: str, event: CloudEvent) -> TestOutcome:
        """Delivers the event to a function until it is settled. LookupError: the worker does not
        serve it; RuntimeError: in a running event loop."""
        return _run(self._core.emit(function, [event]))[0]

    def emit_batch(self, function: str, events: Sequence[CloudEvent]) -> List[TestOutcome]:
        """The same for many: a batch function gets them in batches of its max_events, and what is
        retried together again."""
        return _run(self._core.emit(function, events))

    def __enter__(self) -> TestBroker:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        pass

    async def __aenter__(self) -> AsyncTestBroker:
        return AsyncTestBroker(self._core)

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        pass


def _run(emitting: "Coroutine[Any, Any, T]") -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(emitting)
    emitting.close()
    raise RuntimeError("an event loop is running: `async with TestBroker(worker) as broker` and "
                       "`await broker.emit(...)`")

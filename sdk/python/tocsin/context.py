"""Context: one attempt, as its handler sees it."""

from __future__ import annotations

import logging
import threading
import time as clock
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, List, Mapping, MutableMapping, Optional, Tuple, Union, overload
from urllib.parse import quote

from ._wire import clean_text
from .duration import Duration, milliseconds
from .event import AttributeValue, CloudEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Carried from the event that was delivered into those its handler emits.
_CARRIED = ("traceparent", "tracestate")


class EmitLimitError(ValueError):
    """More events than one answer can carry."""


class Delivery:
    """What a frame says of a delivery."""

    __slots__ = ("handle", "token", "partition", "offset", "trigger", "trigger_name", "run",
                 "attempt", "lease_ms", "recorded_us", "event", "received", "leased")

    def __init__(self, handle: int, token: int, partition: int, offset: int, trigger: int,
                 trigger_name: str, run: int, attempt: int, lease_ms: int, recorded_us: int,
                 event: bytes, received: float) -> None:
        self.handle = handle
        self.token = token
        self.partition = partition
        self.offset = offset
        self.trigger = trigger
        self.trigger_name = trigger_name
        self.run = run
        self.attempt = attempt
        self.lease_ms = lease_ms
        self.recorded_us = recorded_us
        self.event = event
        # By time.monotonic(): when it came, and from when its lease counts.
        self.received = received
        self.leased = received


class ContextPort:
    """Where a context sends what its handler says before it returns. Any thread."""

    def extend(self, context: Context, by_ms: int) -> None:
        raise NotImplementedError

    def progress(self, context: Context, message: str) -> None:
        raise NotImplementedError


class _FunctionLogger(logging.LoggerAdapter):  # type: ignore[type-arg]
    """Puts the delivery before each line and into the record (`tocsin_delivery`)."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]
                ) -> Tuple[Any, MutableMapping[str, Any]]:
        extra = dict(self.extra or {})
        extra.update(kwargs.get("extra") or {})
        kwargs["extra"] = extra
        return f"[{extra['tocsin_delivery']} #{extra['tocsin_attempt']}] {msg}", kwargs


class Context:
    """One attempt of a delivery. Lives as long as the handler's call; safe from any thread.

    function, trigger    names
    attempt              1 on the first try
    partition, offset    where the event is in the journal
    run                  0; higher for a redriven delivery
    """

    EMITTED_MAX = 256
    EMITTED_BYTES_MAX = 2 * 1024 * 1024

    __slots__ = ("_port", "_delivery", "_function", "_session", "_event", "_lock", "_cancelled",
                 "_callbacks", "_emitted", "_emitted_bytes", "_finished", "_sent_more", "_lease_ms",
                 "_deadline", "_logger", "_work", "__weakref__")

    def __init__(self, port: ContextPort, delivery: Delivery, function: str,
                 session: int = 0) -> None:
        self._port = port
        self._delivery = delivery
        self._function = function
        self._session = session
        self._event: Optional[CloudEvent] = None
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: List[Callable[[], None]] = []
        self._emitted: List[Tuple[CloudEvent, bytes]] = []
        self._emitted_bytes = 0
        self._finished = False
        self._sent_more = False
        self._lease_ms = delivery.lease_ms
        self._deadline = delivery.leased + delivery.lease_ms / 1000
        self._logger: Optional[_FunctionLogger] = None
        self._work: Any = None

    @property
    def function(self) -> str:
        return self._function

    @property
    def trigger(self) -> str:
        return self._delivery.trigger_name

    @property
    def attempt(self) -> int:
        return self._delivery.attempt

    @property
    def partition(self) -> int:
        return self._delivery.partition

    @property
    def offset(self) -> int:
        return self._delivery.offset

    @property
    def run(self) -> int:
        return self._delivery.run

    @property
    def idempotency_key(self) -> str:
        """`<partition>/<offset>/<trigger ordinal>/<run>`: the same in every attempt of this
        delivery, also after restarts, and of no other delivery."""
        one = self._delivery
        return f"{one.partition}/{one.offset}/{one.trigger}/{one.run}"

    @property
    def recorded(self) -> datetime:
        """When the broker appended the event."""
        return _EPOCH + timedelta(microseconds=self._delivery.recorded_us)

    @property
    def lease(self) -> timedelta:
        """What the trigger's timeout, or the last extend(), grants."""
        return timedelta(milliseconds=self._lease_ms)

    @property
    def deadline(self) -> float:
        """When the lease ends, by time.monotonic(). Then the delivery is made again elsewhere."""
        return self._deadline

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; 0 behind it."""
        return max(0.0, self._deadline - clock.monotonic())

    @property
    def cancelled(self) -> bool:
        """The lease ended or the connection was lost: the answer no longer counts, so stop."""
        return self._cancelled

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls it once when the attempt is cancelled, or now if it is already. On a thread of the
        SDK: it must be quick. (An async handler is cancelled by asyncio's means as well.)"""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        self._call_back(callback)

    def wait_cancelled(self, timeout: Optional[Duration] = None) -> bool:
        """Waits at most this long for the attempt to be cancelled; a sleep that ends early. Not in
        an async handler, which has asyncio.sleep."""
        over = threading.Event()
        self.on_cancel(over.set)
        return over.wait(None if timeout is None else milliseconds(timeout) / 1000)

    def extend(self, by: Optional[Duration] = None) -> None:
        """Renews the lease from now on; without `by`, by the trigger's timeout."""
        by_ms = 0 if by is None else milliseconds(by)
        self._lease_ms = by_ms or self._delivery.lease_ms
        self._deadline = clock.monotonic() + self._lease_ms / 1000
        self._port.extend(self, by_ms)

    def progress(self, message: str) -> None:
        """A word on how far it is, for people. Renews nothing."""
        self._port.progress(self, clean_text(message))

    @property
    def logger(self) -> logging.LoggerAdapter:  # type: ignore[type-arg]
        """Logs to `tocsin.function.<name>`, each line with the delivery and its attempt."""
        if self._logger is None:
            self._logger = _FunctionLogger(
                logging.getLogger(f"tocsin.function.{self._function}"),
                {"tocsin_delivery": self.idempotency_key, "tocsin_attempt": self.attempt,
                 "tocsin_function": self._function, "tocsin_trigger": self.trigger})
        return self._logger

    @overload
    def emit(self, event: CloudEvent) -> CloudEvent: ...

    @overload
    def emit(self, *, type: str, data: object = None, source: str = "", id: str = "",
             subject: str = "", time: Union[datetime, str, None] = None, datacontenttype: str = "",
             dataschema: str = "", partitionkey: str = "",
             extensions: Optional[Mapping[str, AttributeValue]] = None) -> CloudEvent: ...

    def emit(self, event: Optional[CloudEvent] = None, *, source: str = "",
             **attributes: Any) -> CloudEvent:
        """Publishes an event together with the answer: durable with the ack, reject or drop, or
        not at all; a retry forgets it. Returns the event as it is sent.

        Takes an event, or what CloudEvent() takes; `source` is then `/functions/<function>`. It
        gets the `causationid` of the event that was delivered, and its `traceparent` and
        `tracestate`, unless it has its own.

        InvalidEvent; EmitLimitError above EMITTED_MAX events or EMITTED_BYTES_MAX; RuntimeError
        when the handler has returned.
        """
        if event is None:
            event = CloudEvent(source=source or f"/functions/{quote(self._function, safe='')}",
                               **attributes)
        elif attributes or source:
            raise TypeError("emit() takes an event or its attributes, not both: "
                            "use event.replace(...)")
        if self._event is not None:
            carried = {name: self._event[name] for name in _CARRIED if name in self._event}
            event = event._with_defaults({"causationid": self._event.id, **carried})
        encoded = event.to_protobuf()
        with self._lock:
            if self._finished:
                raise RuntimeError("the handler has returned: what is emitted now has no answer to "
                                   "go with; emit before, or use a Publisher")
            if (len(self._emitted) >= self.EMITTED_MAX
                    or self._emitted_bytes + len(encoded) > self.EMITTED_BYTES_MAX):
                raise EmitLimitError(
                    f"at most {self.EMITTED_MAX} events and {self.EMITTED_BYTES_MAX} bytes can be "
                    "emitted with one answer: publish the rest with a Publisher")
            self._emitted_bytes += len(encoded)
            self._emitted.append((event, encoded))
        return event

    # ---- for the SDK

    def _cancel(self) -> None:
        """Idempotent. Runs the callbacks, so not under a lock."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._call_back(callback)

    def _call_back(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            self.logger.exception("an on_cancel callback failed")

    def _finish(self) -> List[Tuple[CloudEvent, bytes]]:
        """The handler has returned; gives what it emitted."""
        with self._lock:
            self._finished = True
            return self._emitted

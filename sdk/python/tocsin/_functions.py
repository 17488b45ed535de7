"""Functions as they were registered, and how their handlers are called."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any, Callable, List, Optional, Sequence

from .context import Context
from .event import CloudEvent
from .outcome import Outcome, Reject, Retry, from_batch, from_exception, from_returned

_log = logging.getLogger("tocsin.worker")
_NAME_BYTES_MAX = 256


class Function:
    """One function of a worker. Set at registration, then only read."""

    __slots__ = ("name", "handler", "concurrency", "is_async", "is_batch", "max_events",
                 "max_wait", "with_context")

    def __init__(self, name: str, handler: Callable[..., Any], concurrency: int,
                 is_batch: bool = False, max_events: int = 1, max_wait: float = 0.0) -> None:
        if not isinstance(name, str) or not name or len(name.encode()) > _NAME_BYTES_MAX:
            raise ValueError(f"a function's name has 1 to {_NAME_BYTES_MAX} bytes, not {name!r}")
        for what, value in (("concurrency", concurrency), ("max_events", max_events)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{what} of function {name!r} is {value!r}; at least 1")
        self.name = name
        self.handler = handler
        self.concurrency = concurrency
        self.is_async = _is_async(handler)
        self.is_batch = is_batch
        self.max_events = max_events
        self.max_wait = max_wait
        self.with_context = _takes_context(name, handler)

    @property
    def credit(self) -> int:
        """How many deliveries it can have under way."""
        return self.concurrency * self.max_events


def _is_async(handler: Callable[..., Any]) -> bool:
    if inspect.iscoroutinefunction(handler):
        return True
    return inspect.iscoroutinefunction(getattr(handler, "__call__", None))


def _takes_context(name: str, handler: Callable[..., Any]) -> bool:
    """Whether the handler is (event, ctx); otherwise it is (event)."""
    if not callable(handler):
        raise TypeError(f"the handler of function {name!r} cannot be called")
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [p for p in parameters
                  if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(required) > 2 or keywords or (not positional and not open_ended):
        raise TypeError(f"the handler of function {name!r} takes (event, ctx) or (event), "
                        f"not {inspect.signature(handler)}")
    return open_ended or len(positional) >= 2


# ---- decoding

def decode(context: Context) -> Optional[Outcome]:
    """Reads the event into the context; an outcome if it is none."""
    try:
        context._event = CloudEvent.from_protobuf(context._delivery.event)
    except ValueError as error:
        return Reject(f"the event cannot be read: {error}")
    return None


# ---- outcomes

def _failed(function: Function, contexts: Sequence[Context], error: BaseException) -> Outcome:
    outcome = from_exception(error)
    first = contexts[0]
    if isinstance(error, Outcome):
        _log.info("%s: %s of %s, attempt %d: %s", function.name, type(error).__name__.lower(),
                  first.idempotency_key, first.attempt, error)
    elif not first.cancelled:
        # The frames above the handler's own are ours and of no use.
        trace = error.__traceback__
        for _ in range(2):
            trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
        _log.warning("%s raised in %s, attempt %d; retried by the trigger's policy",
                     function.name, first.idempotency_key, first.attempt,
                     exc_info=(type(error), error, trace))
    return outcome


def _checked(function: Function, returned: object) -> Optional[Outcome]:
    if inspect.isawaitable(returned):
        if inspect.iscoroutine(returned):
            returned.close()
        raise TypeError(f"the handler of {function.name!r} returned an awaitable that nobody "
                        "awaits: make it `async def`")
    return from_returned(returned)


def _call(function: Function, subject: Any, context: Any) -> Any:
    if function.with_context:
        return function.handler(subject, context)
    return function.handler(subject)


def _events(contexts: Sequence[Context]) -> List[CloudEvent]:
    return [context._event for context in contexts if context._event is not None]


def _batch(function: Function, returned: object,
           contexts: Sequence[Context]) -> List[Optional[Outcome]]:
    if inspect.isawaitable(returned):
        _checked(function, returned)
    return from_batch(returned, _events(contexts), [c.idempotency_key for c in contexts])


def run(function: Function, contexts: Sequence[Context]) -> List[Optional[Outcome]]:
    """Calls the handler of a function that is not async. One outcome per context, None for an
    ack. Whatever the handler raises, SystemExit and KeyboardInterrupt too, is an outcome: the end
    of a handler is not the end of its worker."""
    try:
        if function.is_batch:
            returned = _call(function, _events(contexts), list(contexts))
            return _batch(function, returned, contexts)
        return [_checked(function, _call(function, contexts[0]._event, contexts[0]))]
    except BaseException as error:  # noqa: B902
        return [_failed(function, contexts, error)] * len(contexts)


async def run_async(function: Function, contexts: Sequence[Context]) -> List[Optional[Outcome]]:
    """The same for an async handler, on the loop's thread."""
    try:
        if function.is_batch:
            returned = await _call(function, _events(contexts), list(contexts))
            return _batch(function, returned, contexts)
        return [_checked(function, await _call(function, contexts[0]._event, contexts[0]))]
    except asyncio.CancelledError as error:
        if contexts[0].cancelled:
            return [Retry("cancelled", code="cancelled")] * len(contexts)
        return [_failed(function, contexts, error)] * len(contexts)
    except BaseException as error:  # noqa: B902
        return [_failed(function, contexts, error)] * len(contexts)

"""What becomes of a delivery: returning acks it; Retry, Reject and Drop are raised or returned."""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Union

from .duration import Duration, milliseconds
from .event import CloudEvent


class Outcome(Exception):
    """Base of Retry, Reject and Drop: `except Outcome: raise` lets them pass."""


class Retry(Outcome):
    """Deliver again later; counts an attempt of the trigger's policy.

    after    wait this long (at most 24 h); None: as the policy says
    code     a short name of the reason, for dead letters and lists
    message  the reason, for people; from the exception that caused it if it is empty
    """

    def __init__(self, message: str = "", *, after: Optional[Duration] = None,
                 code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        # A wait of nothing still overrides the policy, and on the wire 0 means the policy.
        self.after_ms = 0 if after is None else max(1, milliseconds(after))


class Reject(Outcome):
    """Straight to the dead letters, with the reason. No further attempt."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Drop(Outcome):
    """Done with it without a dead letter; the reason is recorded."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


EventOutcome = Union[None, BaseException]
"""Of one event: None is an ack, Retry, Reject and Drop are themselves, another exception is a
retry by the policy."""


class BatchResult:
    """What became of a batch: everything is acked but what fail() names.

        result = BatchResult()
        for event in events:
            try:
                index(event.data)
            except ValueError as error:
                result.fail(event, Reject(str(error)))
        return result
    """

    def __init__(self, failed: Iterable[CloudEvent] = ()) -> None:
        self._failed: Dict[int, BaseException] = {}
        self._kept: List[CloudEvent] = []  # ids of objects are theirs only while they live
        for event in failed:
            self.fail(event)

    def fail(self, event: CloudEvent, outcome: Optional[BaseException] = None) -> None:
        """This event is not acked; without an outcome it is retried by the policy.

        `event` is one of those the handler was given, not a copy.
        """
        self._kept.append(event)
        self._failed[id(event)] = outcome if outcome is not None else Retry(
            "the batch handler reported it as failed", code="batch_item_failed")

    def outcomes(self, events: Sequence[CloudEvent]) -> List[EventOutcome]:
        """One per event, in their order. ValueError if one that failed is not among them."""
        unknown = set(self._failed) - {id(event) for event in events}
        if unknown:
            raise ValueError(f"{len(unknown)} events that failed are not of this batch: name the "
                             "objects that the handler was given")
        return [self._failed.get(id(event)) for event in events]


BatchReturn = Union[None, BatchResult, Sequence[EventOutcome], Mapping[str, object]]
"""What a batch handler may return: None (all acked), a BatchResult, one EventOutcome per event, or
{"batchItemFailures": [{"itemIdentifier": ...}]} naming ids or idempotency keys to be retried."""


def from_exception(error: BaseException) -> Outcome:
    """What raising `error` means."""
    if isinstance(error, Retry):
        if not error.message and error.__cause__ is not None:
            cause = from_exception(error.__cause__)
            if isinstance(cause, Retry):
                filled = Retry(cause.message, code=error.code or cause.code)
                filled.after_ms = error.after_ms
                return filled
        return error
    if isinstance(error, Outcome):
        return error
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        message = str(error)
    except Exception:  # noqa: B902, a broken __str__ must not lose the answer
        message = "(its text cannot be made)"
    return Retry(message, code=name)


def from_returned(returned: object) -> Optional[Outcome]:
    """What returning this from a function means; None is an ack."""
    if isinstance(returned, type) and issubclass(returned, Outcome):
        returned = returned()
    return returned if isinstance(returned, Outcome) else None


def _aws_outcomes(returned: Mapping[str, object], events: Sequence[CloudEvent],
                  keys: Sequence[str]) -> List[EventOutcome]:
    failures = returned.get("batchItemFailures")
    if not isinstance(failures, (list, tuple)):
        raise TypeError("a batch handler that returns a mapping gives "
                        '{"batchItemFailures": [{"itemIdentifier": ...}, ...]}')
    named = set()
    for one in failures:
        identifier = one.get("itemIdentifier") if isinstance(one, Mapping) else None
        if not isinstance(identifier, str) or not identifier:
            raise ValueError(f"{one!r} in batchItemFailures has no itemIdentifier")
        named.add(identifier)
    unknown = named - {event.id for event in events} - set(keys)
    if unknown:
        raise ValueError(f"itemIdentifier {sorted(unknown)[0]!r} is neither the id nor the "
                         "idempotency key of an event in the batch")
    failed = Retry("the batch handler reported it as failed", code="batch_item_failed")
    return [failed if event.id in named or key in named else None
            for event, key in zip(events, keys)]


def from_batch(returned: object, events: Sequence[CloudEvent],
               keys: Sequence[str]) -> List[Optional[Outcome]]:
    """One outcome per event of what a batch handler returned.

    Raises what makes all of them retries: a return value of the wrong shape.
    """
    if isinstance(returned, type) and issubclass(returned, Outcome):
        returned = returned()
    results: List[EventOutcome]
    if returned is None:
        return [None] * len(events)
    if isinstance(returned, Outcome):
        results = [returned] * len(events)
    elif isinstance(returned, BatchResult):
        results = returned.outcomes(events)
    elif isinstance(returned, Mapping):
        results = _aws_outcomes(returned, events, keys)
    elif isinstance(returned, (list, tuple)):
        if len(returned) > len(events):
            raise ValueError(f"{len(returned)} outcomes for a batch of {len(events)} events")
        results = list(returned)
        missing = Retry("the batch handler gave no outcome for this event", code="no_result")
        results += [missing] * (len(events) - len(results))
    else:
        raise TypeError(f"a batch handler returned {type(returned).__name__}: return None, a "
                        "BatchResult, a list with one outcome per event, or batchItemFailures")
    outcomes: List[Optional[Outcome]] = []
    for one in results:
        if isinstance(one, type) and issubclass(one, BaseException):
            one = one()
        if one is not None and not isinstance(one, BaseException):
            raise TypeError(f"{type(one).__name__} is no outcome of an event: give None, Retry, "
                            "Reject, Drop or an exception")
        outcomes.append(None if one is None else from_exception(one))
    return outcomes

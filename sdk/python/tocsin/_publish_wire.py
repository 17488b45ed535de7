"""Requests and answers of the publish stream."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

_SEQUENCE_TAG = b"\x08"
_EVENTS_TAG = b"\x12"
_FROM_REFUSED = b"\x18\x01"

_CODES = ("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
          "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
          "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
          "UNAUTHENTICATED")
# Refusals that say nothing against the event: it is sent again.
_RETRIED = (8, 10, 14)
_DURABLE = 2


class PublishError(Exception):
    """The event was not stored.

    code      a gRPC status name. INVALID_ARGUMENT, OUT_OF_RANGE and others: refused for good.
              UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED: the broker does not take our
              events. CANCELLED: closed before an answer; it may be stored or not.
    message   the broker's words
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> Any:
        return PublishError, (self.code, self.message)


@dataclass(frozen=True)
class PublishResult:
    """What became of one event.

    duplicate           it was there already; partition and offset say where
    partition, offset   where it is: with Publisher(positions=True), or of a duplicate
    delayed             it is kept until its time (see Publisher), and has no position yet
    durable             synced to disk; else handed to the operating system (`durability: written`)
    error               in results of publish_batch only: it was refused
    """

    duplicate: bool = False
    partition: Optional[int] = None
    offset: Optional[int] = None
    durable: bool = False
    error: Optional[PublishError] = None
    delayed: bool = False


class Entry:
    """An event on its way."""

    __slots__ = ("encoded", "future")

    def __init__(self, encoded: bytes, future: "Future[PublishResult]") -> None:
        self.encoded = encoded
        self.future = future


class Batch:
    """A request that was sent."""

    __slots__ = ("sequence", "entries")

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.entries: List[Entry] = []


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_request(batch: Batch, from_refused: bool) -> bytes:
    """A PublishRequest; the events are encoded already and are not decoded to be encoded again."""
    parts = [_SEQUENCE_TAG, _varint(batch.sequence)]
    if from_refused:
        parts.append(_FROM_REFUSED)
    for entry in batch.entries:
        parts += (_EVENTS_TAG, _varint(len(entry.encoded)), entry.encoded)
    return b"".join(parts)


def read_response(response: Any, count: int) -> Tuple[List[PublishResult], List[bool], float]:
    """One result per event of a batch of `count`; which events are to be sent again; the broker's
    hint when, in seconds, 0 for none."""
    durable = response.durability == _DURABLE
    results = [PublishResult(durable=durable)] * count
    again = [False] * count
    hint = 0.0
    for i, ref in enumerate(response.refs[:count]):
        results[i] = PublishResult(partition=ref.partition, offset=ref.offset, durable=durable)
    for one in response.exceptions:
        if one.index >= count:
            continue
        if one.duplicate or one.delayed:
            has_first = one.HasField("first")
            results[one.index] = PublishResult(
                duplicate=one.duplicate, delayed=one.delayed, durable=durable,
                partition=one.first.partition if has_first else None,
                offset=one.first.offset if has_first else None)
        elif one.code in _RETRIED:
            again[one.index] = True
            hint = max(hint, one.retry_after_ms / 1000)
        else:
            code = _CODES[one.code] if 0 < one.code < len(_CODES) else "UNKNOWN"
            results[one.index] = PublishResult(error=PublishError(code, one.error))
    return results, again, hint

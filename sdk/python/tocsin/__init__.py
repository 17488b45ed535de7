"""Tocsin's Python SDK: serve functions (Worker), publish events (Publisher), test handlers
(TestBroker).

    from tocsin import CloudEvent, Context, Reject, Worker

    worker = Worker("orders")                       # the broker's address: TOCSIN_TARGET

    @worker.function("charge", concurrency=8)
    def charge(event: CloudEvent, ctx: Context) -> None:
        if "amount" not in event.data:
            raise Reject("no amount in it")
        ctx.emit(type="order.charged", data=event.data)

    worker.run()                                    # SIGTERM drains

Logs go to the loggers `tocsin.worker`, `tocsin.publisher` and `tocsin.function.<name>`.
"""

from ._connection import Tls
from .context import Context, EmitLimitError
from .duration import Duration
from .event import AttributeValue, CloudEvent, InvalidEvent
from .outcome import BatchResult, BatchReturn, Drop, EventOutcome, Outcome, Reject, Retry
from .publisher import PublishError, Publisher, PublishResult
from .testing import AsyncTestBroker, TestBroker, TestDeadLetter, TestOutcome
from .worker import Worker

__version__ = "0.1.0"

__all__ = [
    "AsyncTestBroker",
    "AttributeValue",
    "BatchResult",
    "BatchReturn",
    "CloudEvent",
    "Context",
    "Drop",
    "Duration",
    "EmitLimitError",
    "EventOutcome",
    "InvalidEvent",
    "Outcome",
    "PublishError",
    "PublishResult",
    "Publisher",
    "Reject",
    "Retry",
    "TestBroker",
    "TestDeadLetter",
    "TestOutcome",
    "Tls",
    "Worker",
]

"""TestBroker: handlers in memory, with the retry policy of a trigger."""

import asyncio

import pytest

from tocsin import BatchResult, CloudEvent, Drop, Reject, Retry, TestBroker, Worker


def event(id):
    return CloudEvent("t", "/s", {"id": id}, id=id)


@pytest.fixture
def worker():
    worker = Worker("orders")

    def act(event, ctx):
        assert ctx.idempotency_key.startswith("0/") and ctx.function in ("sync", "async")
        if event.id == "reject":
            ctx.emit(type="rejected")
            raise Reject("never")
        if event.id == "drop":
            raise Drop("old")
        if event.id == "broken":
            ctx.emit(type="forgotten")
            raise ValueError("always")
        if ctx.attempt == 2:
            raise Retry(after="70ms")
        ctx.extend()
        ctx.progress(f"attempt {ctx.attempt}")
        ctx.emit(type="order.charged", data=ctx.attempt)
        if ctx.attempt < 3:
            raise Retry("more", code="once")

    @worker.function("async")
    async def act_async(event, ctx):
        await asyncio.sleep(0)
        act(event, ctx)

    worker.function("sync")(act)

    @worker.batch("batch", max_events=3)
    def batch(events, contexts):
        result = BatchResult()
        for one, ctx in zip(events, contexts):
            if one.id == "reject":
                result.fail(one, Reject("never"))
            elif ctx.attempt == 1 and one.id == "again":
                result.fail(one)
        sizes.append([one.id for one in events])
        return result

    sizes = worker.sizes = []
    return worker


def check(broker, acked, dropped, rejected, broken):
    assert acked.acked and acked.attempts == 3
    assert acked.delays == [0.01, 0.07]
    assert acked.failures == ["once: more", ""]
    assert [one.data for one in acked.emitted] == [3]  # those of failed attempts are forgotten
    assert acked.emitted[0]["causationid"] == "good"
    assert acked.extended == 2 and acked.progress == ["attempt 1", "attempt 3"]
    assert dropped.dropped and dropped.reason == "old"
    assert rejected.dead and rejected.reason == "rejected: never"
    assert broken.dead and broken.reason == "exhausted: ValueError: always"
    assert broken.delays == [0.01, 0.02] and broken.attempts == 3
    assert [(one.event.id, one.attempts) for one in broker.dead_letters] == [
        ("reject", 1), ("broken", 3)]
    assert [one.type for one in broker.emitted] == ["order.charged", "rejected"]


@pytest.mark.parametrize("function", ["sync", "async"])
class TestOutcomes:
    def test_retries_by_policy_and_records_every_outcome(self, worker, function):
        with TestBroker(worker, attempts=3, backoff="10ms") as broker:
            check(broker, *[broker.emit(function, event(id))
                            for id in ("good", "drop", "reject", "broken")])

    def test_the_same_awaited(self, worker, function):
        async def main():
            async with TestBroker(worker, attempts=3, backoff="10ms") as broker:
                check(broker, *[await broker.emit(function, event(id))
                                for id in ("good", "drop", "reject", "broken")])

        asyncio.run(main())


class TestTestBroker:
    def test_the_backoff_is_bounded(self, worker):
        outcome = TestBroker(worker, attempts=5, max_backoff=3).emit("sync", event("broken"))
        assert outcome.delays == [1.0, 2.0, 3.0, 3.0]

    def test_batches_are_filled_and_what_failed_comes_again(self, worker):
        broker = TestBroker(worker)
        outcomes = broker.emit_batch("batch", [event(id) for id in ("1", "again", "reject", "4")])
        assert [one.kind for one in outcomes] == ["acked", "acked", "dead", "acked"]
        assert [one.attempts for one in outcomes] == [1, 2, 1, 1]
        assert worker.sizes == [["1", "again", "reject"], ["4"], ["again"]]
        assert broker.emit("batch", event("5")).acked

    def test_says_what_is_wrong_with_the_test(self, worker):
        with pytest.raises(LookupError, match="does not serve 'other'; it serves async, sync"):
            TestBroker(worker).emit("other", event("1"))

        async def main():
            with pytest.raises(RuntimeError, match="async with"):
                TestBroker(worker).emit("sync", event("1"))

        asyncio.run(main())
        with pytest.raises(ValueError):
            TestBroker(worker, attempts=0)

    def test_events_that_cannot_be_parsed_are_the_handlers_business(self, worker):
        @worker.function("reads")
        def reads(event):
            event.data["x"]

        broken = CloudEvent("t", "/s", b"{", datacontenttype="application/json")
        outcome = TestBroker(worker, attempts=1).emit("reads", broken)
        assert "is not the application/json" in outcome.reason

"""The worker's half of the protocol, against a broker whose every frame the test decides."""

import asyncio
import queue
import threading

import pytest

from fake_broker import PATIENCE, Over
from tocsin import (CloudEvent, Context, Drop, EmitLimitError, InvalidEvent, Reject, Retry, Tls,
                    Worker)


def get(one):
    return one.get(timeout=PATIENCE)


class TestRegistration:
    def test_refuses_what_could_not_work(self):
        worker = Worker("orders")
        with pytest.raises(RuntimeError, match="serves nothing"):
            worker.start()
        worker.function("a")(lambda event: None)
        with pytest.raises(ValueError, match="'a' is registered already"):
            worker.function("a")(lambda event: None)
        with pytest.raises(ValueError, match="concurrency"):
            worker.function("b", concurrency=0)(lambda event: None)
        with pytest.raises(ValueError, match="name"):
            worker.function("")(lambda event: None)
        with pytest.raises(TypeError, match="takes .event, ctx."):
            worker.function("c")(lambda event, ctx, more: None)
        with pytest.raises(ValueError, match="TOCSIN_TOKEN"):
            Worker("orders", token="a\n")
        assert worker.functions == ["a"]

    def test_a_decorated_handler_stays_callable(self):
        worker = Worker("orders")

        @worker.function("a")
        def handler(event):
            return event

        assert handler("x") == "x"

    def test_address_and_token_come_from_the_environment(self, monkeypatch):
        monkeypatch.delenv("TOCSIN_TARGET", raising=False)
        assert Worker("orders").target == "127.0.0.1:7420"
        monkeypatch.setenv("TOCSIN_TARGET", "broker:1")
        monkeypatch.setenv("TOCSIN_TOKEN", "t")
        assert Worker("orders").target == "broker:1"
        assert Worker("orders")._connection.token == "t"
        assert Worker("orders", "other:2", token="")._connection.token == ""

    def test_unreadable_tls_files_are_named(self, tmp_path):
        worker = Worker("orders", tls=Tls(ca_file=str(tmp_path / "none.pem")))
        worker.function("a")(lambda event: None)
        with pytest.raises(OSError, match="tls.ca_file .*none.pem"):
            worker.start()


class TestDeliveries:
    def test_hello_names_functions_and_their_summed_credit(self, running):
        worker = running.worker(prefetch=5)
        worker.function("charge", concurrency=8)(lambda event: None)
        worker.batch("index", max_events=10, concurrency=2)(lambda events: None)
        session = running.start(worker)
        assert running.hello.worker == "orders"
        assert running.hello.protocol == 1
        assert list(running.hello.functions) == ["charge", "index"]
        assert running.hello.credit.events == 33
        assert session.authorization == "Bearer secret"
        assert worker.wait_attached(PATIENCE)

    def test_return_acks_and_context_tells_the_delivery(self, running):
        worker = running.worker()
        seen = queue.Queue()

        @worker.function("charge")
        def charge(event: CloudEvent, ctx: Context) -> None:
            seen.put((event.id, event.data, ctx.idempotency_key, ctx.trigger, ctx.function,
                      ctx.attempt, ctx.partition, ctx.offset, ctx.lease.total_seconds(),
                      25 < ctx.remaining <= 30, ctx.cancelled, ctx.recorded.year))

        session = running.start(worker)
        session.deliver("charge", 5, attempt=3)
        assert session.acked(1) == [5]
        assert get(seen) == ("5", {"total": 12}, "1/105/3/0", "on-order", "charge", 3, 1, 105,
                             30.0, True, False, 2023)
        assert session.started_through == 5

    def test_async_and_sync_functions_share_one_stream(self, running):
        worker = running.worker()
        threads = queue.Queue()

        @worker.function("sync")
        def sync(event):
            threads.put(threading.current_thread().name)

        @worker.function("async", concurrency=2)
        async def asynchronous(event, ctx):
            await asyncio.sleep(0)
            threads.put(threading.current_thread().name)

        session = running.start(worker)
        session.deliver("sync", 1)
        session.deliver("async", 2, 2)
        assert sorted(session.acked(3)) == [1, 2, 3]
        assert sorted(get(threads) for _ in range(3)) == [
            "tocsin-async", "tocsin-async", "tocsin-handler-0"]

    def test_every_outcome_reaches_the_broker(self, running):
        worker = running.worker()

        class Odd(Exception):
            def __str__(self):
                raise RuntimeError("no text")

        def act(event):
            number = int(event.id)
            if number == 1:
                raise Retry("busy", after="2s500ms")
            if number == 2:
                raise Retry("gone", code="db")
            if number == 3:
                raise Reject("never")
            if number == 4:
                return Drop("old")
            if number == 5:
                raise ValueError("broken \ud800")
            if number == 6:
                return Reject
            if number == 7:
                return asyncio.sleep(0)
            if number == 8:
                raise Odd
            if number == 9:
                try:
                    raise KeyError("k")
                except KeyError as error:
                    raise Retry(after=0) from error
            return True  # whatever else is returned acks

        async def act_async(event):
            return act(event)

        worker.function("sync")(act)
        worker.function("async")(act_async)
        session = running.start(worker)
        for base, function in ((0, "sync"), (20, "async")):
            answers = {}
            for number in range(1, 10):
                event = CloudEvent("t", "/s", id=str(number)).to_protobuf()
                session.deliver(function, base + number, events=[event])
                answers[number] = session.next_other()
            assert answers[1].retry.after_ms == 2500
            assert answers[1].retry.message == "busy"
            assert answers[1].token == 1001 + base
            assert answers[2].retry.code == "db"
            assert answers[2].retry.after_ms == 0
            assert answers[3].reject.reason == "never"
            assert answers[4].drop.reason == "old"
            assert answers[5].retry.code == "ValueError"
            assert answers[5].retry.message == "broken ?"  # a frame must be UTF-8
            assert answers[6].HasField("reject")
            assert answers[8].retry.code == "worker_test." + Odd.__qualname__
            assert answers[9].retry.code == "KeyError"
            assert answers[9].retry.after_ms == 1  # 0 on the wire is the policy
            if function == "sync":
                assert answers[7].retry.code == "TypeError"
                assert "async def" in answers[7].retry.message
            event = CloudEvent("t", "/s", id="10").to_protobuf()
            session.deliver(function, base + 10, events=[event])
            assert session.acked(1) == [base + 10]

    def test_the_end_of_a_handler_is_not_the_end_of_its_worker(self, running):
        worker = running.worker()

        @worker.function("sync")
        def sync(event):
            raise SystemExit(3)

        @worker.function("async")
        async def asynchronous(event):
            if event.id == "2":
                raise KeyboardInterrupt
            if event.id == "3":
                async def left_behind():
                    raise SystemExit(4)
                asyncio.get_running_loop().create_task(left_behind())
            if event.id == "4":
                raise asyncio.CancelledError

        session = running.start(worker)
        session.deliver("sync", 1)
        assert session.next_other().retry.code == "SystemExit"
        session.deliver("async", 2)
        assert session.next_other().retry.code == "KeyboardInterrupt"
        session.deliver("async", 3)
        assert session.acked(1) == [3]
        session.deliver("async", 4)
        assert "CancelledError" in session.next_other().retry.code
        session.deliver("async", 5)
        assert session.acked(1) == [5]

    def test_what_cannot_be_read_is_rejected_and_unknown_functions_are_retried(self, running):
        worker = running.worker()
        worker.function("charge")(lambda event: None)
        session = running.start(worker)
        session.deliver("charge", 1, events=[b"\xff\xff"])
        assert "cannot be read" in session.next_other().reject.reason
        session.deliver("other", 2)
        assert session.next_other().retry.code == "unknown_function"

    def test_many_deliveries_under_load_are_each_answered_once(self, running):
        worker = running.worker()
        calls = []
        worker.function("sync", concurrency=4)(lambda event: calls.append(event.id))

        @worker.function("async", concurrency=50)
        async def asynchronous(event):
            calls.append(event.id)

        session = running.start(worker)
        for first in range(1, 4001, 500):
            session.deliver("sync", first, 250)
            session.deliver("async", first + 250, 250)
        assert sorted(session.acked(4000)) == list(range(1, 4001))
        assert len(calls) == 4000
        assert worker.stop(PATIENCE)
        assert session.next_frame().HasField("leaving")
        with pytest.raises(Over):
            session.next_frame()


class TestAnswers:
    def test_acks_are_coalesced_into_ranges(self, running):
        worker = running.worker()
        worker.function("charge", concurrency=500)(lambda event: None)
        session = running.start(worker)
        session.deliver("charge", 1, 500)
        assert sorted(session.acked(500)) == list(range(1, 501))
        assert session.ranges < 300

    def test_emitted_events_ride_with_the_ack_but_not_with_a_retry(self, running):
        worker = running.worker()
        kept = queue.Queue()

        @worker.function("charge")
        def charge(event, ctx):
            kept.put(ctx)
            ctx.emit(type="order.charged", data={"paid": True}, partitionkey="k")
            ctx.emit(CloudEvent("other", "/billing", id="x", extensions={
                "causationid": "mine", "traceparent": "00-b"}))
            with pytest.raises(InvalidEvent):
                ctx.emit(type="")
            if ctx.attempt == 1:
                raise Retry

        session = running.start(worker)
        event = CloudEvent("t", "/s", id="e1", extensions={
            "traceparent": "00-a", "tracestate": "s", "other": "not carried"}).to_protobuf()
        session.deliver("charge", 1, attempt=1, events=[event])
        assert not session.next_other().emitted
        session.deliver("charge", 2, attempt=2, events=[event])
        answer = session.next_other()
        assert answer.HasField("ack")
        made, given = [CloudEvent.from_protobuf(one) for one in answer.emitted]
        assert (made.type, made.source, made.data) == (
            "order.charged", "/functions/charge", {"paid": True})
        assert dict(made.extensions) == {"causationid": "e1", "traceparent": "00-a",
                                         "tracestate": "s", "partitionkey": "k"}
        assert (given.id, given["causationid"], given["traceparent"], given["tracestate"]) == (
            "x", "mine", "00-b", "s")
        get(kept)
        with pytest.raises(RuntimeError, match="has returned"):
            get(kept).emit(type="late")

    def test_emitting_too_much_is_an_error_of_the_handler(self, running):
        worker = running.worker()

        @worker.function("many")
        def many(event, ctx):
            for _ in range(256):
                ctx.emit(type="t")
            with pytest.raises(EmitLimitError):
                ctx.emit(type="t")

        @worker.function("big")
        def big(event, ctx):
            ctx.emit(type="t", data=b"x" * 1_500_000)
            ctx.emit(type="t", data=b"x" * 1_500_000)

        session = running.start(worker)
        session.deliver("many", 1)
        assert len(session.next_other().emitted) == 256
        session.deliver("big", 2)
        assert session.next_other().retry.code == "tocsin.context.EmitLimitError"

    # The danger: one frame with what all handlers emitted is more than the broker receives.
    def test_frames_stay_bounded_whatever_is_emitted(self, running):
        worker = running.worker()
        barrier = threading.Barrier(8)

        @worker.function("charge", concurrency=8)
        def charge(event, ctx):
            ctx.emit(type="t", data=b"x" * 1_500_000)
            barrier.wait(PATIENCE)

        session = running.start(worker)
        session.deliver("charge", 1, 8)
        answers = 0
        while answers < 8:
            frame = session.next_frame()
            assert frame.ByteSize() < 4 * 1024 * 1024
            answers += len(frame.answers.others)

    def test_extend_and_progress_are_sent_while_the_handler_runs(self, running):
        worker = running.worker()
        proceed = queue.Queue()

        @worker.function("charge")
        def charge(event, ctx):
            ctx.extend(by="1m")
            assert ctx.lease.total_seconds() == 60 and ctx.remaining > 50
            get(proceed)
            ctx.progress("half")
            get(proceed)
            ctx.extend()
            assert ctx.lease.total_seconds() == 30
            get(proceed)

        session = running.start(worker)
        session.deliver("charge", 1)
        assert session.next_other().extend.by_ms == 60_000
        proceed.put(1)
        assert session.next_other().progress.message == "half"
        proceed.put(1)
        assert session.next_other().extend.by_ms == 0
        proceed.put(1)
        assert session.acked(1) == [1]


class TestConcurrency:
    def test_never_runs_more_than_its_concurrency_and_reports_what_is_started(self, running):
        worker = running.worker()
        begun, proceed = queue.Queue(), queue.Queue()
        lock, count = threading.Lock(), {"now": 0, "most": 0}

        @worker.function("charge", concurrency=3)
        def charge(event):
            with lock:
                count["now"] += 1
                count["most"] = max(count["most"], count["now"])
            begun.put(1)
            get(proceed)
            with lock:
                count["now"] -= 1

        session = running.start(worker)
        session.deliver("charge", 1, 9)
        for _ in range(3):
            get(begun)
        started = 0
        while started < 3:
            started = session.pop().answers.started_through
        assert started == 3  # and not 9: the rest only waits here
        for _ in range(9):
            proceed.put(1)
        assert len(session.acked(9)) == 9
        assert count["most"] == 3

    def test_async_functions_keep_to_their_concurrency_too(self, running):
        worker = running.worker()
        now, most = [], []

        @worker.function("charge", concurrency=3)
        async def charge(event):
            now.append(1)
            most.append(len(now))
            for _ in range(5):
                await asyncio.sleep(0)
            now.pop()

        session = running.start(worker)
        session.deliver("charge", 1, 50)
        assert len(session.acked(50)) == 50
        assert max(most) == 3

    def test_threads_max_bounds_the_sum(self, running):
        worker = running.worker(threads_max=2)
        begun, proceed = queue.Queue(), queue.Queue()

        def handler(event):
            begun.put(1)
            get(proceed)

        worker.function("a", concurrency=4)(handler)
        worker.function("b", concurrency=4)(handler)
        session = running.start(worker)
        session.deliver("a", 1, 4)
        session.deliver("b", 5, 4)
        get(begun), get(begun)
        session.deliver("other", 9)  # its refusal says that everything before was read
        assert session.next_other().retry.code == "unknown_function"
        assert begun.empty()
        for _ in range(8):
            proceed.put(1)
        assert len(session.acked(8)) == 8

    # The danger: time that a delivery waits here counts against its lease, and it becomes a dead
    # letter without having run.
    def test_the_lease_of_what_waits_here_is_renewed(self, running):
        worker = running.worker()
        proceed = queue.Queue()
        worker.function("charge")(lambda event: get(proceed))
        session = running.start(worker)
        session.deliver("charge", 1, 2, lease_ms=200)
        renewed = session.next_other()
        assert (renewed.handle, renewed.extend.by_ms) == (2, 0)
        assert session.next_other().handle == 2
        proceed.put(1), proceed.put(1)
        assert session.acked(2) == [1, 2]


class TestCancel:
    def test_cancel_reaches_the_handler_and_its_answer_settles_nothing(self, running):
        worker = running.worker()
        begun, ended = queue.Queue(), queue.Queue()

        @worker.function("charge")
        def charge(event, ctx):
            if event.id == "1":
                ctx.emit(type="t")
                begun.put(1)
                assert ctx.wait_cancelled(PATIENCE)
                ended.put(ctx.cancelled)

        session = running.start(worker)
        session.deliver("charge", 1)
        get(begun)
        session.cancel(1)
        assert get(ended) is True
        # It is told that the worker is no longer busy with it: that frees its credit.
        answer = session.next_other()
        assert (answer.handle, answer.retry.code, len(answer.emitted)) == (1, "cancelled", 0)
        session.deliver("charge", 2)
        assert session.acked(1) == [2]

    def test_cancel_ends_an_async_handler(self, running):
        worker = running.worker()
        begun, ended = queue.Queue(), queue.Queue()

        @worker.function("charge")
        async def charge(event, ctx):
            if event.id == "1":
                begun.put(1)
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.put(ctx.cancelled)

        session = running.start(worker)
        session.deliver("charge", 1)
        get(begun)
        session.cancel(1)
        assert get(ended) is True
        assert session.next_other().retry.code == "cancelled"
        session.deliver("charge", 2)
        assert session.acked(1) == [2]

    def test_a_cancelled_delivery_that_waits_is_never_run(self, running):
        worker = running.worker()
        begun, proceed, ran = queue.Queue(), queue.Queue(), []

        @worker.function("charge")
        def charge(event):
            ran.append(event.id)
            begun.put(1)
            get(proceed)

        session = running.start(worker)
        session.deliver("charge", 1, 3)
        get(begun)
        session.cancel(2)
        answer = session.next_other()
        assert (answer.handle, answer.retry.code) == (2, "cancelled")
        proceed.put(1), proceed.put(1)
        assert session.acked(2) == [1, 3]
        assert ran == ["1", "3"]

    def test_callbacks_of_a_cancelled_attempt_run_at_once_and_may_fail(self, running):
        worker = running.worker()
        begun, called = queue.Queue(), queue.Queue()

        @worker.function("charge")
        def charge(event, ctx):
            if event.id == "1":
                ctx.on_cancel(lambda: 1 // 0)
                ctx.on_cancel(lambda: called.put("first"))
                begun.put(1)
                assert ctx.wait_cancelled(PATIENCE)
                ctx.on_cancel(lambda: called.put("second"))

        session = running.start(worker)
        session.deliver("charge", 1)
        get(begun)
        session.cancel(1)
        assert [get(called), get(called)] == ["first", "second"]

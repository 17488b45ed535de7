"""How workers come to a broker, notice that it is gone, and come back."""

import dataclasses
import logging
import queue

import grpc

from fake_broker import PATIENCE, Proxy


def get(one):
    return one.get(timeout=PATIENCE)


class TestConnection:
    def test_heartbeats_come_while_a_handler_hangs(self, running):
        worker = running.worker()
        proceed = queue.Queue()
        worker.function("charge")(lambda event: get(proceed))
        session = running.start(worker, heartbeat_ms=20)
        session.deliver("charge", 1)
        beats = 0
        while beats < 3:
            beats += session.next_frame().HasField("heartbeat")
        proceed.put(1)

    def test_a_broken_connection_forgets_answers_and_attaches_again(self, running):
        worker = running.worker()
        begun, cancelled = queue.Queue(), queue.Queue()

        @worker.function("charge")
        def charge(event, ctx):
            if event.id == "1":
                begun.put(1)
                ctx.wait_cancelled(PATIENCE)
                cancelled.put(ctx.cancelled)

        session = running.start(worker)
        session.deliver("charge", 1, 5)
        get(begun)
        session.kill()
        assert get(cancelled) is True
        following = running.session()
        following.deliver("charge", 2, 2)
        assert following.acked(2) == [2, 3]

    def test_comes_back_after_a_refusal_and_says_why(self, running, caplog):
        running.broker.attach_status = (grpc.StatusCode.UNAUTHENTICATED, "no such token")
        worker = running.worker()
        worker.function("charge")(lambda event: None)
        with caplog.at_level(logging.WARNING, "tocsin.worker"):
            running.start(worker)
        assert "UNAUTHENTICATED: no such token" in caplog.text
        assert worker.stop(PATIENCE)

    # The danger: a channel that has failed fails the next call too, however long the broker is
    # back.
    def test_comes_back_at_the_first_try_after_an_outage(self, running):
        broker, lines = running.broker, queue.Queue()
        handler = logging.Handler()
        handler.emit = lambda record: lines.put(record.getMessage())
        logger = logging.getLogger("tocsin.worker")
        logger.addHandler(handler)
        try:
            worker = running.worker()
            worker.function("charge")(lambda event: None)
            worker._connection = dataclasses.replace(worker._connection, backoff_min=0.3,
                                                     backoff_max=0.3)
            broker.stop()
            worker.start()
            for _ in range(3):
                assert "cannot attach" in get(lines)
            broker.start()
            running.session()
            assert lines.empty() or "Connection refused" in get(lines)  # one was under way
            assert lines.empty() or "attached" in get(lines)
        finally:
            logger.removeHandler(handler)

    def test_a_malformed_frame_ends_the_session_and_nothing_else(self, running):
        worker = running.worker()
        worker.function("charge")(lambda event: None)
        running.start(worker).send(b"\xff\xff\xff")
        following = running.session()
        following.deliver("charge", 1)
        assert following.acked(1) == [1]

    def test_a_broker_that_does_not_welcome_is_left(self, running):
        worker = running.worker()
        worker.function("charge")(lambda event: None)
        worker._connection = dataclasses.replace(worker._connection, welcome_within=0.05)
        worker.start()
        assert running.broker.next_session().pop().HasField("hello")
        assert not worker.wait_attached(0)
        following = running.session()
        following.deliver("charge", 1)
        assert following.acked(1) == [1]

    # The danger: a broker whose machine vanished leaves a connection on which nothing ever comes.
    def test_a_silent_broker_is_left(self, running):
        proxy = Proxy(running.broker.port)
        worker = running.worker()
        begun, cancelled = queue.Queue(), queue.Queue()

        @worker.function("charge")
        def charge(event, ctx):
            if event.id == "1":
                begun.put(1)
                cancelled.put(ctx.wait_cancelled(PATIENCE))

        worker._connection = dataclasses.replace(
            worker._connection, target=f"127.0.0.1:{proxy.port}", keepalive_every=0.2,
            keepalive_within=0.2)
        session = running.start(worker)
        session.deliver("charge", 1)
        get(begun)
        proxy.fall_silent()
        assert get(cancelled) is True
        proxy.speak_again()
        following = running.session()
        following.deliver("charge", 2)
        assert following.acked(1) == [2]
        proxy.close()

    def test_the_brokers_drain_makes_it_leave_and_come_back(self, running):
        worker = running.worker()
        proceed = queue.Queue()
        worker.function("charge")(lambda event: event.id == "1" and get(proceed))
        session = running.start(worker)
        session.deliver("charge", 1)
        while session.pop().answers.started_through < 1:
            pass
        session.drain()
        assert session.next_frame().HasField("leaving")
        proceed.put(1)
        assert session.acked(1) == [1]
        following = running.session()
        following.deliver("charge", 2)
        assert following.acked(1) == [2]

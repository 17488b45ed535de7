"""The Python SDK against the real broker, whose program is named by TOCSIN."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tocsin import CloudEvent, Publisher, PublishError, Reject, Worker

TOCSIN = os.environ["TOCSIN"]
PATIENCE = 30.0
CONFIG = """
version: 1
broker:
  data_dir: %(dir)s/data
  listen: "127.0.0.1:%(port)d"
  http: "127.0.0.1:0"
  tokens: [ { token: secret, scopes: [publish, work, admin] } ]
functions: { charge: {}, index: {}, slow: {}, poison: {}, record: {} }
triggers:
  charge:
    filters: [ { exact: { type: order.placed } } ]
    function: charge
    retry: { attempts: 3, backoff: 20ms }
  record: { filters: [ { exact: { type: order.charged } } ], function: record }
  index:
    filters: [ { exact: { type: doc } } ]
    function: index
    retry: { attempts: 2, backoff: 20ms }
  slow:
    filters: [ { exact: { type: slow } } ]
    function: slow
    timeout: 2s
    retry: { attempts: 2, backoff: 20ms }
  poison:
    filters: [ { prefix: { type: poison } } ]
    function: poison
    retry: { attempts: 3, backoff: 20ms }
"""


def get(one):
    return one.get(timeout=PATIENCE)


class Broker:
    def __init__(self, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.target = "127.0.0.1:%d" % probe.getsockname()[1]
        self.environment = dict(os.environ, TOCSIN_TARGET=self.target, TOCSIN_TOKEN="secret",
                                PYTHONUNBUFFERED="1")
        self.config = os.path.join(directory, "tocsin.yaml")
        with open(self.config, "w", encoding="utf-8") as out:
            out.write(CONFIG % {"dir": directory, "port": int(self.target.split(":")[1])})
        self.log = open(os.path.join(directory, "broker.log"), "ab")
        self.process = None

    def start(self):
        self.process = subprocess.Popen([TOCSIN, "serve", "-c", self.config], stdout=self.log,
                                        stderr=self.log, env=self.environment)
        self.wait_for(lambda: self.command("status").returncode == 0, "the broker is up")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def command(self, *words):
        return subprocess.run([TOCSIN, *words], env=self.environment, text=True, timeout=PATIENCE,
                              capture_output=True, check=False)

    def listed(self, *words):
        done = self.command(*words, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def books(self, trigger):
        return next(one for one in self.listed("triggers") if one["name"] == trigger)

    def wait_for(self, condition, what):
        """Polls another process: there is nothing of it to wait on."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = condition()
            if found:
                return found
            assert self.process.poll() is None, "the broker ended"
            assert time.monotonic() < deadline, f"not in time: {what}"
            threading.Event().wait(0.02)

    def wait_settled(self, trigger, matched):
        def settled():
            books = self.books(trigger)
            return books if books["matched"] == matched and books["pending"] == 0 else None

        return self.wait_for(settled, f"{trigger} is settled")

    def worker(self, name="python", **options):
        return Worker(name, self.target, token="secret", **options)

    def publisher(self, **options):
        return Publisher(self.target, token="secret", **options)

    @contextlib.contextmanager
    def program(self, code):
        """A worker in a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", "import os, sys\nfrom tocsin import Worker\n"
             "worker = Worker('program')\n" + code + "\nsys.exit(worker.run())"],
            env=self.environment, stdout=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture
def broker(tmp_path):
    one = Broker(str(tmp_path))
    one.start()
    yield one
    one.kill()
    one.log.close()


class TestPythonSdk:
    def test_publish_runs_and_emits_durably_with_the_ack(self, broker):
        worker, seen = broker.worker(), queue.Queue()

        @worker.function("charge", concurrency=4)
        def charge(event, ctx):
            ctx.progress("charging")
            ctx.emit(type="order.charged", id="c-" + event.id, data=event.data)

        @worker.function("record")
        async def record(event, ctx):
            seen.put((event.id, event.source, event["causationid"], event.data,
                      event["traceparent"]))

        with worker, broker.publisher(positions=True) as publisher:
            assert worker.wait_attached(PATIENCE)
            assert [one["worker"] for one in broker.listed("workers")] == ["python"]
            event = CloudEvent("order.placed", "/shop", {"total": 12}, id="A-1",
                               extensions={"traceparent": "00-x"})
            first = publisher.publish_and_wait(event, PATIENCE)
            again = publisher.publish_and_wait(event, PATIENCE)
            assert first.durable and not first.duplicate and again.duplicate
            assert (first.partition, first.offset) == (again.partition, again.offset)
            assert get(seen) == ("c-A-1", "/functions/charge", "A-1", {"total": 12}, "00-x")
            books = broker.wait_settled("record", 1)
            assert books["acked"] == 1
            assert broker.wait_settled("charge", 1)["acked"] == 1

    def test_many_events_are_each_acked_once_and_in_key_order(self, broker):
        worker, runs = broker.worker(), []
        worker.function("charge", concurrency=16)(
            lambda event: runs.append((event.partitionkey, event.data)))
        with worker, broker.publisher() as publisher:
            for number in range(3000):
                publisher.publish(CloudEvent("order.placed", "/shop", number,
                                             partitionkey=f"k{number % 50}"))
            assert broker.wait_settled("charge", 3000)["acked"] == 3000
        for key in range(50):
            assert [n for k, n in runs if k == f"k{key}"] == list(range(key, 3000, 50))

    def test_what_keeps_failing_becomes_a_dead_letter_with_its_reason(self, broker):
        worker, attempts = broker.worker(), []

        @worker.function("charge")
        def charge(event, ctx):
            attempts.append((event.id, ctx.attempt))
            if event.id == "refused":
                raise Reject("not ours")
            raise ValueError("amount is no number")

        with worker, broker.publisher() as publisher:
            publisher.publish_batch([CloudEvent("order.placed", "/s", id="broken"),
                                     CloudEvent("order.placed", "/s", id="refused")])
            assert broker.wait_settled("charge", 2)["dead"] == 2
        assert sorted(attempts) == [("broken", 1), ("broken", 2), ("broken", 3), ("refused", 1)]
        letters = {one["reason"]: one for one in broker.listed("dead", "list")}
        assert "amount is no number" in json.dumps(letters["exhausted"])
        assert "not ours" in json.dumps(letters["rejected"])

    def test_a_batch_is_settled_event_by_event(self, broker):
        worker, tried = broker.worker(), []

        @worker.batch("index", max_events=20, max_wait="50ms")
        def index(events, contexts):
            tried.extend((event.data, ctx.attempt) for event, ctx in zip(events, contexts))
            return {"batchItemFailures": [{"itemIdentifier": event.id} for event in events
                                          if event.data % 5 == 0]}

        with worker, broker.publisher() as publisher:
            publisher.publish_batch([CloudEvent("doc", "/s", number) for number in range(20)])
            books = broker.wait_settled("index", 20)
        assert (books["acked"], books["dead"]) == (16, 4)
        assert sorted(n for n, attempt in tried if attempt == 2) == [0, 5, 10, 15]

    # The danger: a handler that outlives its lease keeps the worker's credit for ever, or what
    # waits behind it becomes a dead letter without having run.
    def test_a_handler_slower_than_its_lease_costs_its_own_attempt_only(self, broker):
        worker, begun = broker.worker(), queue.Queue()

        @worker.function("slow")
        def slow(event, ctx):
            begun.put((event.id, ctx.attempt))
            if event.id == "hangs" and ctx.attempt == 1:
                assert ctx.wait_cancelled(PATIENCE)

        with worker, broker.publisher() as publisher:
            publisher.publish_and_wait(CloudEvent("slow", "/s", id="hangs"), PATIENCE)
            assert get(begun) == ("hangs", 1)
            publisher.publish_batch([CloudEvent("slow", "/s", id=f"n{n}") for n in range(3)])
            assert broker.wait_settled("slow", 4)["acked"] == 4
        assert sorted(get(begun) for _ in range(4)) == [
            ("hangs", 2), ("n0", 1), ("n1", 1), ("n2", 1)]

    def test_extending_keeps_a_long_handler_alive(self, broker):
        worker, attempts = broker.worker(), []

        @worker.function("slow")
        def slow(event, ctx):
            attempts.append(ctx.attempt)
            ctx.extend(by="30s")
            assert not ctx.wait_cancelled(3)  # more than the trigger's timeout

        with worker, broker.publisher() as publisher:
            publisher.publish_and_wait(CloudEvent("slow", "/s"), PATIENCE)
            assert broker.wait_settled("slow", 1)["acked"] == 1
        assert attempts == [1]

    def test_sigterm_drains(self, broker, tmp_path):
        pipe = str(tmp_path / "pipe")
        os.mkfifo(pipe)
        with broker.program(f"""
@worker.function("charge")
def charge(event):
    print("begun")
    open({pipe!r}).read()
""") as process, broker.publisher() as publisher:
            publisher.publish_and_wait(CloudEvent("order.placed", "/s"), PATIENCE)
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGTERM)
            broker.wait_for(lambda: [one for one in broker.listed("workers")
                                     if one["state"] != "attached"], "the worker is leaving")
            publisher.publish_and_wait(CloudEvent("order.placed", "/s"), PATIENCE)
            with open(pipe, "w", encoding="utf-8"):
                pass
            assert process.wait(PATIENCE) == 0
            books = broker.books("charge")
            assert (books["acked"], books["pending"]) == (1, 1)  # it took nothing new
            assert broker.listed("workers") == []

    def test_a_killed_broker_is_found_again_and_nothing_is_lost(self, broker):
        worker, runs = broker.worker(), queue.Queue()
        worker.function("charge", concurrency=8)(lambda event: runs.put(event.data))
        with worker, broker.publisher() as publisher:
            futures = []
            for number in range(200):
                futures.append(publisher.publish(CloudEvent("order.placed", "/s", number)))
                if number in (50, 120):
                    get(runs)  # it is at work
                    broker.kill()
                    broker.start()
            assert all(future.result(PATIENCE).durable for future in futures)
            books = broker.wait_settled("charge", 200)
        assert books["acked"] == 200

    # The danger: an event that kills its worker is delivered again for ever, or drags its
    # neighbours along.
    def test_an_event_that_kills_workers_becomes_a_dead_letter(self, broker):
        code = """
@worker.function("poison", concurrency=4)
def poison(event):
    if event.type == "poison": os._exit(9)
"""
        with broker.publisher() as publisher:
            publisher.publish_batch([CloudEvent("poison", "/s", id="deadly"), *[
                CloudEvent("poison.not", "/s") for _ in range(10)]])
        for _ in range(20):
            with broker.program(code) as process:
                deadline = time.monotonic() + PATIENCE
                while process.poll() is None and broker.books("poison")["pending"]:
                    assert time.monotonic() < deadline
                    threading.Event().wait(0.02)
            if not broker.books("poison")["pending"]:
                break
        books = broker.wait_settled("poison", 11)
        assert books["dead"] == 1 and books["acked"] == 10
        assert [one["reason"] for one in broker.listed("dead", "list")] == ["exhausted"]

    def test_a_wrong_token_is_refused_in_words(self, broker):
        with Publisher(broker.target, token="wrong") as publisher:
            with pytest.raises(PublishError) as caught:
                publisher.publish_and_wait(CloudEvent("t", "/s"), PATIENCE)
        assert caught.value.code == "UNAUTHENTICATED"

    def test_an_event_the_broker_refuses_fails_alone(self, broker):
        with broker.publisher() as publisher:
            results = publisher.publish_batch([
                CloudEvent("t", "/s"), CloudEvent("t", "/s", b"x" * 2_000_000),
                CloudEvent("t", "/s")])
        assert [one.error is None for one in results] == [True, False, True]
        assert "event_bytes_max" in results[1].error.message

"""Workers that die, hang and lie, against a real `tocsin serve`."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest

from fault_rig import Broker, Worker, WorkerFrame, event, eventually, id_of, one_trigger


@pytest.fixture(name="make")
def fixture_make(tmp_path):
    made = []

    def make(more=""):
        made.append(Broker(tmp_path, rest=one_trigger(more)).start())
        return made[-1]

    yield make
    for broker in made:
        broker.end()


class Process:
    """A worker in a process of its own, for SIGKILL: this file run with `hold` or `crash`."""

    def __init__(self, broker, mode, *words):
        self.popen = subprocess.Popen(
            ["/usr/bin/python3", "-B", __file__, mode, broker.target, *words],
            stdout=subprocess.PIPE, text=True)

    def line(self):
        return self.popen.stdout.readline().strip()

    def kill(self):
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(20)
        return time.monotonic()


# --- F26 ---
@pytest.mark.parametrize("started", ["unstarted", "started"])
def test_F26_a_killed_workers_events_are_elsewhere_within_a_second_in_key_order(make, started):
    broker = make("    timeout: 60s\n    retry: { backoff: 10ms, jitter: none }\n")
    names = ["%s%d" % (key, i) for i in range(4) for key in "abcdefgh"]
    assert broker.accepted(*[event(name, key=name[0]) for name in names])
    doomed = Process(broker, "hold", "8", started)
    held = [doomed.line() for _ in range(8)]
    assert sorted(held) == [key + "0" for key in "abcdefgh"], "one of each key"
    heir = broker.worker(name="heir")
    killed = doomed.kill()
    # What comes while a key's first is missing would be out of order.
    order = []
    # What it had begun comes one at a time, for one of them may have killed it.
    first_round = heir.take(1 if started == "started" else 8)
    assert heir.came - killed <= 1.0, "redelivered after %.3f s" % (heir.came - killed)
    for _ in range(len(names)):
        delivery = first_round.pop(0) if first_round else heir.take()[0]
        order.append(id_of(delivery))
        # Only what it said it had begun costs an attempt.
        expected = 2 if started == "started" and order[-1].endswith("0") else 1
        assert delivery.attempt == expected, (order[-1], delivery.attempt)
        heir.ack(delivery.handle)
    for key in "abcdefgh":
        assert [one for one in order if one[0] == key] == [key + str(i) for i in range(4)]
    eventually(lambda: broker.books().acked == len(names))


# --- F27 ---
class Cable:
    """A connection to the broker that can be pulled out: nothing comes through any more, in either
    direction, and nobody is told."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._through = threading.Event()
        self._through.set()
        self._near = None
        self._far = socket.create_connection((host, int(port)))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        self._near, _ = self._listener.accept()
        for source, sink in ((self._near, self._far), (self._far, self._near)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._through.wait()
                sink.sendall(data)

    def pull(self):
        self._through.clear()

    def plug(self):
        self._through.set()

    def close(self):
        self.plug()
        for end in (self._near, self._far, self._listener):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_F27_a_half_open_workers_events_go_elsewhere_and_its_late_acks_move_nothing(tmp_path):
    broker = Broker(tmp_path, rest=one_trigger("    timeout: 60s\n"),
                    broker="  heartbeat: 200ms\n  gone: 1s\n").start()
    cable, done = Cable(broker.target), threading.Event()
    channel = grpc.insecure_channel(cable.target,
                                    options=[("grpc.use_local_subchannel_pool", 1)])
    try:
        assert broker.accepted(event("a", key="k"), event("b", key="k"))
        lost = Worker(channel, "work", credit=1, name="lost")
        first = lost.take()[0]
        cable.pull()
        pulled = time.monotonic()
        heir = broker.worker(name="heir", credit=1)

        def beat():
            while not done.wait(0.2):
                heir.heartbeat()

        threading.Thread(target=beat, daemon=True).start()
        second = heir.take()[0]
        assert id_of(second) == "a" and second.token != first.token
        assert 0.5 <= heir.came - pulled <= 4.0, "the lease was lost after %.2f s" % (
            heir.came - pulled)
        # It was written into the cable before anybody could know.
        lost.ack(first.handle)
        cable.plug()
        assert lost.code() is not None, "it learns that it was given up"
        assert (broker.books().acked, broker.books().leased) == (0, 1)
        heir.ack(second.handle)
        third = heir.take()[0]
        assert id_of(third) == "b"
        heir.ack(third.handle)
        eventually(lambda: broker.books().acked == 2)
    finally:
        done.set()
        channel.close()
        cable.close()
        broker.end()


# --- F29 ---
def test_F29_double_unknown_and_disordered_acks_are_counted_and_move_nothing(make):
    broker = make()
    assert broker.accepted(*[event("e%d" % i, key="k%d" % i) for i in range(6)])
    worker, other = broker.worker(credit=3, name="one"), None
    held = worker.take(3)
    other = broker.worker(credit=3, name="two")
    others = other.take(3)
    handles = [one.handle for one in held]
    assert handles == sorted(handles)
    worker.ack(handles[2], handles[0])  # out of order
    worker.ack(handles[0])              # twice
    worker.ack(10_000, 0)               # unknown
    worker.until(lambda: worker.refused == 3)
    eventually(lambda: broker.books().acked == 2)
    everything = WorkerFrame()  # a range of all there ever can be: only what is held counts
    acked = everything.answers.acked.add()
    acked.first, acked.last = 1, (1 << 64) - 1
    worker.send(everything)
    worker.until(lambda: worker.refused > 3)
    eventually(lambda: broker.books().acked == 3)
    assert broker.books().leased == 3, "the other worker's are not touched"
    assert broker.metric("tocsin_worker_stale_answers_total") >= 4
    wrong = WorkerFrame()
    answer = wrong.answers.others.add()
    answer.handle, answer.token = others[0].handle, others[0].token + 1
    answer.ack.SetInParent()
    other.send(wrong)
    other.until(lambda: other.refused == 1)
    assert broker.books().acked == 3
    other.ack(*[one.handle for one in others])
    eventually(lambda: broker.books().acked == 6)
    assert broker.books().pending == 0


def test_F29_an_ack_after_the_lease_was_lost_does_not_settle_the_next_holders_event(make):
    broker = make("    timeout: 300ms\n    retry: { backoff: 10ms, jitter: none }\n")
    assert broker.accepted(event("a", key="k"))
    late = broker.worker(credit=1, name="late")
    first = late.take()[0]
    heir = broker.worker(credit=1, name="heir")
    second = heir.take()[0]
    assert (id_of(second), second.attempt) == ("a", 2)
    assert second.token != first.token
    late.until(lambda: first.handle in late.cancelled)
    late.ack(first.handle)
    late.until(lambda: late.refused == 1)
    books = broker.books()
    assert (books.acked, books.pending) == (0, 1)
    heir.ack(second.handle)
    eventually(lambda: broker.books().acked == 1)
    # Also from a session that is new, with the token of the lost lease.
    again = broker.worker(name="again")
    frame = WorkerFrame()
    answer = frame.answers.others.add()
    answer.handle, answer.token = first.handle, first.token
    answer.ack.SetInParent()
    again.send(frame)
    again.until(lambda: again.refused == 1)
    assert broker.books().acked == 1


# --- F30 ---
def test_F30_a_hung_handlers_lease_ends_while_its_heartbeat_goes_on(make):
    broker = make("    timeout: 400ms\n    concurrency: 2\n"
                  "    retry: { backoff: 10ms, jitter: none }\n")
    hung = broker.worker(credit=1, name="hung")
    assert broker.accepted(event("slow", key="slow"))
    first = hung.take()[0]
    leased = time.monotonic()
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            hung.heartbeat()

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        busy = broker.worker(credit=2, name="busy")
        seen = {}
        assert broker.accepted(*[event("q%d" % i, key="quick%d" % i) for i in range(20)])
        while len(seen) < 21:
            delivery = busy.take()[0]
            seen[id_of(delivery)] = (delivery.attempt, time.monotonic() - leased)
            busy.ack(delivery.handle)
        # Other keys did not wait for it, nor did its slot of the trigger's two stay taken.
        assert seen["slow"][0] == 2 and 0.3 < seen["slow"][1] < 5, seen["slow"]
        assert all(attempt == 1 for name, (attempt, _) in seen.items() if name != "slow")
        eventually(lambda: broker.books().acked == 21)
        hung.until(lambda: first.handle in hung.cancelled)
        # It is still attached, still busy, and gets nothing more until it answers.
        assert broker.accepted(*[event("r%d" % i, key="r%d" % i) for i in range(5)])
        for _ in range(5):
            busy.ack(busy.take()[0].handle)
        assert not hung.deliveries
        hung.ack(first.handle)
        hung.until(lambda: hung.refused == 1)
        eventually(lambda: broker.books().acked == 26)
        busy.close()
        assert broker.accepted(event("last", key="last"))
        assert id_of(hung.take()[0]) == "last", "its slot is free again"
    finally:
        stop.set()
        beating.join()


# --- F31 ---
def test_F31_an_event_that_kills_its_workers_dies_alone_across_restarts(make, tmp_path):
    broker = make("    retry: { attempts: 3, backoff: 20ms, jitter: none }\n    timeout: 60s\n")
    innocents = ["i%d" % i for i in range(30)]
    assert broker.accepted(*[event(name, key=name) for name in innocents[:15]])
    assert broker.accepted(event("poison", key="p"), event("behind", key="p"))
    assert broker.accepted(*[event(name, key=name) for name in innocents[15:]])
    runs = tmp_path / "runs"
    runs.touch()
    crashes = 0
    deadline = time.monotonic() + 40
    worker = Process(broker, "crash", str(runs))
    while broker.books().pending > 0:
        assert time.monotonic() < deadline, (broker.books(), runs.read_text())
        if worker.popen.poll() is None:
            worker.popen.stdout.readline()  # until it did something more, or died
            continue
        if crashes < 2:
            broker.kill()
            crashes += 1
            broker.start()
        worker = Process(broker, "crash", str(runs))
    worker.kill()
    executed = runs.read_text().split()
    poisoned = executed.count("poison")
    assert 3 <= poisoned <= 3 + crashes, poisoned
    letter = broker.letters()[0]
    assert len(broker.letters()) == 1
    assert (letter.event_id, letter.reason, letter.trigger) == ("poison", "exhausted", "all")
    assert letter.attempts == 3 and [one.attempt for one in letter.history] == [1, 2, 3]
    assert all(one.worker_died for one in letter.history), letter.history
    assert letter.event == event("poison", key="p")
    books = broker.books()
    assert (books.acked, books.dead) == (len(innocents) + 1, 1)
    assert executed.count("behind") == 1, "its key went on behind it"
    for name in innocents:
        # Acked, or begun in the broker's last moment; never because of the poison.
        assert 1 <= executed.count(name) <= 1 + crashes, name


def hold(target, credit, started):
    import grpc
    from fault_rig import Worker
    worker = Worker(grpc.insecure_channel(target), "work", credit=int(credit), name="doomed")
    taken = worker.take(int(credit))
    if started == "started":
        worker.started(taken[-1])
        # Heard by the broker: it answers frames in their order.
        worker.ack(9999)
        worker.until(lambda: worker.refused == 1)
    for delivery in taken:
        print(id_of(delivery), flush=True)
    threading.Event().wait()


def crash(target, path):
    """One at a time; what is poison ends the process in the middle."""
    import grpc
    from fault_rig import Worker
    worker = Worker(grpc.insecure_channel(target), "work", credit=8, name="crash")
    while True:
        delivery = worker.take()[0]
        worker.started(delivery)
        with open(path, "a", encoding="utf-8") as out:
            out.write(id_of(delivery) + "\n")
        if id_of(delivery) == "poison":
            worker.ack(9999)
            worker.until(lambda: worker.refused > 0)  # the broker has heard that it began
            os._exit(1)
        worker.ack(delivery.handle)
        print(id_of(delivery), flush=True)


if __name__ == "__main__":
    {"hold": hold, "crash": crash}[sys.argv[1]](*sys.argv[2:])

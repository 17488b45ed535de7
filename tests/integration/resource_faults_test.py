"""Memory, descriptors and connections taken by hostile or many clients of a real `tocsin serve`."""

import resource
import struct
import threading
import time
import zlib

import grpc
import pytest

from fault_rig import (MEMORY, RESOURCE_EXHAUSTED, WAIT_MAX, event, eventually, fixture_make,
                       id_of, shall)
from http2_rig import (CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE,
                       RST_STREAM, SETTINGS, Connection, call_headers, frame, header)

MIB = 1 << 20
PUBLISH = b"/tocsin.v1.Publisher/Publish"
TOKENS = '  tokens: [{ token: "0123456789abcdef0123456789abcdef", scopes: [publish, admin] }]\n'


class Others:
    """Somebody who publishes all the while, and how long the slowest answer took."""

    def __init__(self, broker):
        self.names, self.slowest, self.refusals = [], 0.0, []
        self._broker, self._over = broker, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._over.wait(0.02):
            began = time.monotonic()
            name = "other%d" % len(self.names)
            while not self._over.is_set():
                try:
                    assert self._broker.accepted(event(name))
                    self.names.append(name)
                    break
                except grpc.RpcError as refusal:  # come again, as an SDK does
                    self.refusals.append("%s: %s" % (refusal.code(), refusal.details()))
                    self._over.wait(0.05)
            self.slowest = max(self.slowest, time.monotonic() - began)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *failure):
        self._over.set()
        self._thread.join()

    def served(self, within):
        count = len(self.names)
        eventually(lambda: len(self.names) > count + 2)
        assert self.slowest < within, "%.2f s, %s" % (self.slowest, self.refusals[:3])


def declared(length, content=b"abc"):
    return b"\0" + struct.pack(">I", length) + content


# --- F21 ---
def bomb(mib):
    """Gzip of so many MiB of zeros, a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(MIB)
    one = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    check = 0
    for _ in range(mib):
        check = zlib.crc32(zeros, check)
    return (b"\x1f\x8b\x08\0\0\0\0\0\0\3" + one * mib + packer.flush() +
            struct.pack("<II", check, mib << 20))


def test_F21_a_message_that_unpacks_to_a_gigabyte_is_refused_before_it_is_unpacked(make):
    broker = make(broker=TOKENS).start()
    packed = bomb(700)
    caller = Connection(broker.target)
    caller.call(1, PUBLISH, (b"grpc-encoding", b"gzip"))
    caller.data(1, b"\1" + struct.pack(">I", len(packed)) + packed)
    assert caller.until(lambda: caller.over(1), 30)
    assert broker.process.poll() is None
    shall(lambda: broker.mib() < 300 * MEMORY, within=0)


def test_F21_lengths_far_above_what_is_sent_cost_what_is_sent(make):
    broker = make().start()
    with Others(broker) as others:
        callers = [Connection(broker.target) for _ in range(5)]
        for caller in callers:
            for stream in range(1, 400, 2):
                caller.call(stream, PUBLISH)
                assert caller.data(stream, declared(8 * MIB)) == 8
        others.served(within=5)
        assert broker.mib() < 150 * MEMORY, "a thousand times 8 MiB were announced"
        # Not refused by its first bytes, but by what all connections may hold together.
        caller = Connection(broker.target)
        caller.call(1, PUBLISH)
        sent = caller.data(1, declared((1 << 31) - 1, bytes(600 * MIB)))
        assert caller.until(lambda: caller.over(1))
        assert sent < 400 * MIB, sent
        assert broker.mib() < 450 * MEMORY, broker.mib()
        others.served(within=15)
        print("refused meanwhile: %d %s" % (len(others.refusals), others.refusals[:2]))


def test_F21_a_slow_message_without_an_identity_is_ended_and_a_slow_handshake_too(make):
    broker = make(broker=TOKENS).start()
    idle = broker.descriptors()
    handshakes = [Connection(broker.target, said) for said in (b"", PREFACE[:9], PREFACE)]
    began = time.monotonic()
    # A stream of events is refused when it begins, whatever comes then.
    caller = Connection(broker.target)
    caller.call(1, PUBLISH + b"Stream")
    caller.data(1, declared(MIB, b"a"))
    assert caller.until(lambda: caller.over(1)), "refused before its message is there"
    assert b"T0203" in caller.of(HEADERS, 1)[0][3]
    assert time.monotonic() - began < 5
    for handshake in handshakes:
        assert handshake.until(lambda: handshake.ended, 20)
    assert time.monotonic() - began < 15
    eventually(lambda: broker.descriptors() <= idle + 3)
    assert broker.mib() < 100 * MEMORY


# --- F22 ---
def test_F22_thousands_of_connections_cost_little_each_and_others_are_served(make):
    count = min(3000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 200)
    broker = make().start()
    before = broker.mib("VmRSS")
    with Others(broker) as others:
        connections = [Connection(broker.target) for _ in range(count)]
        eventually(lambda: broker.descriptors() > count)
        assert all(one.until(lambda one=one: one.of(SETTINGS)) for one in connections)
        others.served(within=10)
        each = (broker.mib("VmRSS") - before) * 1024 / count
        print("KiB per connection: %.1f" % each)
        assert each < 60 * MEMORY, each
        for one in connections:
            one.close()
        eventually(lambda: broker.descriptors() < 100)
        others.served(within=10)


def resets(caller):
    beginning = call_headers(PUBLISH + b"Stream")
    for first in range(0, 20_000, 200):
        assert caller.send(b"".join(
            frame(HEADERS, END_HEADERS, 2 * i + 1, beginning) +
            frame(RST_STREAM, 0, 2 * i + 1, b"\0\0\0\x08") for i in range(first, first + 200)))


def reset_publishes(caller):
    """Each with an event, so that the work has begun when it is reset."""
    beginning = call_headers(PUBLISH)
    for i in range(5_000):
        assert caller.send(
            frame(HEADERS, END_HEADERS, 2 * i + 1, beginning) +
            frame(DATA, END_STREAM, 2 * i + 1, declared(5, b"\x12\3abc")) +
            frame(RST_STREAM, 0, 2 * i + 1, b"\0\0\0\x08"))


def settings(caller):
    for _ in range(1_000):
        assert caller.send(frame(SETTINGS, 0, 0) * 100)


def pings(caller):
    sent = 0
    while caller.send(frame(PING, 0, 0, b"12345678") * 100):
        sent += 100
        assert sent < 2_000_000, "it is not ended"
    # The reason is lost if the connection is reset while there is more to read.
    assert caller.calmed() in ([b"too_many_pings"], []), caller.of(GOAWAY)


def continuations(caller):
    """Headers without an end; ended sooner or later, or read and forgotten."""
    caller.send(frame(HEADERS, 0, 1, call_headers(PUBLISH)))
    part = b"".join(header(b"x-%05d" % i, b"v" * 100) for i in range(140))
    sent = 0
    while sent < 64 * MIB and caller.send(frame(CONTINUATION, 0, 1, part)):
        sent += len(part)


@pytest.mark.parametrize("flood", [resets, reset_publishes, settings, pings, continuations])
def test_F22_floods_end_or_pass_and_others_are_served_meanwhile(make, flood):
    broker = make().start()
    used = broker.cpu_seconds()
    with Others(broker) as others:
        caller = Connection(broker.target)
        began = time.monotonic()
        flood(caller)
        took = time.monotonic() - began
        others.served(within=10)
        caller.close()
        print("%s: %.1f s, %.1f s of processor time, %.0f MiB, slowest other %.0f ms" % (
            flood.__name__, took, broker.cpu_seconds() - used, broker.mib(),
            others.slowest * 1000))
        assert broker.mib() < 600 * MEMORY, broker.mib()
        eventually(lambda: broker.descriptors() < 30)
    assert broker.stores(*others.names)


# --- F23 ---
def fill(broker, data, key=""):
    """Publishes until refused for want of room; the names of what was taken."""
    names = []
    while True:
        batch = ["e%d" % (len(names) + i) for i in range(4)]
        answer = broker.publish(*[event(one, key=key, data=data) for one in batch])
        refused = {one.index for one in answer.exceptions}
        names += [one for i, one in enumerate(batch) if i not in refused]
        if refused:
            for one in answer.exceptions:
                assert one.code == RESOURCE_EXHAUSTED and one.retry_after_ms > 0
            return names
        assert len(names) < 2000


def drain(broker, count):
    worker = broker.worker(credit=50)
    seen = []
    while len(seen) < count:
        delivery = worker.take()[0]
        seen.append(id_of(delivery))
        worker.ack(delivery.handle)
    eventually(lambda: broker.books().acked == count and broker.books().pending == 0)
    return seen


def test_F23_at_retention_size_publishes_are_refused_in_flat_memory_and_it_drains(make):
    broker = make(broker="  retention: { size: 130MiB }\n").start()
    data = "x" * 250_000
    names = fill(broker, data)
    assert len(names) > 400
    eventually(lambda: "T0314" in broker.log())
    assert any("retention.size" in one for one in broker.status().warnings)
    before = broker.mib("VmRSS")
    for i in range(0, 1200, 4):
        answer = broker.publish(*[event("r%d" % (i + j), data=data) for j in range(4)])
        assert answer.accepted == 0 and len(answer.exceptions) == 4
    assert broker.mib("VmRSS") < before + 20 * MEMORY, (before, broker.mib("VmRSS"))
    assert broker.mib() < 150 * MEMORY
    assert broker.metric("tocsin_journal_bytes") < 140 * MIB
    told = broker.run("publish", "--type", "t", "--source", "/s", "--wait", "300ms")
    assert told.returncode == 1 and b"no room" in told.stderr and b"not stored" in told.stderr, told
    assert sorted(drain(broker, len(names))) == sorted(names)
    broker.kill()
    broker.start()
    assert broker.books().acked == len(names), "what is settled is settled"


@pytest.mark.parametrize("size, partitions", [("32MiB", 1), ("32MiB", 4), ("100MiB", 1)])
def test_F23_a_full_log_takes_events_soon_after_it_was_drained(make, size, partitions):
    broker = make(broker="  retention: { size: %s }\n" % size, partitions=partitions).start()
    names = fill(broker, "x" * 250_000, key="only")  # so that the others have nothing to do
    assert sorted(drain(broker, len(names))) == sorted(names)
    shall(lambda: broker.accepted(event("later")), within=5)


# --- F24 ---
def test_F24_without_memory_the_process_ends_and_nothing_answered_is_lost(make):
    broker = make().start()
    answered = []

    def publish(publisher):
        for i in range(5_000):
            name = "p%d-%d" % (publisher, i)
            try:
                if broker.accepted(event(name, data="x" * 20_000)):
                    answered.append(name)
            except grpc.RpcError as ended:
                assert ended.code() == grpc.StatusCode.UNAVAILABLE, ended
                return
        raise AssertionError("it did not end")

    publishers = [threading.Thread(target=publish, args=(i,)) for i in range(3)]
    for one in publishers:
        one.start()
    eventually(lambda: len(answered) > 100)
    # As a limit that was reached: nothing more comes from the system.
    limit = int(broker.mib("VmSize")) * MIB
    resource.prlimit(broker.process.pid, resource.RLIMIT_AS, (limit, limit))
    callers = []
    while broker.process.poll() is None:  # what all connections may hold, in many pieces
        assert len(callers) < 20
        callers.append(Connection(broker.target))
        callers[-1].call(1, PUBLISH)
        callers[-1].data(1, declared(1 << 30, bytes(100 * MIB)), within=1)
    assert broker.process.wait(WAIT_MAX) != 0
    for one in publishers:
        one.join()
    broker.start()
    found = broker.tail()
    assert len(found) == len(set(found)) and not set(answered) - set(found)
    for i in range(3):
        own = [one for one in found if one.startswith("p%d-" % i)]
        assert own == ["p%d-%d" % (i, j) for j in range(len(own))]
    assert "quarantine" not in broker.log() or "cut off" in broker.log(), broker.log()
    assert broker.accepted(event("later"))


# --- F25 ---
def exhaust_descriptors(broker):
    """It takes no connection any more; those that are there or wait to be let in."""
    limit = broker.descriptors() * 4 // 3 + 8  # it keeps a quarter for itself
    resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE, (limit, 4096))
    connections = [Connection(broker.target) for _ in range(40)]
    eventually(lambda: "T0209" in broker.log())
    return connections


@pytest.mark.skipif(MEMORY > 1, reason="the checks of UBSan open a pipe to look at memory")
def test_F25_without_descriptors_for_a_segment_events_are_refused_until_there_are_some(make):
    broker = make().start()
    assert broker.accepted(event("a"))
    with Others(broker) as others:
        others.served(within=5)
        resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE,
                         (broker.descriptors(), 4096))
        connections = [Connection(broker.target) for _ in range(30)]
        used, began = broker.cpu_seconds(), time.monotonic()
        eventually(lambda: time.monotonic() - began > 1)
        others.served(within=5)
    spent = broker.cpu_seconds() - used
    assert spent < 0.5 * MEMORY * (time.monotonic() - began), "it spins: %.2f s" % spent
    names = fill(broker, "x" * 900_000)
    assert 100 < len(names) < 250, "the segments that were there are used"
    assert "Too many open files" in broker.log()
    assert broker.process.poll() is None
    for one in connections:
        one.close()
    resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE, (1024, 4096))
    eventually(lambda: broker.accepted(event("later")))

    def complete():
        # What was refused may come later; what was answered is there once and in its order.
        found, answered = broker.tail(), ["a", *others.names, *names, "later"]
        return len(found) == len(set(found)) and [one for one in found
                                                  if one in answered] == answered

    eventually(complete)
    broker.kill()
    broker.start()
    assert complete()


def test_F25_connections_do_not_use_up_what_the_journal_needs(make):
    broker = make().start()
    assert broker.accepted(event("a"))
    connections = exhaust_descriptors(broker)
    for i in range(150):  # several segments
        assert broker.accepted(event("e%d" % i, data="x" * 900_000))
    assert "T0301" not in broker.log()
    for one in connections:
        one.close()


def test_F25_after_descriptors_ran_out_new_grpc_connections_are_taken_again(make):
    broker = make().start()
    assert broker.accepted(event("a"))
    idle = broker.descriptors()
    connections = exhaust_descriptors(broker)
    for one in connections:
        one.close()
    eventually(lambda: broker.descriptors() <= idle + 3)
    assert broker.accepted(event("b")), "who was there is served"
    late = Connection(broker.target)
    shall(lambda: late.until(lambda: late.of(SETTINGS), within=5), within=0)


def test_F25_after_descriptors_ran_out_new_http_connections_are_taken_again(make):
    broker = make().start()
    connections = exhaust_descriptors(broker)
    http = [Connection(broker.http, preface=b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in range(5)]
    for one in connections:
        one.close()
    assert all(one.until(lambda one=one: one.raw().startswith(b"HTTP/1.1 200"), 10)
               for one in http)
    assert broker.metric("tocsin_journal_failed") == 0


# --- F28 ---
def test_F28_a_clients_keepalive_at_the_permitted_rate_is_not_told_to_calm_down(make):
    broker = make(shim=False).start()
    every, count = 0.6, 14  # half a second is the least; ten strikes are forgiven
    client = grpc.insecure_channel(broker.target, options=[
        ("grpc.use_local_subchannel_pool", 1), ("grpc.keepalive_time_ms", 600),
        ("grpc.keepalive_timeout_ms", 5000), ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0), ("grpc.http2.min_time_between_pings_ms", 600)])
    states = []
    client.subscribe(states.append, try_to_connect=True)
    eventually(lambda: grpc.ChannelConnectivity.READY in states)
    idle, calling = Connection(broker.target), Connection(broker.target)
    calling.call(1, b"/tocsin.v1.Publisher/PublishStream")
    hasty = Connection(broker.target)
    for i in range(count):
        answered = i + 1
        for one in (idle, calling):
            assert one.send(frame(PING, 0, 0, b"%08d" % i))
            assert one.until(lambda one=one: len(one.of(PING)) >= answered), one.frames
            assert not one.calmed()
        for _ in range(2 if not hasty.ended else 0):  # too fast: shows that strikes are counted
            hasty.send(frame(PING, 0, 0, b"hasty123"))
        pause = time.monotonic() + every
        idle.until(lambda: time.monotonic() > pause or idle.calmed(), every)
    assert not idle.calmed() and not calling.calmed()
    assert hasty.until(hasty.calmed) == [b"too_many_pings"]
    assert states[-1] == grpc.ChannelConnectivity.READY
    assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states
    client.close()

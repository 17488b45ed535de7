"""Slow, half-done and forbidden writes, and kills between them, against a real `tocsin serve`."""

import os
import resource
import threading
import time

import grpc
import pytest

from fault_rig import (RESOURCE_EXHAUSTED, WAIT_MAX, CloudEvent, event, eventually, fixture_make,
                       id_of, one_trigger, request)

MIB = 1 << 20
# A sanitized broker takes more; the bounds are those of the real one.
MEMORY = 8 if os.environ.get("TOCSIN_SANITIZE") else 1
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


# --- F6 ---
def test_F6_short_interrupted_and_put_off_writes_are_continued_and_nothing_is_there_twice(make):
    broker = make(rest=one_trigger("    retry: { attempts: 1 }\n"))
    broker.faults("disturb write /data/")  # the first segments and the manifest too
    broker.start()
    sizes = [1, 9_000, 200, 70_000, 12_345, 8_192, 300_000, 511]
    sent = {"e%d" % i: "%d-" % i * (sizes[i % len(sizes)] // 4 + 1) for i in range(160)}
    names = list(sent)
    stream = broker.stream()
    # Several in one group, with bodies that are copied and bodies that are pieces of their own.
    for i in range(0, len(names), 4):
        stream.send(request([event(one, data=sent[one]) for one in names[i:i + 4]], sequence=i + 1))
    for i in range(0, len(names), 4):
        answer = stream.read()
        assert (answer.sequence, answer.accepted, len(answer.exceptions)) == (i + 1, 4, 0)
    worker = broker.worker(credit=200)
    for i, delivery in enumerate(worker.take(len(names))):
        if i % 2:
            worker.answer(delivery, "reject", reason="no good")
        else:
            worker.ack(delivery.handle)
    eventually(lambda: broker.books().acked == 80 and len(broker.letters()) == 80)
    eventually(lambda: broker.metric("tocsin_partition_in_flight_bytes") == 0)
    disturbed = os.path.getsize(broker.faults_path + ".disturbed")
    assert disturbed > 50, disturbed
    broker.kill()
    broker.start()
    found = [CloudEvent.FromString(one.event) for one in broker.stored()]
    assert [(one.id, one.text_data) for one in found] == list(sent.items())
    assert sorted(one.event_id for one in broker.letters()) == sorted(names[1::2])
    assert (broker.books().acked, broker.books().dead, broker.books().pending) == (80, 80, 0)
    assert "cut off" not in broker.log()
    assert broker.metric("tocsin_journal_damaged_ranges") == 0
    assert broker.metric("tocsin_journal_quarantine_bytes") == 0
    broker.stop()  # with a checkpoint that is written so
    assert os.path.getsize(broker.faults_path + ".disturbed") > disturbed
    broker.start()
    assert "T0312" not in broker.log()
    assert broker.accepted(event("last"))
    assert broker.stores(*names, "last")


# --- F14 ---
def test_F14_while_a_sync_hangs_publishers_are_pushed_back_and_work_in_memory_goes_on(make):
    broker = make(rest=one_trigger("    timeout: 60s\n"),
                  broker="  ingest_bytes_max: 4MiB\n  heartbeat: 100ms\n  gone: 2s\n").start()
    names = ["%s%d" % (key, i) for i in range(25) for key in "abcdefgh"]
    assert broker.accepted(*[event(name, key=name[0]) for name in names])
    worker = broker.worker(credit=50)
    began = time.monotonic()
    broker.faults("hold sync /log/")
    waiting = broker.stream()
    waiting.send(request([event("waits")], sequence=1))
    data, refused = "x" * (MIB - 1000), 0
    streams = [broker.stream() for _ in range(2)]
    for one in streams:  # what is read of these waits for its turn to be answered
        for i in range(30):
            one.send(request([event("s%d" % (3 * i + j), data=data) for j in range(3)]))
    # What it may hold, four such events, is soon held: a stream one of which was refused sends no
    # more to that partition, so others offer theirs until it is.
    def full():
        if broker.metric("tocsin_partition_in_flight_bytes") > 3.9 * MIB:
            return True
        streams.append(broker.stream())
        streams[-1].send(request([event("f%d" % len(streams), data=data)]))
        worker.heartbeat()
        return False

    eventually(full)
    # A hundred times as much is offered.
    while refused < 400:
        answer = broker.publish(*[event("u%d" % (refused + i), data=data) for i in range(4)])
        for one in answer.exceptions:
            assert one.code == RESOURCE_EXHAUSTED and one.error and one.retry_after_ms > 0
        assert answer.accepted == 0
        refused += len(answer.exceptions)
        worker.heartbeat()
    held = broker.metric("tocsin_partition_in_flight_bytes")
    assert 0 < held <= 5 * MIB, held
    # The worker is heard, its answers settle, and what is in memory comes in its order.
    order = {key: [] for key in "abcdefgh"}
    for _ in names:
        delivery = worker.take()[0]
        order[id_of(delivery)[0]].append(id_of(delivery))
        worker.heartbeat()
        worker.ack(delivery.handle)
    for key, seen in order.items():
        assert seen == ["%s%d" % (key, i) for i in range(25)]
    assert "waits" not in broker.tail(), "not before it is synced"
    while time.monotonic() - began < 2.5:  # longer than a silent worker is kept
        worker.heartbeat()
        assert broker.status().workers == 1
        threading.Event().wait(0.1)
    assert broker.mib() < 200 * MEMORY, broker.mib()
    broker.faults()
    assert waiting.read().accepted == 1
    eventually(lambda: broker.books().acked == len(names))
    stalled = broker.metric("tocsin_publish_duration_seconds_sum")
    assert stalled >= 2, "a publish took as long as its sync: %.3f" % stalled
    assert id_of(worker.take()[0]) == "waits"


def test_F14_with_slow_syncs_publishers_wait_or_come_again_and_nothing_is_lost(make):
    broker = make(broker="  ingest_bytes_max: 4MiB\n").start()
    broker.faults("slow sync 500 /log/")
    before = broker.metric("tocsin_journal_syncs_total")
    began = time.monotonic()
    told = []

    def publish(publisher):
        for i in range(5):
            name = "p%d-%d" % (publisher, i)
            while True:
                answer = broker.publish(event(name, key=str(publisher), data="x" * 400_000))
                if answer.accepted:
                    break
                told.append(answer.exceptions[0].retry_after_ms)
                threading.Event().wait(min(told[-1], 200) / 1000)

    publishers = [threading.Thread(target=publish, args=(i,)) for i in range(12)]
    for one in publishers:
        one.start()
    for one in publishers:
        one.join(60)
    took = time.monotonic() - began
    syncs = broker.metric("tocsin_journal_syncs_total") - before
    assert told and all(told), "some were refused, with a hint when to come back"
    assert took > 2 and syncs <= 2 * took + 2, (took, syncs)
    assert broker.mib() < 150 * MEMORY, broker.mib()
    broker.faults()
    broker.kill()
    broker.start()
    names = broker.tail()
    assert len(names) == len(set(names)) == 60
    for publisher in range(12):
        own = [one for one in names if one.startswith("p%d-" % publisher)]
        assert own == ["p%d-%d" % (publisher, i) for i in range(5)]


# --- F15 ---
FORBIDDEN = ["write", "allocate", "create"]
# Whoever comes between the failure and the end is told that there is no room.
REFUSALS = (UNAVAILABLE.value[0], RESOURCE_EXHAUSTED)


@pytest.mark.parametrize("error", ["EROFS", "EACCES"])
def test_F15_when_writes_are_forbidden_the_process_ends_and_serves_all_answered_later(make, error):
    words = {"EROFS": "Read-only file system", "EACCES": "Permission denied"}[error]
    broker = make().start()
    assert broker.accepted(event("a"), event("b"))
    worker = broker.worker()
    held = worker.take(2)
    worker.ack(held[0].handle)
    eventually(lambda: broker.books().acked == 1)
    streams = [broker.stream() for _ in range(20)]
    for i, one in enumerate(streams):
        one.send(request([event("before%d" % i)], sequence=1))
        assert one.read().accepted == 1
    broker.faults(*["fail %s %s /" % (call, error) for call in FORBIDDEN])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    for i, one in enumerate(streams):
        one.send(request([event("after%d" % i)], sequence=2))
    for one in streams:
        try:
            answer = one.read()
        except (grpc.RpcError, StopIteration):  # the process ended first
            assert one.end() == UNAVAILABLE
            continue
        assert answer.accepted == 0
        assert answer.exceptions[0].code in REFUSALS
    assert broker.process.wait(WAIT_MAX) == 1
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    assert spent < 3 * MEMORY, "in its whole life: %.2f s" % spent
    assert "T0201" in broker.log() and words in broker.log(), broker.log()
    assert broker.log().count("T0201") == 1
    assert words in broker.refused(), "nor does it start so"
    broker.faults()
    broker.start()
    answered = ["a", "b"] + ["before%d" % i for i in range(20)]
    assert broker.tail()[:22] == answered
    assert not set(broker.tail()[22:]) - {"after%d" % i for i in range(20)}
    assert broker.accepted(event("after0"))


def test_F15_when_no_file_can_be_made_it_serves_what_there_is_room_for_and_then_ends(make):
    broker = make().start()
    assert broker.accepted(event("a"))
    # As after the directory's permissions were lost: what is open can be written.
    broker.faults("fail create EACCES /")
    large, accepted = "x" * (MIB - 1000), 0
    while True:
        try:
            answer = broker.publish(event("e%d" % accepted, data=large))
        except grpc.RpcError as ended:
            assert ended.code() == UNAVAILABLE
            break
        if answer.accepted == 0:
            assert answer.exceptions[0].code in REFUSALS
            break
        accepted += 1
        assert accepted < 300
    assert accepted > 60, "the segments that are there were used"
    assert broker.process.wait(WAIT_MAX) == 1
    assert "Permission denied" in broker.log(), broker.log()
    assert len(broker.log().splitlines()) < 50, broker.log()
    broker.faults()
    broker.start()
    names = ["a"] + ["e%d" % i for i in range(accepted)]
    assert broker.tail()[:len(names)] == names
    assert broker.accepted(event("later"))

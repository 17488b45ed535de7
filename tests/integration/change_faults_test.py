"""Kills between letters and acks, a full dead log, and reloads under load, at `tocsin serve`."""

import collections
import contextlib
import queue
import random
import threading
import time
import uuid

import pytest

from fault_rig import (CloudEvent, WorkerFrame, event, eventually, fixture_make, id_of,
                       message, shall)

MIB = 1 << 20


# --- F17 ---
FATES = ["acked", "emits", "rejected", "exhausted"]
RULES = """functions: { work: {} }
triggers:
  all:
    function: work
    filters: [{ exact: { type: test.event } }]
    retry: { attempts: 2, backoff: 1ms, jitter: none }
"""


def settle(worker, deliveries):
    """Answers all in one frame, each by its fate."""
    frame = WorkerFrame()
    for delivery in deliveries:
        name = id_of(delivery)
        other = frame.answers.others.add()
        other.handle = delivery.handle
        fate = FATES[int(name) % 4]
        if fate == "rejected":
            other.reject.reason = "no good"
        elif fate == "exhausted":
            other.retry.message = "fails"
        else:
            other.ack.SetInParent()
        for i in range(2 if fate == "emits" else 0):
            # A new id each time it runs: no dedupe hides a second copy.
            other.emitted.append(event("out-%s-%d-%s" % (name, i, uuid.uuid4()), kind="test.out"))
    worker.send(frame)


def test_F17_kills_between_letter_and_ack_leave_one_ending_and_one_copy_of_what_was_emitted(make):
    broker = make(rest=RULES, partitions=2)
    chance = random.Random(17)
    kills, between, total = 10, 0, 320
    broker.start()
    for life in range(kills):
        names = [str(i) for i in range(life * total // kills, (life + 1) * total // kills)]
        assert broker.accepted(*[event(one) for one in names])
        worker = broker.worker(credit=30)
        letters = broker.metric("tocsin_dead_letter_bytes")
        taken = worker.take(30 if life % 2 == 0 else chance.randint(8, 20))
        if life % 2 == 0:
            # Letters are synced first: none of the settlements beside them is written.
            broker.faults("hold write /log/")
            settle(worker, [one for one in taken if FATES[int(id_of(one)) % 4] == "rejected"])
            eventually(lambda: broker.metric("tocsin_dead_letter_bytes") > letters)
            between += 1
        else:
            for delivery in taken:
                settle(worker, [delivery])
        broker.kill()
        broker.faults()
        broker.start()
    assert between == 5
    worker = broker.worker(credit=30)

    def over():
        with contextlib.suppress(queue.Empty):
            worker.next_frame(0.05)
        settle(worker, worker.take(len(worker.deliveries)))
        return broker.books().pending == 0

    eventually(over)
    books = broker.books()
    assert (books.matched, books.acked, books.dead, books.pending) == (
        total, total // 2, total // 2, 0)
    letters = eventually(lambda: [broker.letters()] * (len(broker.letters()) == total // 2))[0]
    assert len({one.id for one in letters}) == len(letters)
    dead = {one.event_id: one.reason for one in letters}
    assert dead == {str(i): FATES[i % 4] for i in range(total) if i % 4 >= 2}
    assert all(one.attempts == 2 for one in letters if one.reason == "exhausted")
    stored = eventually(lambda: [broker.tail()] * (len(broker.tail()) == total * 3 // 2))[0]
    assert sorted(one for one in stored if one[0] != "o") == sorted(map(str, range(total)))
    emitted = collections.Counter("-".join(one.split("-")[:3]) for one in stored if one[0] == "o")
    assert emitted == {"out-%d-%d" % (i, j): 1
                       for i in range(total) if i % 4 == 1 for j in range(2)}
    broker.kill()
    broker.start()
    assert {one.id for one in broker.letters()} == {one.id for one in letters}


# --- F32 ---
def discard(broker, letters):
    request = message("CloseLettersRequest")()
    request.action = 2
    request.filter.ids.extend(one.id for one in letters)
    done = broker.list("Admin/CloseLetters", request, "CloseLettersProgress")
    assert not [one.error for one in done if one.error]


def reject_until_full(broker, events, worker, one_key):
    """One after the other, for the quota is that of what is written."""
    while events > 0 and not (one_key and "T0308" in broker.log()):
        written = broker.metric("tocsin_dead_letter_bytes")
        worker.answer(worker.take()[0], "reject", reason="no good")
        eventually(lambda: broker.metric("tocsin_dead_letter_bytes") > written or
                   "T0308" in broker.log())
        events -= 1
    assert "T0308" in broker.log()
    assert broker.metric("tocsin_dead_letters_full") >= 1  # of each partition


def fill_dead_log(broker, count, key=""):
    sent = ["e%d" % i for i in range(count)]
    for name in sent:
        assert broker.accepted(event(name, key=key, data="x" * (MIB - 2000)))
    reject_until_full(broker, count, broker.worker(credit=count), key != "")
    letters = broker.letters()
    assert count - 10 <= len(letters) < count
    return sent, letters


def by_age(letters):
    return sorted(letters, key=lambda one: one.died_us)


def test_F32_at_the_dead_logs_quota_deliveries_wait_slowly_and_go_on_when_letters_are_closed(make):
    broker = make(broker="  dead_letters: { size: 20MiB }\n")
    broker.start()
    names, letters = fill_dead_log(broker, 26)
    books = broker.books()
    assert (books.dead, books.pending) == (len(letters), 26 - len(letters))
    # They wait: no delivery of them is made, nothing is written, and it takes no time.
    used, began = broker.cpu_seconds(), time.monotonic()
    deliveries = broker.metric("tocsin_deliveries_total")
    bytes_before = broker.metric("tocsin_journal_bytes")
    eventually(lambda: time.monotonic() - began > 1.5)
    assert broker.metric("tocsin_deliveries_total") == deliveries
    assert broker.metric("tocsin_journal_bytes") == bytes_before
    assert broker.cpu_seconds() - used < 1
    assert broker.log().count("T0308") == 1
    assert broker.accepted(event("passes", kind="other")), "others go on"
    # A kill loses none of either kind.
    broker.kill()
    broker.start()
    assert {one.id for one in broker.letters()} == {one.id for one in letters}
    worker = broker.worker(credit=50)
    for delivery in worker.take(27 - len(letters)):
        if id_of(delivery) == "passes":
            worker.ack(delivery.handle)
        else:
            worker.answer(delivery, "reject", reason="no good")
    eventually(lambda: "T0308" in broker.log())
    eventually(lambda: broker.books().pending == 26 - len(letters))
    # Room: the first segment of the dead log has nothing left that is open.
    oldest = by_age(letters)[:-2]
    discard(broker, oldest)
    eventually(lambda: broker.books().pending == 0)
    assert broker.metric("tocsin_dead_letters_full") == 0
    left = eventually(
        lambda: [broker.letters()] * (len(broker.letters()) == 26 - len(oldest)))[0]
    assert {one.event_id for one in left} == set(names) - {one.event_id for one in oldest}


SMALL = [
    # quota, events, partitions, letters that are left
    pytest.param("20MiB", 26, 1, 0, id="all"),
    pytest.param("20MiB", 26, 2, 2, id="a-partition-without-letters"),
    pytest.param("16MiB", 22, 1, 1, id="smallest"),
]


@pytest.mark.parametrize("size, count, partitions, left", SMALL)
def test_F32_closed_letters_make_room(make, size, count, partitions, left):
    broker = make(broker="  dead_letters: { size: %s }\n" % size, partitions=partitions).start()
    _, letters = fill_dead_log(broker, count, key="k" if partitions > 1 else "")
    discard(broker, by_age(letters)[:len(letters) - left])
    shall(lambda: broker.metric("tocsin_dead_letters_full") == 0, within=5)


# --- F34 ---
KEYS = "abcdef"
FILTERS = {"A": "{ prefix: { type: x } }", "B": "{ not: { prefix: { type: x } } }"}


def plan(version, extra):
    text = "functions: { work: {}, other: {} }\ntriggers:\n  base: { function: work }\n"
    text += "  edited: { function: other, filters: [%s] }\n" % FILTERS[version]
    return text + ("  extra: { function: other }\n" if extra else "")


class Pool:
    """Workers that come and go, and what they were given, in order."""

    def __init__(self, broker, function):
        self._broker, self._function = broker, function
        self._over, self._lock = threading.Event(), threading.Lock()
        self.seen = collections.defaultdict(list)  # by trigger and key
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(2)]
        for one in self._threads:
            one.start()

    def _run(self, number):
        chance = random.Random(number)
        while not self._over.is_set():
            worker = self._broker.worker(self._function, credit=chance.randint(1, 20))
            names = {}
            for _ in range(chance.randint(20, 200)):
                if not worker.deliveries:
                    try:
                        frame = worker.next_frame(0.3)
                    except queue.Empty:
                        break
                    assert frame is not None, "the stream ended"
                    for one in frame.deliveries.triggers:
                        names[one.trigger] = one.name
                    continue
                delivery = worker.take()[0]
                with self._lock:
                    self.seen[names[delivery.trigger], id_of(delivery)[0]].append(
                        int(id_of(delivery)[2:]))
                worker.ack(delivery.handle)
            worker.close()  # some of it was not answered, some answers are not heard

    def end(self):
        self._over.set()
        for one in self._threads:
            one.join()


def test_F34_reloads_at_full_load_give_each_event_one_version_lose_nothing_and_keep_order(make):
    broker = make(rest=plan("A", False)).start()
    pools = [Pool(broker, "work"), Pool(broker, "other")]
    over, answered, marks = threading.Event(), [], []
    counters = dict.fromkeys(KEYS, 0)

    def publish(keys):
        chance = random.Random(keys)
        while not over.is_set():
            made = []
            for key in keys:
                for _ in range(3):
                    made.append(("%s-%d" % (key, counters[key]), chance.choice("xy")))
                    counters[key] += 1
            assert broker.accepted(*[event(name, key=name[0], kind=kind) for name, kind in made])
            answered.extend(name for name, _ in made)

    publishers = [threading.Thread(target=publish, args=(one,)) for one in ("abc", "def")]
    for one in publishers:
        one.start()
    version, reloads = "A", 24
    try:
        for i in range(reloads):
            count = len(answered)
            eventually(lambda: len(answered) > count + 30)
            version = "BA"[i % 2]
            broker.set_config(plan(version, extra=i % 4 < 2))
            told = broker.call("Admin/Reload", b"", message("ReloadResponse"))
            assert not told.errors and told.changes, told
            # What is published after the answer is matched by what it brought.
            mark = "m-%d" % i
            assert broker.accepted(event(mark, key="m", kind="x"))
            marks.append((mark, version, i % 4 < 2))
    finally:
        over.set()
        for one in publishers:
            one.join()
    broker.set_config(plan(version, extra=True))
    assert not broker.call("Admin/Reload", b"", message("ReloadResponse")).errors
    names = ["base", "edited", "extra"]
    eventually(lambda: all(broker.books(one).pending == 0 for one in names), within=40)
    for pool in pools:
        pool.end()
    stored = [(id_of(one), CloudEvent.FromString(one.event).type, set(one.triggers))
              for one in broker.stored()]
    assert sorted(one[0] for one in stored) == sorted(answered + [one[0] for one in marks])
    # Which version looked at an event shows in what it did with this kind of it.
    versions = ["A" if (kind == "x") == ("edited" in triggers) else "B"
                for _, kind, triggers in stored]
    turns = sum(a != b for a, b in zip(versions, versions[1:]))
    assert versions[0] == "A" and turns == reloads, (turns, "one after the other, never mixed")
    extra_turns = sum(("extra" in a[2]) != ("extra" in b[2]) for a, b in zip(stored, stored[1:]))
    assert extra_turns == reloads // 2, extra_turns
    by_name = {name: (versions[i], "extra" in stored[i][2])
               for i, (name, _, _) in enumerate(stored)}
    for mark, expected, extra in marks:
        assert by_name[mark] == (expected, extra), mark
    # Each is settled for what it matched, and came in its key's order.
    seen = {**pools[0].seen, **pools[1].seen}
    for trigger in names:
        matched = [name for name, _, triggers in stored if trigger in triggers]
        books = broker.books(trigger)
        assert (books.matched, books.acked) == (len(matched), len(matched)), trigger
        for key in KEYS:
            expected = [int(one[2:]) for one in matched if one[0] == key]
            given = seen[trigger, key]
            assert given == sorted(given), (trigger, key)
            assert sorted(set(given)) == expected, (trigger, key)


def test_F34_restarts_with_an_edited_file_apply_it_as_a_reload_does(make):
    broker = make(rest=plan("A", False)).start()
    sent, matched, number = [], collections.defaultdict(list), 0
    for i in range(6):
        version, extra = "AB"[i % 2], i % 3 == 1
        made = []
        for _ in range(60):
            key, kind = KEYS[number % len(KEYS)], "xy"[number % 7 % 2]
            made.append(("%s-%d" % (key, number), kind))
            number += 1
        assert broker.accepted(*[event(name, key=name[0], kind=kind) for name, kind in made])
        for name, kind in made:
            sent.append(name)
            matched["base"].append(name)
            if (kind == "x") == (version == "A"):
                matched["edited"].append(name)
            if extra:
                matched["extra"].append(name)
        # Some of it is under way when the broker goes, in good order or not.
        pools = [Pool(broker, "work"), Pool(broker, "other")] if i == 5 else []
        if i < 5:
            broker.set_config(plan("AB"[(i + 1) % 2], (i + 1) % 3 == 1))
            (broker.stop if i % 2 else broker.kill)()
            broker.start()
    broker.set_config(plan("B", True))
    assert not broker.call("Admin/Reload", b"", message("ReloadResponse")).errors
    names = ["base", "edited", "extra"]
    eventually(lambda: all(broker.books(one).pending == 0 for one in names), within=40)
    for pool in pools:
        pool.end()
    stored = broker.stored()
    assert sorted(id_of(one) for one in stored) == sorted(sent)
    for trigger in names:
        assert broker.books(trigger).acked == len(matched[trigger]), trigger
        given = pools[trigger != "base"].seen
        for key in KEYS:
            expected = [int(one[2:]) for one in matched[trigger] if one[0] == key]
            runs = given[trigger, key]
            assert runs == sorted(runs), (trigger, key)
            assert sorted(set(runs)) == expected, (trigger, key)

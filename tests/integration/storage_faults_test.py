"""Faults of the disk and the data directory, as a user of `tocsin serve` sees them."""

import json
import os
import re
import subprocess

import grpc
import pytest

from fault_rig import (RESOURCE_EXHAUSTED, TOCSIN, WAIT_MAX, event, eventually, fixture_make,
                       flip_bit, id_of, one_trigger)

MIB = 1 << 20
# A sanitized broker takes more; the bounds are those of the real one.
MEMORY = 8 if os.environ.get("TOCSIN_SANITIZE") else 1


def exhausted(answer):
    """Every event was refused for want of room, with a hint when to come back."""
    return (answer.accepted == 0 and len(answer.exceptions) > 0 and
            all(one.code == RESOURCE_EXHAUSTED and one.error and one.retry_after_ms > 0
                for one in answer.exceptions))


def test_F5_a_nearly_full_disk_refuses_events_and_keeps_the_rest_for_answers(make):
    broker = make(rest=one_trigger("    retry: { attempts: 1 }\n")).start()
    assert broker.accepted(event("a"), event("b"))
    broker.faults("free %d" % (100 * MIB))
    eventually(lambda: "T0314" in broker.log())  # it looks once a second
    assert broker.metric("tocsin_journal_reserve_only") == 1
    assert exhausted(broker.publish(event("c")))
    assert any("nearly full" in warning for warning in broker.status().warnings)
    worker = broker.worker()
    first, second = worker.take(2)
    worker.ack(first.handle)
    worker.answer(second, "reject", reason="no good")
    eventually(lambda: broker.books().acked == 1 and broker.books().dead == 1)
    # A letter is shown when it is durable.
    eventually(lambda: [one.reason for one in broker.letters()] == ["rejected"])
    assert broker.tail()[:2] == ["a", "b"]
    # Durable they are, not only remembered.
    broker.kill()
    broker.start()
    assert (broker.books().acked, broker.books().dead) == (1, 1)
    assert exhausted(broker.publish(event("c")))
    broker.faults()
    eventually(lambda: broker.accepted(event("c")))
    assert broker.metric("tocsin_journal_reserve_only") == 0
    assert broker.stores("a", "b", "c")


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
def test_F5_no_space_in_a_write_refuses_and_goes_on_by_itself(make, error):
    broker = make().start()
    assert broker.accepted(event("a"))
    worker = broker.worker()
    first = worker.take()[0]
    broker.faults("fail write %s /log/" % error)
    answer = broker.publish(event("b"))
    assert exhausted(answer), answer
    assert exhausted(broker.publish(event("c")))
    worker.ack(first.handle)
    assert broker.stores("a")
    assert "T0301" in broker.log()
    assert broker.metric("tocsin_journal_refused_appends_total") > 0
    broker.faults()
    eventually(lambda: broker.accepted(event("b")) and broker.accepted(event("c")))
    eventually(lambda: broker.books().acked == 1)
    eventually(lambda: sorted(broker.tail()) == ["a", "b", "c"])
    assert id_of(worker.take()[0]) == "b"
    broker.kill()
    broker.start()
    assert sorted(broker.tail()) == ["a", "b", "c"]


def test_F5_no_space_for_a_segment_refuses_and_goes_on_by_itself(make):
    broker = make()
    # Room for the first segment of each log; none for those that are made ahead.
    broker.faults("fail allocate ENOSPC / 2")
    broker.start()
    large = "x" * (MIB - 1000)
    accepted = 0
    while broker.accepted(event("e%d" % accepted, data=large)):
        accepted += 1
        assert accepted < 70
    assert 40 < accepted
    assert exhausted(broker.publish(event("e%d" % accepted, data=large)))
    assert "cannot preallocate" in broker.log()
    eventually(lambda: len(broker.tail()) == accepted)
    broker.faults()
    eventually(lambda: broker.accepted(event("e%d" % accepted, data=large)))
    eventually(lambda: len(broker.tail()) == accepted + 1)


@pytest.mark.parametrize("fault", ["fail create ENOSPC manifest", "fail write ENOSPC manifest",
                                   "fail allocate ENOSPC /log/", "fail write EDQUOT /log/"])
def test_F5_no_space_at_the_first_start_is_an_error_that_leaves_no_trace(make, fault):
    broker = make()
    broker.faults(fault)
    said = broker.refused()
    assert re.search("No space left|Disk quota exceeded", said), said
    assert ("manifest.json" in said) == ("manifest" in fault), said
    broker.faults()
    broker.start()
    assert broker.accepted(event("a"))


def test_F4_after_a_failed_sync_the_process_ends_and_a_restart_serves_the_prefix(make):
    broker = make().start()
    assert broker.accepted(event("a"))
    broker.faults("fail sync EIO /log/")
    try:
        answer = broker.publish(event("b"))
        assert answer.accepted == 0
        assert [one.code for one in answer.exceptions] == [grpc.StatusCode.UNAVAILABLE.value[0]]
    except grpc.RpcError as error:  # the process ended first
        assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert broker.process.wait(WAIT_MAX) == 1
    assert "T0201" in broker.log() and "cannot sync" in broker.log()
    broker.faults()
    broker.start()
    assert broker.tail()[0] == "a"
    assert broker.accepted(event("b"))


def test_durability_written_answers_before_the_sync_and_a_kill_loses_nothing(make):
    broker = make(broker="  durability: written\n").start()
    told = broker.run("publish", "--json", "-", "-o", "json", data=json.dumps(
        {"specversion": "1.0", "id": "a", "source": "/test", "type": "t"}).encode())
    assert json.loads(told.stdout)["durability"] == "written", told
    broker.faults("hold sync /log/")
    answer = broker.publish(event("b"))
    assert (answer.accepted, answer.durability) == (1, 1)
    assert broker.stores("a"), "shown before it was synced"
    broker.kill()
    broker.faults()
    broker.start()
    assert broker.stores("a", "b")


def test_durability_durable_answers_after_the_sync(make):
    broker = make().start()
    assert broker.publish(event("a")).durability == 2
    broker.faults("hold sync /log/")
    stream = broker.stream()
    stream.send(b"\x08\x01" + b"\x12" + bytes([len(event("b"))]) + event("b"))
    # Others are answered meanwhile, so what comes first says who waited.
    assert broker.stores("a")
    broker.faults()
    assert stream.read().accepted == 1
    assert broker.stores("a", "b")


def test_F7_a_flipped_bit_in_a_closed_segment_costs_one_batch_and_is_reported(make):
    broker = make(shim=False).start()
    count = 66  # of 1 MiB each: more than one segment
    for i in range(count):
        assert broker.accepted(event("e%d" % i, data="x" * (MIB - 1000)))
    broker.stop()
    segments = broker.files("log", ".seg")
    with open(segments[0], "rb") as file:
        place = file.read().index(b"e7\x12\x05/test")
    flip_bit(segments[0], place + 5000, 3)
    broker.start()
    worker = broker.worker(credit=1000)
    seen = sorted(int(id_of(one)[1:]) for one in worker.take(count - 1))
    assert seen == [i for i in range(count) if i != 7]
    eventually(lambda: len(broker.tail()) == count - 1)
    eventually(lambda: "T0311" in broker.log())
    said = next(line for line in broker.log().splitlines() if "T0311" in line)
    assert "1 events from 0/7 cannot be read" in said, said
    assert broker.metric("tocsin_journal_damaged_ranges") > 0
    assert len(broker.files("log", ".seg")) >= len(segments)
    assert broker.accepted(event("later"))


def test_F3_a_torn_tail_is_cut_kept_in_quarantine_and_told_once(make):
    broker = make().start()
    assert broker.accepted(event("whole"))
    assert broker.accepted(event("torn", data="y" * 20_000))
    broker.kill()
    path = broker.files("log", ".seg")[0]
    with open(path, "r+b") as file:
        content = file.read()
        place = content.index(b"torn\x12\x05/test")
        cut = (place + 4096) // 512 * 512  # sectors are whole or not written
        end = content.index(b"\0" * 4096, cut)
        file.seek(cut)
        file.write(b"\0" * (end - cut))
    broker.start()
    assert broker.stores("whole")
    told = [line for line in broker.log().splitlines() if "quarantine" in line]
    assert len(told) == 1 and "cut off" in told[0], broker.log()
    kept = broker.files("quarantine")
    assert len(kept) == 1
    with open(kept[0], "rb") as file:
        assert b"torn\x12\x05/test" in file.read()
    assert broker.metric("tocsin_journal_quarantine_bytes") > 3000
    # It was not answered, as far as the log knows: sent again it is taken.
    answer = broker.publish(event("torn"))
    assert answer.accepted == 1 and not answer.exceptions
    broker.kill()
    broker.start()
    assert "cut off" not in broker.log()
    assert broker.stores("whole", "torn")


def two_checkpoints(broker):
    for name in "ab":
        broker.start()
        assert broker.accepted(event(name))
        broker.stop()
    found = broker.files("checkpoint")
    assert len(found) == 2, found
    return found


def test_F9_the_older_checkpoint_is_used_loudly(make):
    broker = make()
    newest = two_checkpoints(broker)[1]
    flip_bit(newest, os.path.getsize(newest) // 2)
    broker.start()
    assert "T0312" in broker.log(), broker.log()
    assert broker.stores("a", "b")
    assert broker.books().pending == 2
    answer = broker.publish(event("b"))
    assert answer.exceptions[0].duplicate, "what the older checkpoint lacks comes from the log"


def test_F9_without_a_readable_checkpoint_or_manifest_it_refuses_and_changes_nothing(make):
    broker = make()
    checkpoints = two_checkpoints(broker)

    def refused(what, *words):
        before = broker.stamps()
        said = broker.refused()
        for word in words:
            assert word in said, (what, said)
        assert broker.stamps() == before, what

    for path in checkpoints:
        flip_bit(path, os.path.getsize(path) // 2)
    refused("both checkpoints", "partition 0", "restore checkpoint/", "Nothing was changed")
    for path in checkpoints:
        flip_bit(path, os.path.getsize(path) // 2)
    manifest = os.path.join(broker.data, "manifest.json")
    with open(manifest, "rb") as file:
        good = file.read()
    flip_bit(manifest, good.index(b"partitions\": ") + 13)
    refused("a manifest with a flipped bit", "manifest.json", "restore it", "Nothing was changed")
    os.remove(manifest)
    refused("no manifest", "manifest.json is missing", "restore it", "Nothing was changed")
    with open(manifest, "wb") as file:
        file.write(good)
    broker.start()
    assert broker.stores("a", "b")


def test_F12_a_second_process_on_the_data_directory_is_refused_and_told_who_holds_it(make):
    broker = make().start()
    said = broker.refused()
    assert "pid %d" % broker.process.pid in said and "stop it, or use another directory" in said
    assert os.path.join(broker.data, "lock") in said
    assert broker.accepted(event("a"))
    assert broker.metric("tocsin_journal_failed") == 0
    # A kill frees it at once.
    broker.kill()
    broker.start()
    assert broker.stores("a")


def test_F16_a_newer_data_directory_is_refused_naming_both_versions(make):
    broker = make().start()
    assert broker.accepted(event("a"))
    broker.stop()
    path = os.path.join(broker.data, "manifest.json")
    with open(path, encoding="utf-8") as file:
        good = file.read()
    ours = json.loads(good)["created_by"]
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"format": 2, "created_by": "9.8.7", "of_the_future": True}, file)
    before = broker.stamps()
    said = broker.refused()
    assert "9.8.7" in said and ours in said and "use the later version" in said, said
    assert broker.stamps() == before
    with open(path, "w", encoding="utf-8") as file:
        file.write(good)
    broker.start()
    assert broker.stores("a")


# --- F51: the configuration as hostile input ---
def bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 10):
        lines.append("a%d: &a%d [%s]" % (i, i, ", ".join(["*a%d" % (i - 1)] * 10)))
    return "\n".join(lines) + "\n"


HOSTILE = {
    "alias bomb": (bomb(), "aliases expand to more than 10000 values"),
    "nested lists": ("a: " + "[" * 100_000, "t.yaml:1:"),
    "nested maps": ("{a: " * 100_000, "t.yaml:1:"),
    "nested blocks": ("".join(" " * i + "a:\n" for i in range(2000)), "levels deep"),
    "nested sequences": ("- " * 100_000 + "x\n", "t.yaml:1:"),
    "unknown key": ("broker: { data_dirr: x }\n", "t.yaml:1:11: unknown key `data_dirr`"),
    "duplicate key": ("broker: {}\nfunctions: {}\nbroker: {}\n",
                      "t.yaml:3:1: `broker` is given twice"),
    "no as bool": ("broker: { insecure: no }\n", "t.yaml:1:21: `insecure` takes true or false"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_F51_hostile_configurations_are_refused_with_their_place(tmp_path, name):
    text, expected = HOSTILE[name]
    path = tmp_path / "t.yaml"
    path.write_text(text, encoding="utf-8")
    for words in (["validate", str(path)], ["serve", "-c", str(path)]):
        ended, seconds, kib = measured([TOCSIN, *words])
        assert ended.returncode == 1, ended.stderr
        said = ended.stdout + ended.stderr
        assert expected in said, said[:2000]
        assert len(said) < 20_000
        assert seconds < 5 and kib < 200 * 1024 * MEMORY, (seconds, kib)


def test_F51_a_file_of_a_gigabyte_is_refused_by_its_size_before_it_is_read(tmp_path):
    path = tmp_path / "t.yaml"
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    for words in (["validate", str(path)], ["serve", "-c", str(path)]):
        ended, seconds, kib = measured([TOCSIN, *words])
        assert ended.returncode == 1
        assert "more than 67108864 bytes" in ended.stdout + ended.stderr
        assert seconds < 2 and kib < 60 * 1024 * MEMORY, (seconds, kib)


def measured(words):
    """The ended process, its seconds of processor time and its largest memory in KiB."""
    script = ("import resource, subprocess, sys\n"
              "ended = subprocess.run(sys.argv[1:], timeout=50)\n"
              "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
              "print('USED', used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)\n"
              "sys.exit(ended.returncode)\n")
    ended = subprocess.run(["/usr/bin/python3", "-c", script, *words], capture_output=True,
                           text=True, timeout=60, check=False)
    told = re.search(r"USED (\S+) (\d+)\n", ended.stderr)
    return ended, float(told.group(1)), int(told.group(2))

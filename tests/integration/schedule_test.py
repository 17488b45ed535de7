"""Schedules by command and API, events for later, runs and metering, with the real program."""

import json

import pytest

from fault_rig import Broker, event, eventually, message, one_trigger

AddSchedules = message("AddSchedulesRequest")
TIMER = ("sources:\n  nightly: { timer: { cron: '@every 1h' } }\n" + one_trigger())


@pytest.fixture
def make(tmp_path):
    made = []

    def start(rest="", broker="", partitions=2):
        made.append(Broker(tmp_path, rest, broker=broker, shim=False, partitions=partitions))
        return made[-1].start()

    yield start
    for broker in made:
        broker.end()


def ok(done):
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def refused(done, code):
    assert done.returncode != 0 and code in done.stderr.decode(), (done.stdout, done.stderr)


def schedule(broker, *words):
    return json.loads(ok(broker.run("schedule", *words, "-o", "json")))


def ids(broker, prefix=""):
    """The ids of all stored events that begin so."""
    found = []
    for one in broker.stored():
        name = message("CloudEvent").FromString(one.event).id
        if name.startswith(prefix):
            found.append(name)
    return found


def test_a_schedule_is_added_shown_paused_fired_and_removed(make):
    broker = make(TIMER)
    added = schedule(broker, "add", "report", "--cron", "30 2 * * *", "--timezone",
                     "Europe/Berlin", "--type", "report.due", "--subject", "daily", "--key", "k",
                     "--data", '{"n":1}', "--overlap", "queue_one")
    assert added["kind"] == "recurring" and added["next"]
    assert added["event"] == {"source": "/schedules/report", "type": "report.due",
                              "subject": "daily", "partitionkey": "k", "data": '{"n":1}',
                              "datacontenttype": "application/json"}
    assert [one["name"] for one in schedule(broker, "list")] == ["nightly", "report"]
    text = ok(broker.run("schedule", "list"))
    assert "nightly" in text and "configured" in text and "30 2 * * *" in text
    assert schedule(broker, "pause", "report")["state"] == "paused"
    broker.kill()
    broker.start()
    shown = schedule(broker, "show", "report")
    assert shown["state"] == "paused" and shown["timezone"] == "Europe/Berlin"
    assert shown["overlap"] == "queue_one" and shown["next"] is None
    assert schedule(broker, "resume", "report")["next"]
    schedule(broker, "fire", "report")
    assert len(ids(broker, "report/")) == 1
    schedule(broker, "remove", "report")
    assert [one["name"] for one in schedule(broker, "list")] == ["nightly"]


def test_errors_say_what_is_wrong(make):
    broker = make(TIMER)
    ok(broker.run("schedule", "add", "a", "--every", "1h"))
    refused(broker.run("schedule", "add", "a", "--every", "1h"), "T0336")
    refused(broker.run("schedule", "add", "nightly", "--every", "1h"), "T0336")
    refused(broker.run("schedule", "add", "b", "--cron", "61 * * * *"), "T0339")
    refused(broker.run("schedule", "add", "b/c", "--every", "1h"), "T0339")
    refused(broker.run("schedule", "add", "b", "--every", "1h", "--data", "{"), "T0339")
    refused(broker.run("schedule", "add", "b", "--every", "1h", "--timezone", "Europe/Berlinn"),
            "T0339")
    assert broker.run("schedule", "add", "b").returncode == 2
    assert broker.run("schedule", "add", "b", "--every", "1h", "--in", "1h").returncode == 2
    refused(broker.run("schedule", "show", "none"), "T0337")
    refused(broker.run("schedule", "remove", "nightly"), "T0343")
    refused(broker.run("publish", "--type", "t", "--source", "/s", "--deliver-in", "soon"), "T0335")
    ok(broker.run("schedule", "add", "a", "--every", "2h", "--replace"))
    assert schedule(broker, "show", "a")["cron"] == "@every 2h"


def test_one_shots_and_delayed_events_come_once_across_kills(make):
    broker = make()
    for i in range(20):
        ok(broker.run("schedule", "add", "s%d" % i, "--in", "%dms" % (300 + 150 * i)))
        done = ok(broker.run("publish", "--type", "t", "--source", "/s", "--id", "d%d" % i,
                             "--deliver-in", "%dms" % (300 + 150 * i)))
        assert "delayed" in done
    # Where the time passes, however long the commands took.
    ok(broker.run("schedule", "add", "late", "--in", "2s"))
    ok(broker.run("publish", "--type", "t", "--source", "/s", "--id", "late", "--deliver-in", "2s"))
    for _ in range(4):
        broker.kill()
        broker.start()
    eventually(lambda: len(ids(broker, "late")) == 2)
    eventually(lambda: len(ids(broker)) == 42)
    found = ids(broker)
    assert len(set(found)) == 42
    assert sorted(one for one in found if one.startswith("d")) == sorted("d%d" % i
                                                                         for i in range(20))
    again = ok(broker.run("publish", "--type", "t", "--source", "/s", "--id", "d3",
                          "--deliver-in", "1s"))
    assert "duplicate" in again


def test_what_waits_is_listed_and_is_a_duplicate(make):
    broker = make()
    words = ("publish", "--type", "t", "--source", "/s", "--id", "x", "--deliver-in", "1h")
    assert "delayed" in ok(broker.run(*words))
    assert "duplicate" in ok(broker.run(*words))
    waiting = schedule(broker, "list", "--delayed")
    assert [one["name"] for one in waiting] == ["/s x"] and waiting[0]["kind"] == "delayed"
    assert "tocsindeliverin" not in waiting[0]["event"]
    assert schedule(broker, "list") == []
    assert broker.metric("tocsin_partition_delayed_events") == 1


def test_an_event_of_the_python_sdk_waits_for_its_time(make):
    import tocsin  # by the environment that ctest gives
    broker = make()
    publisher = tocsin.Publisher(broker.target)
    result = publisher.publish_and_wait(
        tocsin.CloudEvent("t", "/py", id="py", extensions={"tocsindeliverin": "1s"}), timeout=20)
    assert result.delayed and result.offset is None
    assert ids(broker) == []
    eventually(lambda: ids(broker) == ["py"])
    publisher.close()


def test_a_backfill_fires_each_instant_once(make):
    broker = make(TIMER)
    ok(broker.run("schedule", "add", "daily", "--cron", "0 4 * * *"))
    words = ("backfill", "daily", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-31T00:00:00Z")
    dry = schedule(broker, *words, "--dry-run")
    assert dry["count"] == 30 and dry["instants"][0] == "2026-01-01T04:00:00Z"
    assert ids(broker, "daily/") == []
    assert schedule(broker, *words)["count"] == 30
    broker.kill()
    broker.start()
    assert schedule(broker, *words)["count"] == 0
    assert ids(broker, "daily/") == ["daily/" + instant for instant in dry["instants"]]
    refused(broker.run("schedule", "backfill", "none", "--from", "2026-01-01T00:00:00Z"), "T0337")


def test_many_are_added_in_one_call_and_survive_a_kill(make):
    broker = make()
    for first in range(0, 20_000, 2000):
        sent = AddSchedules()
        for i in range(first, first + 2000):
            one = sent.schedules.add(name="s%d" % i)
            one.in_us = 3_600_000_000 + i
        answer = broker.call("Admin/AddSchedules", sent.SerializeToString(),
                             message("AddSchedulesResponse"))
        assert not answer.refusals
    assert broker.metric("tocsin_partition_schedules") == 20_000
    broker.kill()
    broker.start()
    assert broker.metric("tocsin_partition_schedules") == 20_000
    assert len(schedule(broker, "list")) == 20_000


def test_events_about_schedules_reach_who_asks_for_them(make):
    broker = make("functions: { work: {}, watch: {} }\ntriggers:\n"
                  "  all:\n    function: work\n    retry: { attempts: 1 }\n"
                  "  watch:\n    filters: [ { prefix: { type: dev.tocsin.schedule. } } ]\n"
                  "    function: watch\n")
    ok(broker.run("schedule", "add", "tick", "--every", "300ms"))
    eventually(lambda: any("tick/skipped/" in one for one in ids(broker)))
    worker = broker.worker("work")
    for delivery in worker.take(1):
        worker.answer(delivery, "reject", reason="no")
    eventually(lambda: any("tick/failed/tick/" in one for one in ids(broker)))
    assert broker.books("watch").matched >= 2


def test_runs_are_listed_and_shown_and_metered(make):
    broker = make("functions:\n  job:\n    exec:\n      command: [/bin/sh, -c, "
                  "'echo out of $CE_ID; test $CE_ID != bad']\n"
                  "triggers:\n  all:\n    function: job\n    retry: { attempts: 1 }\n")
    assert broker.accepted(event("good"), event("bad"))
    eventually(lambda: broker.books().acked == 1 and broker.books().dead == 1)
    runs = json.loads(ok(broker.run("runs", "list", "-o", "json")))
    by_event = {one["event"]: one for one in runs}
    assert by_event["good"]["ended"] == "exit 0" and by_event["good"]["answer"] == "ack"
    assert by_event["bad"]["ended"] == "exit 1" and by_event["bad"]["answer"] == "retry"
    assert by_event["good"]["peak_memory_bytes"] > 100_000
    shown = json.loads(ok(broker.run("runs", "show", by_event["good"]["id"], "-o", "json")))
    assert shown["output"] == "out of good\n"
    assert "out of bad" in ok(broker.run("runs", "show", by_event["bad"]["id"]))
    refused(broker.run("runs", "show", "job/../../endpoints"), "no run")
    functions = json.loads(ok(broker.run("functions", "-o", "json")))
    job = next(one for one in functions if one["name"] == "job")
    assert job["kind"] == "exec" and job["runs"] == 2 and job["failed"] == 1
    assert job["busy_seconds"] > 0 and job["peak_memory_bytes"] > 100_000
    assert broker.metric("tocsin_function_runs_total") == 2
    assert broker.metric("tocsin_function_busy_seconds_total") > 0

"""Sources of kind redis: a real redis-server and the real tocsin, both killed at will.

TOCSIN_QUEUE_RECORDS asks for more records across kills (make queues).
"""

import json
import os

import pytest
from fault_rig import eventually, fixture_make, one_trigger  # noqa: F401
from queue_rig import (Redis, RedisError, attributes_of, data_of, source_status, stored_events)

RECORDS = int(os.environ.get("TOCSIN_QUEUE_RECORDS", "30000"))


@pytest.fixture(name="redis")
def fixture_redis(tmp_path):
    server = Redis(tmp_path)
    yield server
    server.kill()


def source(redis, keys, event="", url=None):
    return ("sources:\n  in:\n    backoff_max: 200ms\n%s"
            "    redis: { url: \"%s\", timeout: 2s, %s }\n"
            % (event and "    event: %s\n" % event, url or redis.url, keys)) + one_trigger()


def state(broker):
    return (source_status(broker, "in") or {}).get("state")


def stands(broker, words):
    """The source waits, and says why."""
    def holds():
        told = source_status(broker, "in") or {}
        return told.get("state") == "waiting" and words in (told.get("last_error") or "")
    try:
        return eventually(holds)
    except AssertionError:
        raise AssertionError(source_status(broker, "in")) from None


def holds_events(broker, count, within=20.0):
    eventually(lambda: (source_status(broker, "in") or {}).get("events") == count, within)
    return stored_events(broker)


def add(redis, numbers, stream="s"):
    redis.many([("XADD", stream, "*", "n", str(n)) for n in numbers])


def numbers_of(events):
    return [int(json.loads(data_of(event))["n"]) for event in events]


def test_stream_gives_each_entry_once_with_attributes_from_templates(make, redis):
    redis.do("XADD", "s", "5-1", "user", "ann", "payload", '{"kind":"paid","n":1}')
    broker = make(rest=source(
        redis, "stream: s, data_field: payload",
        "{ type: 'shop.{data.kind}', subject: '{stream}/{field.user}',"
        " partitionkey: '{field.user}', attributes: { number: '{data.n}' } }"), shim=False).start()
    event = holds_events(broker, 1)[0]
    told = attributes_of(event)
    assert told["id"] == "5-1"
    assert told["source"] == "/sources/in"
    assert told["type"] == "shop.paid"
    assert told["subject"] == "s/ann"
    assert told["partitionkey"] == "ann"
    assert told["number"] == "1"
    assert told["datacontenttype"] == "application/json"
    assert data_of(event) == '{"kind":"paid","n":1}'
    shown = source_status(broker, "in")
    assert shown["kind"] == "redis" and shown["state"] == "running"
    assert shown["position"] == "5-1" and shown["lag"] == 0


def test_what_cannot_be_decoded_is_a_dead_letter_and_the_lane_goes_on(make, redis):
    redis.do("XADD", "s", "1-0", "ce_specversion", "1.0", "ce_id", "", "data", "first")
    redis.do("XADD", "s", "2-0", "ce_specversion", "1.0", "ce_id", "e2", "ce_source", "/x",
             "ce_type", "t", "data", "second")
    redis.do("XADD", "s", "3-0", "n", "3")
    broker = make(rest=source(redis, "stream: s"), shim=False).start()
    events = holds_events(broker, 2)
    assert [event.id for event in events] == ["e2", "3-0"]
    assert data_of(events[0]) == "second"
    letter = eventually(broker.letters)[0]
    assert letter.reason == "undecodable" and letter.source == "in"
    assert letter.event == b"first"
    assert "1-0" in letter.message
    assert broker.metric("tocsin_source_undecodable_total") == 1
    assert broker.metric("tocsin_source_events_total") == 2


def test_stream_goes_on_after_kills_of_both_and_of_connections(make, redis):
    broker = make(rest=source(redis, "stream: s"), shim=False).start()
    add(redis, range(100))
    holds_events(broker, 100)
    redis.kill()
    eventually(lambda: state(broker) == "waiting")
    redis.start()
    add(redis, range(100, 200))
    holds_events(broker, 200)
    for _ in range(3):
        redis.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        add(redis, range(200, 210))
    broker.kill()
    add(redis, range(210, 300))
    broker.start()
    # 30 between the kills of connections: 200 to 209 three times.
    numbers = numbers_of(holds_events(broker, 320))
    assert numbers == list(range(200)) + list(range(200, 210)) * 3 + list(range(210, 300))
    assert broker.metric("tocsin_source_errors_total") == 0  # of this life


def test_trimmed_stream_is_refused_with_what_was_lost_and_passed_if_asked(make, redis):
    broker = make(rest=source(redis, "stream: s"), shim=False).start()
    add(redis, range(10))
    holds_events(broker, 10)
    broker.stop()
    add(redis, range(10, 30))
    redis.do("XTRIM", "s", "MAXLEN", "5")
    broker.start()
    stands(broker, "15 entries after")
    assert len(stored_events(broker)) == 10
    assert "T0208" in broker.log()
    broker.set_config(source(redis, "stream: s, on_gap: continue"))
    assert broker.run("reload").returncode == 0
    numbers = numbers_of(holds_events(broker, 15))
    assert numbers == list(range(10)) + list(range(25, 30))
    assert source_status(broker, "in")["skipped"] == 15
    # Trimmed behind the position: nobody's loss.
    redis.do("XTRIM", "s", "MAXLEN", "0")
    add(redis, [30])
    assert numbers_of(holds_events(broker, 16))[-1] == 30
    assert source_status(broker, "in")["skipped"] == 15


def test_stream_made_anew_or_restored_is_refused_until_it_is_forgotten(make, redis):
    broker = make(rest=source(redis, "stream: s"), shim=False).start()
    add(redis, range(10))
    holds_events(broker, 10)
    redis.do("DEL", "s")
    stands(broker, "deleted")
    add(redis, range(100, 103))
    stands(broker, "it is not the one that was read")
    assert len(stored_events(broker)) == 10
    told = broker.run("sources", "forget", "in", "--dry-run")
    assert told.returncode == 0 and b"would be forgotten" in told.stdout, told
    assert broker.run("sources", "forget", "in").returncode == 2
    told = broker.run("sources", "forget", "in", "--yes")
    assert told.returncode == 0, told.stderr
    eventually(lambda: len(stored_events(broker)) == 13)
    assert numbers_of(stored_events(broker))[10:] == [100, 101, 102]
    broker.kill()
    broker.start()
    eventually(lambda: state(broker) == "running")
    assert len(stored_events(broker)) == 13


def test_start_latest_is_kept_across_a_kill_before_the_first_event(make, redis):
    add(redis, range(5))
    broker = make(rest=source(redis, "stream: s, start: latest"), shim=False).start()
    eventually(lambda: (source_status(broker, "in") or {}).get("position") not in (None, ""))
    eventually(lambda: state(broker) == "running")
    broker.kill()
    add(redis, [5, 6])
    broker.start()
    assert numbers_of(holds_events(broker, 2)) == [5, 6]


def test_group_reads_own_pending_first_claims_others_and_acknowledges_durable(make, redis):
    redis.do("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    add(redis, range(10))
    # Given to this member of an earlier life, and to one that died.
    redis.do("XREADGROUP", "GROUP", "g", "tocsin", "COUNT", "3", "STREAMS", "s", ">")
    redis.do("XREADGROUP", "GROUP", "g", "dead", "COUNT", "3", "STREAMS", "s", ">")
    broker = make(rest=source(redis, "stream: s, group: g, claim_after: 1s"), shim=False).start()
    numbers = numbers_of(holds_events(broker, 10))
    assert numbers[:3] == [0, 1, 2]
    assert sorted(numbers) == list(range(10))
    eventually(lambda: redis.do("XPENDING", "s", "g")[0] == 0)
    # Durable, and the acknowledgement was lost: it is given again and is known.
    broker.kill()
    entries = redis.do("XRANGE", "s", "-", "+")
    redis.do("XGROUP", "DESTROY", "s", "g")
    redis.do("XGROUP", "CREATE", "s", "g", entries[4][0])
    redis.do("XREADGROUP", "GROUP", "g", "tocsin", "COUNT", "5", "STREAMS", "s", ">")
    add(redis, [10])
    broker.start()
    assert sorted(numbers_of(holds_events(broker, 11))) == list(range(11))
    eventually(lambda: redis.do("XPENDING", "s", "g")[0] == 0)


def test_list_gives_each_element_once_across_kills_of_both(make, redis):
    broker = make(rest=source(redis, "list: l"), shim=False).start()
    expected = 0
    for round_number in range(4):
        redis.many([("LPUSH", "l", str(n)) for n in range(expected, expected + 500)])
        expected += 500
        if round_number == 1:
            redis.kill()
            redis.start()
        broker.kill()
        broker.start()
    events = holds_events(broker, expected)
    assert [int(data_of(event)) for event in events] == list(range(expected))
    eventually(lambda: redis.do("LLEN", "l:in") == 0)
    assert redis.do("GET", "l:in:done") == str(expected).encode()
    assert attributes_of(events[0])["type"] == "dev.tocsin.redis.element"


def test_list_has_its_counter_before_anything_is_moved(make, redis):
    # A kill between the first durable elements and their release leaves nothing else to go by.
    broker = make(rest=source(redis, "list: l"), shim=False).start()
    eventually(lambda: state(broker) == "running")
    assert redis.do("GET", "l:in:done") == b"0"


def test_list_elements_of_an_earlier_life_are_taken_once(make, redis):
    # Moved, and not durable: what a death between the two leaves.
    redis.many([("RPUSH", "l:in", "b", "a"), ("LPUSH", "l", "c")])
    broker = make(rest=source(redis, "list: l"), shim=False).start()
    assert [data_of(event) for event in holds_events(broker, 3)] == ["a", "b", "c"]
    # Durable, and not released: the counter is put back with its elements.
    eventually(lambda: redis.do("LLEN", "l:in") == 0)
    broker.kill()
    redis.many([("RPUSH", "l:in", "c", "b"), ("SET", "l:in:done", "1"), ("LPUSH", "l", "d")])
    broker.start()
    assert [data_of(event) for event in holds_events(broker, 4)] == ["a", "b", "c", "d"]


def test_published_messages_and_key_events_become_events(make, redis):
    redis.do("CONFIG", "SET", "notify-keyspace-events", "")
    rest = ("sources:\n"
            "  in: { backoff_max: 200ms,"
            " redis: { url: \"%s\", channels: [news], patterns: [\"a.*\"] } }\n"
            "  gone: { backoff_max: 200ms,"
            " redis: { url: \"%s\", keyevents: [expired], keys: \"session:*\" } }\n"
            % (redis.url, redis.url)) + one_trigger()
    broker = make(rest=rest, shim=False).start()
    eventually(lambda: state(broker) == "running")
    eventually(lambda: "notify-keyspace-events" in
               (source_status(broker, "gone") or {}).get("last_error", "") or "")
    redis.do("CONFIG", "SET", "notify-keyspace-events", "Ex")
    eventually(lambda: source_status(broker, "gone")["state"] == "running")
    redis.do("PUBLISH", "news", "one")
    redis.do("PUBLISH", "a.b", '{"n":2}')
    redis.do("PUBLISH", "other", "three")
    redis.do("SET", "session:7", "x", "PX", "30")
    redis.do("SET", "else", "x", "PX", "30")
    eventually(lambda: redis.do("DBSIZE") == 0)
    eventually(lambda: len(stored_events(broker)) == 3)
    by_type = {attributes_of(event)["type"]: event for event in stored_events(broker)}
    expired = by_type["dev.tocsin.redis.expired"]
    assert attributes_of(expired)["partitionkey"] == "session:7"
    assert json.loads(data_of(expired)) == {"key": "session:7", "event": "expired", "database": 0}
    messages = sorted((attributes_of(event)["subject"], data_of(event))
                      for event in stored_events(broker) if event.id != expired.id)
    assert messages == [("a.b", '{"n":2}'), ("news", "one")]
    redis.kill()
    redis.start()
    eventually(lambda: "is lost" in (source_status(broker, "in") or {}).get("last_error", ""))
    eventually(lambda: redis.do("PUBLISH", "news", "four") == 1)
    eventually(lambda: len(stored_events(broker)) == 4)


def test_acl_user_is_used_and_what_it_lacks_is_told_without_the_password(make, redis):
    redis.do("ACL", "SETUSER", "reader", "on", ">hunter2", "~s", "+xinfo", "+xread", "+multi",
             "+exec", "+select")
    add(redis, [1])
    wrong = "redis://reader:hunter3@127.0.0.1:%d" % redis.port
    broker = make(rest=source(redis, "stream: s", url=wrong), shim=False).start()
    stands(broker, "WRONGPASS")
    right = "redis://reader:hunter2@127.0.0.1:%d" % redis.port
    broker.set_config(source(redis, "stream: s", url=right))
    assert broker.run("reload").returncode == 0
    holds_events(broker, 1)
    broker.set_config(source(redis, "stream: other", url=right).replace("  in:", "  out:"))
    assert broker.run("reload").returncode == 0
    eventually(lambda: "NOPERM" in (source_status(broker, "out") or {}).get("last_error", ""))
    assert "hunter" not in broker.log()


def test_source_goes_on_by_itself_after_its_server_was_away_for_twenty_seconds(make, redis):
    broker = make(rest=source(redis, "stream: s"), shim=False).start()
    add(redis, range(10))
    holds_events(broker, 10)
    redis.kill()
    errors = broker.metric("tocsin_source_errors_total")
    # At most 0.2 s apart: a hundred tries and more are twenty seconds.
    eventually(lambda: broker.metric("tocsin_source_errors_total") >= errors + 100, within=60)
    redis.start()
    add(redis, range(10, 20))
    assert numbers_of(holds_events(broker, 20)) == list(range(20))
    assert state(broker) == "running"


def test_wrong_kind_of_key_is_told(make, redis):
    redis.do("SET", "s", "text")
    broker = make(rest=source(redis, "stream: s"), shim=False).start()
    stands(broker, "WRONGTYPE")


@pytest.mark.parametrize("kind", ["stream", "list"])
def test_exactly_once_across_kills_of_the_broker(make, redis, kind):
    redis.do("CONFIG", "SET", "appendfsync", "no")
    broker = make(rest=source(redis, "%s: s" % kind), shim=False).start()
    kills = 5
    made = 0
    for turn in range(kills + 1):
        upto = RECORDS * (turn + 1) // (kills + 1)
        if kind == "stream":
            commands = [("XADD", "s", "*", "n", str(n)) for n in range(made, upto)]
        else:
            commands = [("LPUSH", "s", '{"n":%d}' % n) for n in range(made, upto)]
        redis.many(commands)
        made = upto
        if turn < kills:
            # In the middle of what it reads, not behind it.
            before = (source_status(broker, "in") or {}).get("events") or 0
            eventually(lambda: ((source_status(broker, "in") or {}).get("events") or 0) > before
                       or before == made)
            broker.kill()
            broker.start()
    events = holds_events(broker, RECORDS, within=300)
    assert [int(json.loads(data_of(event))["n"]) for event in events] == list(range(RECORDS))


def test_client_of_the_rig_reads_errors(redis):
    with pytest.raises(RedisError):
        redis.do("NO-SUCH-COMMAND")

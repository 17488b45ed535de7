"""Tables that are read again by command, and gaps that are passed by command: `tocsin sources
snapshot` with a real PostgreSQL and the real tocsin. With it what makes gaps: a restored backup, a
promoted standby, older data of the broker.
"""

import contextlib
import json
import random
import shutil
import subprocess
import threading

import pytest
from fault_rig import Broker, eventually
from postgres_rig import (Mirror, Postgres, fixture_db, fixture_make, fixture_server,  # noqa: F401
                          holds_events, kinds, lsn, runs, same_rows, snapshot_over, source,
                          stands, told, wait_until_read)
from queue_rig import attributes_of, free_port, stored_events


def ask(broker, *words):
    """`tocsin sources snapshot in`, as JSON."""
    done = broker.run("sources", "snapshot", "in", *words, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(broker, *words):
    """What it says instead."""
    done = broker.run("sources", "snapshot", *words)
    assert done.returncode == 1, (done.stdout, done.stderr)
    return done.stderr.decode()


def subjects(events):
    return [attributes_of(one)["subject"] for one in events]


def keys_of(events, kind):
    """Table and key of each event of that kind."""
    return [(attributes_of(one)["subject"], attributes_of(one)["partitionkey"]) for one in events
            if one.type.endswith("." + kind)]


def reads_of(events):
    return keys_of(events, "read")


def wal_end(server):
    return lsn(server.do("SELECT pg_current_wal_lsn()")[0][0])


def let_the_slot_move(broker, server, db):
    """Until the slot needs less of the log than at first, and the broker has noted that."""
    first = lsn(server.slot(db)["restart"])

    def moved():
        server.do("INSERT INTO noise VALUES ('x')", db)
        server.do("CHECKPOINT")
        return lsn(server.slot(db)["restart"]) > first

    eventually(moved)
    # It is noted at the second heartbeat behind; each confirms what was there before it.
    for _ in range(2):
        server.do("INSERT INTO noise VALUES ('x')", db)
        wait_until_read(broker, server, db)


def test_tables_are_read_again_while_they_are_written_and_the_broker_dies(make, server, db):
    """Also beside writers each event comes once, in order, and gives exactly the tables."""
    server.do("CREATE TABLE t (id int PRIMARY KEY, v int, w text);"
              "CREATE TABLE u (id int PRIMARY KEY, v int)", db)
    broker = make(rest=source(server, db, "tables: [public.t, public.u], chunk_rows: 100,"
                                          " snapshot_rate: 2000"), shim=False).start()
    snapshot_over(broker)
    server.do("INSERT INTO t SELECT g, 0, repeat('x', 50) FROM generate_series(1, 3000) g;"
              "INSERT INTO u SELECT g, 0 FROM generate_series(1, 20) g", db)
    stop = threading.Event()

    def change(seed):
        chance = random.Random(seed)
        with contextlib.closing(server.connect(db)) as connection:
            cursor = connection.cursor()
            while not stop.is_set():
                cursor.execute(chance.choice([
                    "UPDATE t SET v = v + 1 WHERE id = %d", "DELETE FROM t WHERE id = %d",
                    "INSERT INTO t VALUES (%d, 7, 'new') ON CONFLICT (id) DO UPDATE SET v = 8"])
                    % chance.randint(1, 1500))

    holds = len(holds_events(broker, 3020))
    writers = [threading.Thread(target=change, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    try:
        assert ask(broker) == {"name": "in", "tables": ["public.t", "public.u"], "keyless": [],
                               "after_gap": False}
        eventually(lambda: len(reads_of(stored_events(broker)[holds:])) > 200)
        broker.kill()
        broker.start()
        snapshot_over(broker)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    wait_until_read(broker, server, db)
    events = stored_events(broker)
    # It went on behind the last row that was durable. What nobody changed is read for certain.
    again = reads_of(events)
    assert len(again) == len(set(again)) >= 1500
    assert {table for table, _ in again} == {"public.t", "public.u"}
    mirror = Mirror().apply(events)
    same_rows(mirror, server, db, "t")
    same_rows(mirror, server, db, "u")


def test_request_for_one_table_outlives_a_kill_right_after_the_answer(make, server, db):
    server.do("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1), (2), (3);"
              "CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1), (2);"
              "CREATE SCHEMA apart; CREATE TABLE apart.c (id int)", db)
    broker = make(rest=source(server, db, "tables: [public.a, public.b]"), shim=False).start()
    snapshot_over(broker)
    first = holds_events(broker, 5)
    # No chunk can be read while this transaction is open.
    with contextlib.closing(server.connect(db)) as blocker:
        cursor = blocker.cursor()
        cursor.execute("BEGIN; INSERT INTO apart.c VALUES (1)")
        answer = ask(broker, "--table", "public.b")
        broker.kill()
        assert answer["tables"] == ["public.b"]
        broker.start()
        runs(broker)
        eventually(lambda: "1 tables to go" in told(broker)["position"])
        assert len(stored_events(broker)) == 5
        # Changes come meanwhile.
        server.do("INSERT INTO a VALUES (4)", db)
        assert kinds(holds_events(broker, 6))[5] == "created"
        cursor.execute("ROLLBACK")
    events = holds_events(broker, 8)
    assert kinds(events[6:]) == ["read", "read"] and subjects(events[6:]) == ["public.b"] * 2
    assert not {one.id for one in first} & {one.id for one in events[6:]}
    # It is done: the next start reads nothing.
    snapshot_over(broker)
    broker.kill()
    broker.start()
    snapshot_over(broker)
    server.do("INSERT INTO b VALUES (3)", db)
    assert kinds(holds_events(broker, 9))[8] == "created"


def test_what_cannot_be_read_again_is_refused_in_words(make, server, db, tmp_path):
    server.do("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);"
              "CREATE TABLE bare (id int); CREATE TABLE other (id int PRIMARY KEY)", db)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    more = ("sources:\n  box: { file: { path: %s } }\n"
            "  once: { postgres: { url: \"%s\", slot: %s_once, tables: [public.t], snapshot: only "
            "} }\n"
            "  away: { postgres: { url: \"postgresql://127.0.0.1:%d/none\", tables: [a.b] } }\n"
            % (inbox, server.url(db), db, free_port()))
    rest = source(server, db, "tables: [public.t, public.bare, \"hidden.*\"]")
    broker = make(rest=rest.replace("sources:\n", more), shim=False).start()
    snapshot_over(broker)
    before = holds_events(broker, 2)  # of `in` and of `once`
    for words, says in [
            (["nobody"], ["no source of that name"]),
            (["box"], ["of kind file", "postgres"]),
            (["once"], ["snapshot: only", "sources forget once"]),
            (["away"], ["has to be asked", "nothing was changed"]),
            (["in", "--table", "t"], ["schema.table"]),
            (["in", "--table", "public.other"], ["does not read `public.other`", "public.t"]),
            (["in", "--table", "hidden.none"], ["does not read `hidden.none`", "public.t"]),
            (["in", "--table", "public.t", "--table", "public.bare"], ["T0224", "public.bare"]),
            (["in", "--after-gap"], ["it runs", "no gap"])]:
        text = refused(broker, *words)
        for word in says:
            assert word in text, (words, text)
    assert broker.run("sources", "snapshot", "in", "--after-gap", "--table",
                      "public.t").returncode == 2
    runs(broker)
    assert len(stored_events(broker)) == len(before)
    assert ask(broker) == {"name": "in", "tables": ["public.t"], "keyless": ["public.bare"],
                           "after_gap": False}
    assert kinds(holds_events(broker, 3))[2] == "read"


def test_never_reads_what_is_asked_for_if_the_role_may(make, server, db):
    server.do("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);"
              "CREATE ROLE taker LOGIN REPLICATION; CREATE PUBLICATION given FOR TABLE t", db)
    broker = make(rest=source(server, db, "tables: [public.t], publication: given, snapshot: never",
                              user="taker"), shim=False).start()
    runs(broker)
    text = refused(broker, "in")
    assert "T0223" in text and 'GRANT SELECT ON "public"."t" TO taker' in text, text
    # A table that cannot be read would have stopped the changes, too.
    server.do("INSERT INTO t VALUES (3)", db)
    assert kinds(holds_events(broker, 1)) == ["created"]
    server.do("GRANT SELECT ON t TO taker", db)
    assert ask(broker, "--table", "public.t")["tables"] == ["public.t"]
    events = holds_events(broker, 4)
    assert sorted(reads_of(events)) == [("public.t", key) for key in "123"]
    snapshot_over(broker)
    broker.kill()
    broker.start()
    runs(broker)
    server.do("INSERT INTO t VALUES (4)", db)
    assert kinds(holds_events(broker, 5))[4] == "created"
    broker.kill()
    server.do("DROP OWNED BY taker; DROP ROLE taker", db)


def test_gap_is_passed_by_command_once_and_that_outlives_a_kill(make, server, db):
    server.do("CREATE TABLE t (id int PRIMARY KEY)", db)
    broker = make(rest=source(server, db, "tables: [public.t]"), shim=False).start()
    snapshot_over(broker)
    server.do("INSERT INTO t VALUES (1)", db)
    holds_events(broker, 1)
    broker.stop()
    server.do("INSERT INTO t VALUES (2)", db)
    eventually(lambda: not server.slot(db)["active"])
    server.do("SELECT pg_replication_slot_advance('%s', pg_current_wal_lsn())" % db, db)
    broker.start()
    stands(broker, "T0221", "gap is possible since", "tocsin sources snapshot in --after-gap")
    # To read tables again does not pass it.
    ask(broker)
    stands(broker, "T0221", "gap is possible since")
    assert len(stored_events(broker)) == 1
    assert ask(broker, "--after-gap") == {"name": "in", "tables": ["public.t"], "keyless": [],
                                          "after_gap": True}
    broker.kill()
    broker.start()
    events = holds_events(broker, 3)
    assert sorted(reads_of(events)) == [("public.t", "1"), ("public.t", "2")]
    snapshot_over(broker)
    server.do("INSERT INTO t VALUES (3)", db)
    assert kinds(holds_events(broker, 4))[3] == "created"
    # The next gap is another matter.
    broker.stop()
    eventually(lambda: not server.slot(db)["active"])
    server.do("SELECT pg_drop_replication_slot('%s')" % db, db)
    broker.start()
    stands(broker, "T0220", "the slot is gone", "tocsin sources snapshot in --after-gap")
    assert server.slot(db) is None
    ask(broker, "--after-gap")
    assert sorted(reads_of(holds_events(broker, 7)[4:])) == [("public.t", key) for key in "123"]
    eventually(lambda: "went on from" in (told(broker)["last_error"] or ""))
    assert server.slot(db) is not None


@pytest.mark.parametrize("overtakes", [False, True])
def test_restored_backup_of_the_server_is_noticed(tmp_path, overtakes):
    """F38: its log ends before what was read, or has come further again when we look."""
    own = Postgres()
    broker = None
    try:
        own.do("CREATE DATABASE d")
        own.do("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE noise (v text);"
               "INSERT INTO t SELECT g, 'kept' FROM generate_series(1, 5) g", "d")
        broker = Broker(tmp_path, rest=source(own, "d", "tables: [public.t]"), shim=False).start()
        snapshot_over(broker)
        holds_events(broker, 5)
        broker.stop()
        own.stop()
        own.back_up()
        own.start()
        broker.start()
        runs(broker)
        own.do("INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(101, 400) g", "d")
        holds_events(broker, 305)
        if overtakes:
            let_the_slot_move(broker, own, "d")
        end = wal_end(own)
        broker.stop()
        own.stop()
        own.restore()
        own.start()
        if overtakes:
            own.do("INSERT INTO t VALUES (6, 'behind what was read')", "d")

            def overtaken():
                own.do("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 200)",
                       "d")
                return wal_end(own) > end
            eventually(overtaken)
        broker.start()
        stands(broker, "T0221", "restored from an older", "gap is possible since", "--after-gap")
        assert len(stored_events(broker)) == 305
        ask(broker, "--after-gap")
        rows = [("public.t", key) for key in ("123456" if overtakes else "12345")]
        eventually(lambda: len(reads_of(stored_events(broker)[305:])) >= len(rows))
        # It goes on, at the next start, too.
        broker.kill()
        broker.start()
        snapshot_over(broker)
        own.do("INSERT INTO t VALUES (7, 'new')", "d")
        eventually(lambda: ("public.t", "7") in keys_of(stored_events(broker), "created"))
        assert sorted(reads_of(stored_events(broker)[305:])) == rows
    finally:
        if broker is not None:
            broker.end()
        own.end()


def test_older_copy_of_the_brokers_data_is_noticed(make, server, db, tmp_path):
    """F38: the slot is ahead of what is known here."""
    server.do("CREATE TABLE t (id int PRIMARY KEY)", db)
    broker = make(rest=source(server, db, "tables: [public.t]"), shim=False).start()
    snapshot_over(broker)
    server.do("INSERT INTO t VALUES (1)", db)
    holds_events(broker, 1)
    broker.stop()
    older = str(tmp_path / "older")
    subprocess.run(["cp", "-a", broker.data, older], check=True)
    broker.start()
    server.do("INSERT INTO t VALUES (2)", db)
    holds_events(broker, 2)
    wait_until_read(broker, server, db)
    broker.stop()
    shutil.rmtree(broker.data)
    shutil.move(older, broker.data)
    broker.start()
    stands(broker, "T0221", "an older copy", "gap is possible since", "--after-gap")
    assert len(stored_events(broker)) == 1


def test_promoted_standby_is_another_timeline(make, server, db):
    """F38: what the former primary had and did not send is not there."""
    server.do("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)", db)
    broker = make(rest=source(server, db, "tables: [public.t]"), shim=False).start()
    snapshot_over(broker)
    holds_events(broker, 2)
    standby = Postgres(standby_of=server)
    try:
        assert standby.do("SELECT pg_promote()")[0][0]
        standby.do("INSERT INTO t VALUES (3)", db)
        broker.set_config(source(standby, db, "tables: [public.t]"))
        assert broker.run("reload").returncode == 0
        stands(broker, "T0221", "timeline", "a standby was promoted", "gap is possible since",
               "--after-gap")
        assert len(stored_events(broker)) == 2
        ask(broker, "--after-gap")
        events = holds_events(broker, 5)
        assert sorted(reads_of(events[2:])) == [("public.t", key) for key in "123"]
        snapshot_over(broker)
        standby.do("INSERT INTO t VALUES (4)", db)
        assert kinds(holds_events(broker, 6))[5] == "created"
    finally:
        broker.kill()
        standby.end()

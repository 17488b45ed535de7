"""Sources of kind postgres: a real PostgreSQL and the real tocsin, both killed at will.

TOCSIN_POSTGRES_ROWS asks for a longer workload and a larger transaction (make postgres).
"""

import contextlib
import json
import os
import random
import subprocess
import threading

import psycopg2
from fault_rig import MEMORY, TOCSIN, Broker, eventually
from postgres_rig import (LenientMirror, Mirror, Postgres, fixture_db, fixture_make,  # noqa: F401
                          fixture_server, holds_events, kinds, lsn, runs, same_rows, snapshot_over,
                          source, stands, told, wait_until_read)
from queue_rig import attributes_of, data_of, source_status, stored_events

ROWS = int(os.environ.get("TOCSIN_POSTGRES_ROWS", "3000"))


def test_changes_are_events_in_commit_order_with_their_transaction(make, server, db):
    server.do("CREATE TABLE t (id int PRIMARY KEY, v text, n numeric(10,2))", db)
    keys = "tables: [public.t], snapshot: never"
    broker = make(rest=source(server, db, keys), shim=False).start()
    runs(broker)
    server.do("BEGIN; INSERT INTO t VALUES (1, 'a', 1.5); UPDATE t SET v = 'b'; COMMIT", db)
    server.do("UPDATE t SET id = 2", db)
    server.do("DELETE FROM t", db)
    server.do("BEGIN; INSERT INTO t VALUES (9, 'no', 0); ROLLBACK", db)
    server.do("TRUNCATE t", db)
    server.do("SELECT pg_logical_emit_message(true, 'note', '{\"k\":1}')", db)
    events = holds_events(broker, 7)
    assert kinds(events) == ["created", "updated", "deleted", "created", "deleted", "truncated",
                             "message"]
    first, second = attributes_of(events[0]), json.loads(data_of(events[1]))
    assert first["source"] == "/sources/in" and first["type"] == "dev.tocsin.row.created"
    assert first["subject"] == "public.t" and first["partitionkey"] == "1"
    assert first["datacontenttype"] == "application/json" and "time" in first
    data = json.loads(data_of(events[0]))
    assert data["before"] is None and data["after"] == {"id": 1, "v": "a", "n": "1.50"}
    assert data["source"]["db"] == db and data["source"]["table"] == "t"
    assert data["source"]["txid"] == second["source"]["txid"]
    assert (data["source"]["index"], second["source"]["index"]) == (0, 1)
    assert data["source"]["commit_time"] == second["source"]["commit_time"]
    assert json.loads(data_of(events[2]))["key_changed_to"] == {"id": 2}
    assert json.loads(data_of(events[3]))["key_changed_from"] == {"id": 1}
    assert data_of(events[6]) == '{"k":1}' and attributes_of(events[6])["subject"] == "note"
    status = told(broker)
    assert status["kind"] == "postgres" and "/" in status["position"]
    eventually(lambda: told(broker).get("lag") == 0)


def test_templates_columns_and_row_filters(make, server, db):
    server.do("CREATE TABLE t (id int PRIMARY KEY, kind text, secret text);"
              "CREATE TABLE other (id int PRIMARY KEY)", db)
    broker = make(rest=source(
        server, db, "tables: [\"public.*\"], exclude: { public.t: [secret] },"
        " where: { public.t: \"id < 100\" }",
        "{ type: 'shop.{table}.{op}', subject: '{schema}/{table}/{data.after.kind}' }"),
        shim=False).start()
    snapshot_over(broker)  # else what it reads may be told a second time
    server.do("INSERT INTO t VALUES (1, 'paid', 'x'), (100, 'paid', 'y'); INSERT INTO other "
              "VALUES (5)", db)
    events = holds_events(broker, 2)
    assert events[0].type == "shop.t.created"
    assert attributes_of(events[0])["subject"] == "public/t/paid"
    assert json.loads(data_of(events[0]))["after"] == {"id": 1, "kind": "paid"}
    assert events[1].type == "shop.other.created"


def test_values_of_own_types_are_what_they_are_made_of(make, server, db):
    server.do("CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('sad', 'ok');"
              "CREATE DOMAIN posint AS int CHECK (value > 0); CREATE DOMAIN many AS posint[];"
              "CREATE TABLE t (id posint PRIMARY KEY, m mood, ms mood[], ps posint[], d many,"
              " h hstore, hs hstore[], z timestamptz, big text)", db)
    server.do("INSERT INTO t VALUES (1, 'ok', '{sad,ok}', '{1,2}', '{3}', 'a=>b', '{\"a=>NULL\"}',"
              " '2024-01-01 12:00+02', 'x')", db)
    broker = make(rest=source(server, db, "tables: [public.t]"), shim=False).start()
    wanted = {"id": 1, "m": "ok", "ms": ["sad", "ok"], "ps": [1, 2], "d": [3], "h": {"a": "b"},
              "hs": [{"a": None}], "z": "2024-01-01T10:00:00Z", "big": "x"}
    events = holds_events(broker, 1)
    assert kinds(events) == ["read"]
    assert json.loads(data_of(events[0]))["after"] == wanted
    # Long enough for TOAST; what is not sent again is named, never null.
    server.do("ALTER TABLE t ALTER big SET STORAGE EXTERNAL; UPDATE t SET big = repeat('y', 9000);"
              "UPDATE t SET m = 'sad'", db)
    events = holds_events(broker, 3)
    wanted["big"] = "y" * 9000
    assert json.loads(data_of(events[1]))["after"] == wanted
    last = json.loads(data_of(events[2]))
    assert last["unavailable"] == ["big"] and "big" not in last["after"]
    server.do("ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET m = 'ok'", db)
    last = json.loads(data_of(holds_events(broker, 4)[3]))
    assert last["after"]["big"] == "y" * 9000 and last["changed"] == ["m"]


def test_confirmed_is_never_ahead_of_what_is_durable(make, server, db):
    """F35: while the broker takes nothing, nothing is confirmed; F37: idle, the slot moves on."""
    server.do("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE busy (id int)", db)
    broker = make(rest=source(server, db, "tables: [public.t], snapshot: never"),
                  shim=True).start()
    runs(broker)
    eventually(lambda: server.slot(db)["active"])
    # Nothing of interest comes, the log grows: the slot follows.
    for _ in range(2):
        server.do("INSERT INTO busy SELECT generate_series(1, 1000)", db)
        end = server.do("SELECT pg_current_wal_lsn()", db)[0][0]
        eventually(lambda: lsn(server.slot(db)["confirmed"]) >= lsn(end))
    # The journal's disk hangs: what is received is not durable and must not be confirmed.
    broker.faults("hold sync /")
    before = lsn(server.do("SELECT pg_current_wal_lsn()", db)[0][0])
    server.do("INSERT INTO t VALUES (1, 'a')", db)
    end = lsn(server.do("SELECT pg_current_wal_lsn()", db)[0][0])

    def received():
        rows = server.do("SELECT write_lsn FROM pg_stat_replication WHERE pid = (SELECT active_pid "
                         "FROM pg_replication_slots WHERE slot_name = '%s')" % db)
        return rows and rows[0][0] and lsn(rows[0][0]) >= end

    eventually(received)
    assert lsn(server.slot(db)["confirmed"]) <= before
    broker.kill()
    broker.faults()
    broker.start()
    assert kinds(holds_events(broker, 1)) == ["created"]
    end = server.do("SELECT pg_current_wal_lsn()", db)[0][0]
    eventually(lambda: lsn(server.slot(db)["confirmed"]) >= lsn(end))


def test_slot_that_is_gone_or_moved_is_refused_with_the_place(make, server, db):
    """F36 and F38."""
    server.do("CREATE TABLE t (id int PRIMARY KEY)", db)
    rest = source(server, db, "tables: [public.t]")
    broker = make(rest=rest, shim=False).start()
    runs(broker)
    server.do("INSERT INTO t VALUES (1)", db)
    holds_events(broker, 1)
    broker.stop()
    server.do("INSERT INTO t VALUES (2)", db)
    # Somebody else took what was for us.
    server.do("SELECT pg_replication_slot_advance('%s', pg_current_wal_lsn())" % db, db)
    broker.start()
    stands(broker, "T0221", "gap is possible since", "when_needed")
    assert len(stored_events(broker)) == 1
    broker.stop()
    eventually(lambda: not server.slot(db)["active"])
    server.do("SELECT pg_drop_replication_slot('%s')" % db, db)
    broker.start()
    stands(broker, "T0220", "the slot is gone", "gap is possible since")
    assert server.slot(db) is None
    # Asked for, it reads the tables again and goes on.
    broker.set_config(rest.replace("tables:", "snapshot: when_needed, tables:"))
    assert broker.run("reload").returncode == 0
    events = holds_events(broker, 3)
    assert kinds(events)[1:] == ["read", "read"]
    assert "T0220" in (told(broker)["last_error"] or "")
    server.do("INSERT INTO t VALUES (3)", db)
    assert kinds(holds_events(broker, 4))[3] == "created"


def test_another_cluster_is_never_read_on(make, server, db):
    server.do("CREATE TABLE t (id int PRIMARY KEY)", db)
    broker = make(rest=source(server, db, "tables: [public.t], snapshot: never"),
                  shim=False).start()
    runs(broker)
    server.do("INSERT INTO t VALUES (1)", db)
    holds_events(broker, 1)
    broker.stop()
    other = Postgres()
    try:
        other.do("CREATE DATABASE %s" % db)
        other.do("CREATE TABLE t (id int PRIMARY KEY)", db)
        broker.set_config(source(other, db, "tables: [public.t], snapshot: when_needed,"
                                            " on_gap: continue"))
        broker.start()
        stands(broker, "T0221", "another cluster", "sources forget in")
        assert broker.run("sources", "forget", "in", "--yes").returncode == 0
        runs(broker)
    finally:
        broker.kill()
        other.end()


def test_invalidated_slot_and_lag_limits(make, server, db):
    """The server's disk is protected by its own limit, by ours, and nobody goes on silently."""
    server.do("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE fill (v text)", db)
    rest = source(server, db, "tables: [public.t], snapshot: never, warn_slot_lag: 1,"
                              " max_slot_lag: 1MiB, at_max_slot_lag: drop_slot")
    broker = make(rest=rest, shim=False).start()
    eventually(lambda: "T0222" in (told(broker).get("last_error") or ""))
    broker.stop()
    blocker = server.connect(db)
    # A transaction that stays open keeps the slot's log.
    cursor = blocker.cursor()
    cursor.execute("BEGIN; INSERT INTO t VALUES (1)")
    server.do("INSERT INTO fill SELECT repeat('x', 1000) FROM generate_series(1, 4000)", db)
    server.do("CHECKPOINT", db)
    broker.start()
    stands(broker, "T0220", "the slot is gone")
    assert server.slot(db) is None
    assert "max_slot_lag, and was dropped" in broker.log()
    cursor.execute("ROLLBACK")
    blocker.close()


def test_check_names_every_missing_grant_and_setting(server, db, tmp_path):
    server.do("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE bare (id int);"
              "CREATE SCHEMA hidden; CREATE TABLE hidden.h (id int PRIMARY KEY)", db)
    server.do("DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN", db)
    config = tmp_path / "t.yaml"

    def check(tables, user="poor", more=""):
        config.write_text(source(server, db, "tables: [%s]%s" % (tables, more), user=user))
        done = subprocess.run([TOCSIN, "sources", "check", "-c", str(config), "-o", "json"],
                              capture_output=True, text=True, timeout=60, check=False)
        return json.loads(done.stdout)[0]

    answer = check("public.t, hidden.h, public.none")
    assert answer["ok"] is False
    for words in ["T0223", "ALTER ROLE \"poor\" REPLICATION", "GRANT CREATE ON DATABASE",
                  "does not own public.t", "GRANT USAGE ON SCHEMA \"hidden\" TO \"poor\"",
                  "GRANT SELECT ON \"public\".\"t\" TO \"poor\"", "there is no table public.none"]:
        assert words in answer["message"], (words, answer)
    # What it names is enough.
    server.do("ALTER ROLE poor REPLICATION; GRANT SELECT ON t TO poor;"
              "CREATE PUBLICATION given FOR TABLE t", db)
    answer = check("public.t", more=", publication: given")
    assert answer["ok"] is True, answer
    assert "will be made" in answer["message"]
    answer = check("public.bare", "postgres")
    assert answer["ok"] is True and "no snapshot without a primary key" in answer["message"]
    assert "refuses updates and deletes of: public.bare" in answer["message"]
    server.do("DROP OWNED BY poor; DROP ROLE poor", db)


def test_least_privilege_is_enough(make, server, db):
    server.do("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);"
              "CREATE ROLE reader LOGIN REPLICATION; GRANT SELECT ON t TO reader;"
              "CREATE PUBLICATION given FOR TABLE t", db)
    broker = make(rest=source(server, db, "tables: [public.t], publication: given",
                              user="reader"), shim=False).start()
    assert kinds(holds_events(broker, 1)) == ["read"]
    server.do("INSERT INTO t VALUES (2)", db)
    assert kinds(holds_events(broker, 2))[1] == "created"
    broker.kill()
    server.do("DROP OWNED BY reader; DROP ROLE reader", db)


def test_snapshot_goes_on_behind_a_kill_beside_a_busy_table(make, server, db):
    rows = max(ROWS, 3000)
    server.do("CREATE TABLE t (id int PRIMARY KEY, v int, w text); INSERT INTO t SELECT g, 0, "
              "repeat('x', 50) FROM generate_series(1, %d) g;"
              "CREATE TABLE pair (a text, id int, v int, PRIMARY KEY (a, id));"
              "INSERT INTO pair SELECT 'k' || g %% 7, g, 0 FROM generate_series(1, 200) g;"
              "CREATE TABLE bare (v int)" % rows, db)
    broker = make(rest=source(server, db, "tables: [\"public.*\"], chunk_rows: 200,"
                                          " snapshot_rate: %d" % max(rows // 4, 750)),
                  shim=False).start()
    stop = threading.Event()

    def change(seed):
        chance = random.Random(seed)
        with contextlib.closing(server.connect(db)) as connection:
            cursor = connection.cursor()
            while not stop.is_set():
                number = chance.randint(1, rows)
                cursor.execute(chance.choice([
                    "UPDATE t SET v = v + 1 WHERE id = %d", "DELETE FROM t WHERE id = %d",
                    "INSERT INTO t VALUES (%d, 7, 'new') ON CONFLICT (id) DO UPDATE SET v = 8",
                    "UPDATE pair SET v = v + 1 WHERE id = %d"]) % number)

    writers = [threading.Thread(target=change, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(2):
            eventually(lambda: "snapshot" in (told(broker).get("position") or "")
                       and len(stored_events(broker)) > 50)
            broker.kill()
            broker.start()
        eventually(lambda: told(broker).get("state") == "running"
                   and "snapshot" not in (told(broker).get("position") or "snapshot"), 120)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert "T0224" in told(broker)["last_error"]  # bare has no key
    wait_until_read(broker, server, db)
    events = stored_events(broker)
    mirror = LenientMirror().apply(events)
    same_rows(mirror, server, db, "t")
    same_rows(mirror, server, db, "pair")
    assert broker.metric("tocsin_source_snapshot_tables_left") == 0


def test_only_a_snapshot_finishes(make, server, db):
    server.do("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 500)",
              db)
    broker = make(rest=source(server, db, "tables: [public.t], snapshot: only"),
                  shim=False).start()
    eventually(lambda: told(broker).get("state") == "finished")
    assert len(stored_events(broker)) == 500
    broker.stop()
    broker.start()
    eventually(lambda: told(broker).get("state") == "finished")
    assert len(stored_events(broker)) == 500
    assert server.slot(db) is None


def test_table_that_is_added_later_is_read_alone(make, server, db):
    server.do("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);"
              "CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1), (2)", db)
    broker = make(rest=source(server, db, "tables: [public.a]"), shim=False).start()
    holds_events(broker, 1)
    broker.set_config(source(server, db, "tables: [public.a, public.b]"))
    assert broker.run("reload").returncode == 0
    events = holds_events(broker, 3)
    assert [attributes_of(one)["subject"] for one in events] == ["public.a", "public.b", "public.b"]


def test_workload_with_kills_of_both_gives_exactly_the_tables(make, server, db):
    """F39, F40: writers, savepoints, rollbacks, key changes, DDL, one large transaction."""
    server.do("CREATE TABLE t (id int PRIMARY KEY, v int, big text);"
              "ALTER TABLE t ALTER big SET STORAGE EXTERNAL;"
              "CREATE TABLE f (id int PRIMARY KEY, v text); ALTER TABLE f REPLICA IDENTITY FULL",
              db)
    broker = make(rest=source(server, db, "tables: [public.t, public.f]"), shim=False).start()
    runs(broker)
    chance = random.Random(int(os.environ.get("TOCSIN_SEED", "1")))
    written = [0]
    stop = threading.Event()

    def write(seed):
        mine = random.Random(seed)
        connection = None
        number = 0
        while not stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = server.connect(db)
                cursor = connection.cursor()
                cursor.execute("BEGIN")
                for _ in range(mine.randint(1, 6)):
                    number += 1
                    key = mine.randint(0, 150) * 3 + seed
                    text = mine.choice([
                        "INSERT INTO t VALUES (%d, %d, repeat('b', 3000)) ON CONFLICT (id) DO "
                        "UPDATE SET v = EXCLUDED.v", "UPDATE t SET v = %d WHERE id = %d",
                        "DELETE FROM t WHERE id = %d",
                        "UPDATE t SET id = id + 1000000 WHERE id = %d AND NOT EXISTS (SELECT FROM "
                        "t x WHERE x.id = t.id + 1000000)",
                        "INSERT INTO f VALUES (%d, '%d') ON CONFLICT (id) DO UPDATE SET v = 'u' || "
                        "f.v", "SAVEPOINT s; DELETE FROM t WHERE id %% 3 = %d; ROLLBACK TO s",
                        "SAVEPOINT s; INSERT INTO f VALUES (%d, 's%d') ON CONFLICT DO NOTHING; "
                        "RELEASE s"])
                    if text.count("%d") == 2:
                        order = (number, key) if text.startswith("UPDATE") else (key, number)
                        text %= order
                    else:
                        text %= seed if "SAVEPOINT" in text else key
                    cursor.execute(text)
                cursor.execute("ROLLBACK" if mine.random() < 0.15 else "COMMIT")
                written[0] += 1
            except psycopg2.Error:
                if connection is not None:
                    connection.close()
                connection = None

    def large():
        with contextlib.suppress(psycopg2.Error):
            server.do("BEGIN; INSERT INTO f SELECT g, 'large' FROM generate_series(10000000, %d) g;"
                      " SAVEPOINT a; DELETE FROM f WHERE id >= 10000000 AND id %% 2 = 0; ROLLBACK "
                      "TO a; UPDATE f SET v = 'changed' WHERE id >= 10000000 AND id %% 10 = 0;"
                      " COMMIT" % (10000000 + ROWS - 1), db)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for writer in writers:
        writer.start()
    try:
        for round_number in range(4):
            goal = written[0] + 40 + chance.randint(0, 60)
            eventually(lambda: written[0] >= goal, 120)
            if round_number == 1:
                server.kill()
                server.start()
            else:
                broker.kill()
                broker.start()
            if round_number == 2:
                large()
                server.do("ALTER TABLE t ADD COLUMN extra int DEFAULT 5", db)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    wait_until_read(broker, server, db)
    mirror = Mirror().apply(stored_events(broker))
    # The default of a column that is added is in no change.
    for row in mirror.tables["public.t"].values():
        row.setdefault("extra", 5)
    same_rows(mirror, server, db, "t")
    same_rows(mirror, server, db, "f")
    assert len(mirror.tables["public.f"]) >= ROWS
    assert broker.metric("tocsin_source_undecodable_total") == 0
    assert broker.mib() < 400 * MEMORY


def test_outbox_example_calls_once_per_committed_row(server, db, tmp_path):
    folder = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "outbox")
    with open(os.path.join(folder, "schema.sql"), encoding="utf-8") as schema:
        server.do(schema.read(), db)
    with open(os.path.join(folder, "tocsin.yaml"), encoding="utf-8") as example:
        rest = example.read().split("version: 1\n", 1)[1]
    ledger = tmp_path / "ledger"
    ledger.touch()
    rest = rest.replace("${env:OUTBOX_DB}", server.url(db)).replace(
        "snapshot: never", "snapshot: never\n      slot: %s" % db)
    broker = Broker(tmp_path, rest=rest, shim=False).start()
    worker = subprocess.Popen(["/usr/bin/python3", os.path.join(folder, "worker.py")],
                              env=dict(os.environ, OUTBOX_LEDGER=str(ledger),
                                       TOCSIN_TARGET=broker.target))
    try:
        eventually(lambda: (source_status(broker, "outbox") or {}).get("state") == "running")
        for number in range(1, 9):
            server.do("BEGIN; INSERT INTO orders VALUES (%d, 'c%d', 1); INSERT INTO outbox "
                      "(order_id, kind, payload) VALUES (%d, 'placed', '{\"customer\": \"c%d\"}');"
                      " DELETE FROM outbox; %s"
                      % ((number,) * 4 + ("ROLLBACK" if number % 4 == 0 else "COMMIT",)), db)
        wanted = ["%d c%d" % (n, n) for n in range(1, 9) if n % 4]
        eventually(lambda: len(ledger.read_text().splitlines()) >= len(wanted))
        eventually(lambda: broker.books("tell-customers").acked == len(wanted))
        assert sorted(ledger.read_text().splitlines()) == wanted
    finally:
        worker.terminate()
        worker.wait(20)
        broker.end()

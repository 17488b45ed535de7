"""A real PostgreSQL for tests: a cluster of its own on a free port, in a directory of its own; and
what tests of its sources share.

PostgreSQL refuses to run as root: then it runs as the user `postgres`. What is missing fails:
deploy/install-deps --tests installs it.
"""

import contextlib
import glob
import itertools
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile

import psycopg2
import pytest
from fault_rig import Broker, eventually, one_trigger
from queue_rig import attributes_of, data_of, free_port, source_status, stored_events

SETTINGS = {"wal_level": "logical", "fsync": "off", "max_replication_slots": "12",
            "max_wal_senders": "12", "wal_sender_timeout": "5s", "log_min_messages": "warning",
            "logical_decoding_work_mem": "64kB", "max_prepared_transactions": "2"}


def program(name):
    # What Debian has in the path is a wrapper that looks for clusters of its own.
    found = max(glob.glob("/usr/lib/postgresql/*/bin/" + name), default=None) or shutil.which(name)
    assert found, name + " is missing: run deploy/install-deps --tests"
    return found


class Postgres:
    """One cluster; what it holds outlives kill() and start()."""

    def __init__(self, standby_of=None, **settings):
        self.dir = tempfile.mkdtemp(prefix="tocsin-postgres-")
        self.data = os.path.join(self.dir, "data")
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user:
            found = pwd.getpwnam(self.user)
            os.chown(self.dir, found.pw_uid, found.pw_gid)
        self.port = free_port()
        self.process = None
        self.settings = dict(SETTINGS, **settings)
        if standby_of is None:
            self.command("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "--no-sync",
                         "-E", "UTF8", "--locale=C.UTF-8")
        else:
            self.command("pg_basebackup", "-D", self.data, "-h", "127.0.0.1", "-p",
                         str(standby_of.port), "-U", "postgres", "-R", "-c", "fast", "--no-sync")
        self.start()

    def back_up(self):
        """A copy of its files, of a cluster that is stopped."""
        self.command("cp", "-a", self.data, self.data + ".backup")

    def restore(self):
        shutil.rmtree(self.data)
        os.rename(self.data + ".backup", self.data)

    def command(self, name, *words):
        done = subprocess.run([program(name), *words], user=self.user, cwd=self.dir,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self):
        words = [program("postgres"), "-D", self.data, "-p", str(self.port), "-h", "127.0.0.1",
                 "-k", self.dir]
        for name, value in self.settings.items():
            words += ["-c", "%s=%s" % (name, value)]
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen(words, user=self.user, cwd=self.dir, stdout=log,
                                            stderr=log)

        def answers():
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(psycopg2.OperationalError):
                self.connect().close()
                return True
            return False

        eventually(answers, 60)
        return self

    def log(self):
        with open(os.path.join(self.dir, "log"), encoding="utf-8", errors="replace") as lines:
            return lines.read()

    def kill(self):
        """As a crash of the server: its postmaster and, by that, all of its processes."""
        self._end(signal.SIGKILL)
        # The shared memory is free when the last process is gone.
        pid = os.path.join(self.data, "postmaster.pid")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(pid)

    def stop(self):
        self._end(signal.SIGINT)

    def _end(self, how):
        if self.process is None or self.process.poll() is not None:
            return
        group = [int(pid) for pid in subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True,
            check=False).stdout.split()]
        self.process.send_signal(how)
        self.process.wait(60)

        def alive(pid):
            with contextlib.suppress(OSError):
                with open("/proc/%d/cmdline" % pid, "rb") as told:
                    return told.read().startswith((b"postgres", program("postgres").encode()))
            return False

        eventually(lambda: not any(alive(pid) for pid in group), 60)

    def end(self):
        self._end(signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def connect(self, database="postgres", user="postgres"):
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, dbname=database, user=user,
                                      connect_timeout=10, options="-c statement_timeout=120s")
        connection.autocommit = True
        return connection

    def url(self, database, user="postgres"):
        return "postgresql://%s@127.0.0.1:%d/%s" % (user, self.port, database)

    def do(self, sql, database="postgres", user="postgres"):
        """All rows of the last statement."""
        with contextlib.closing(self.connect(database, user)) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def slot(self, name):
        rows = self.do("SELECT active, wal_status, confirmed_flush_lsn, restart_lsn FROM "
                       "pg_replication_slots WHERE slot_name = '%s'" % name)
        names = ("active", "wal_status", "confirmed", "restart")
        return dict(zip(names, rows[0])) if rows else None

    def drop_database(self, name):
        for (slot,) in self.do("SELECT slot_name FROM pg_replication_slots WHERE database = '%s'"
                               % name):
            self.do("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE "
                    "slot_name = '%s'" % slot)
            eventually(lambda one=slot: not (self.slot(one) or {}).get("active"))
            with contextlib.suppress(psycopg2.Error):
                self.do("SELECT pg_drop_replication_slot('%s')" % slot)
        self.do('DROP DATABASE "%s" WITH (FORCE)' % name)


def lsn(text):
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


_NUMBER = itertools.count()


@pytest.fixture(name="server", scope="module")
def fixture_server():
    server = Postgres()
    yield server
    server.end()


@pytest.fixture(name="db")
def fixture_db(server):
    """A database of its own: its name."""
    name = "d%d" % next(_NUMBER)
    server.do("CREATE DATABASE %s" % name)
    yield name
    server.drop_database(name)


@pytest.fixture(name="make")
def fixture_make(db, tmp_path):
    """Brokers that end before their database does."""
    assert db
    made = []

    def make(**options):
        made.append(Broker(tmp_path, **options))
        return made[-1]

    yield make
    for broker in made:
        broker.end()


def source(server, db, keys, event="", user="postgres"):
    """The slot's name is the database's: slots are the cluster's."""
    return ("sources:\n  in:\n    backoff_max: 200ms\n%s"
            "    postgres: { url: \"%s\", slot: %s, heartbeat: 200ms, timeout: 5s, %s }\n"
            % (event and "    event: %s\n" % event, server.url(db, user), db, keys)) + one_trigger()


def snapshot_over(broker):
    """It runs, and every table that is to be read was read."""
    def over():
        status = told(broker)
        position = status.get("position") or "snapshot"
        return status.get("state") == "running" and "snapshot" not in position
    try:
        eventually(over, 60)
    except AssertionError:
        raise AssertionError(told(broker)) from None


def told(broker):
    return source_status(broker, "in") or {}


def runs(broker):
    eventually(lambda: told(broker).get("state") == "running")


def stands(broker, *words):
    """The source waits, and says why."""
    def holds():
        status = told(broker)
        return status.get("state") == "waiting" and all(
            word in (status.get("last_error") or "") for word in words)
    try:
        return eventually(holds)
    except AssertionError:
        raise AssertionError(told(broker)) from None


def holds_events(broker, count, within=30.0):
    try:
        eventually(lambda: len(stored_events(broker)) >= count, within)
    except AssertionError:
        raise AssertionError((told(broker), len(stored_events(broker)))) from None
    events = stored_events(broker)
    assert len(events) == count, [(one.id, one.type) for one in events]
    return events


def kinds(events):
    return [one.type.rsplit(".", 1)[1] for one in events]


class Mirror:
    """The tables as their events say, and that each event came once and in order."""

    def __init__(self):
        self.tables = {}
        self.last = ""
        self.moved = {}

    def apply(self, events):
        seen = set()
        for one in events:
            assert one.id not in seen, one.id
            seen.add(one.id)
            if one.type.endswith(".message"):
                continue
            data = json.loads(data_of(one))
            attributes = attributes_of(one)
            table = self.tables.setdefault(attributes["subject"], {})
            kind = one.type.rsplit(".", 1)[1]
            if kind != "read":
                assert attributes["sequence"] > self.last, (attributes["sequence"], self.last)
                self.last = attributes["sequence"]
            key = attributes.get("partitionkey")
            if kind == "truncated":
                table.clear()
            elif kind == "deleted":
                gone = table.pop(key)
                if "key_changed_to" in data:
                    self.moved[attributes["subject"]] = gone
            elif kind == "updated":
                table[key].update(data["after"])
            elif kind == "created":
                assert key not in table, (one.id, key)
                row = self.moved.pop(attributes["subject"]) if "key_changed_from" in data else {}
                row.update(data["after"])
                table[key] = row
            else:
                assert kind == "read"
                table[key] = data["after"]
        return self


def source_rows(server, db, table):
    return [row for (row,) in server.do("SELECT to_jsonb(t) FROM %s t ORDER BY id" % table, db)]


def same_rows(mirror, server, db, table):
    got = sorted(mirror.tables.get("public." + table, {}).values(), key=lambda row: row["id"])
    wanted = source_rows(server, db, table)
    assert len(got) == len(wanted), (len(got), len(wanted))
    for ours, theirs in zip(got, wanted):
        assert ours == theirs


class LenientMirror(Mirror):
    """Beside a snapshot, changes before its rows may be of rows that are not known yet."""

    def apply(self, events):
        seen = set()
        for one in events:
            attributes = attributes_of(one)
            data = json.loads(data_of(one))
            assert one.id not in seen, one.id
            seen.add(one.id)
            table = self.tables.setdefault(attributes["subject"], {})
            if one.type.endswith("deleted"):
                table.pop(attributes["partitionkey"], None)
            else:
                table.setdefault(attributes["partitionkey"], {}).update(data["after"])
        return self


def wait_until_read(broker, server, db):
    """Everything committed until now is durable: the slot says so."""
    end = server.do("SELECT pg_current_wal_lsn()", db)[0][0]
    eventually(lambda: lsn(server.slot(db)["confirmed"]) >= lsn(end), 600)

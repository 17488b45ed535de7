"""A real PostgreSQL for tests: a cluster of its own on a free port, in a directory of its own.

PostgreSQL refuses to run as root: then it runs as the user `postgres`. What is missing fails:
deploy/install-deps --tests installs it.
"""

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile

import psycopg2
from fault_rig import eventually
from queue_rig import free_port

SETTINGS = {"wal_level": "logical", "fsync": "off", "max_replication_slots": "12",
            "max_wal_senders": "12", "wal_sender_timeout": "5s", "log_min_messages": "warning",
            "logical_decoding_work_mem": "64kB", "max_prepared_transactions": "2"}


def program(name):
    found = shutil.which(name) or max(glob.glob("/usr/lib/postgresql/*/bin/" + name), default=None)
    assert found, name + " is missing: run deploy/install-deps --tests"
    return found


class Postgres:
    """One cluster; what it holds outlives kill() and start()."""

    def __init__(self, **settings):
        self.dir = tempfile.mkdtemp(prefix="tocsin-postgres-")
        self.data = os.path.join(self.dir, "data")
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user:
            found = pwd.getpwnam(self.user)
            os.chown(self.dir, found.pw_uid, found.pw_gid)
        self.port = free_port()
        self.process = None
        self.settings = dict(SETTINGS, **settings)
        self.command("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "--no-sync",
                     "-E", "UTF8", "--locale=C.UTF-8")
        self.start()

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

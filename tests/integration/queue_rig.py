"""Real servers of queues for tests: redis-server on a free port, in a directory of its own.

What is missing fails: deploy/install-deps --tests installs it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess

from fault_rig import CloudEvent, eventually, message

WAIT_MAX = 20.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def attributes_of(event):
    """All attributes of a stored event, as text."""
    found = {"id": event.id, "source": event.source, "type": event.type}
    for name, value in event.attributes.items():
        kind = value.WhichOneof("attr")
        found[name] = getattr(value, kind) if kind else None
    return found


def data_of(event):
    return event.text_data or event.binary_data.decode()


def stored_events(broker, within=1200.0):
    """All that are stored, in order; there may be a million."""
    call = broker._channel.unary_stream("/tocsin.v1.Admin/Tail", lambda raw: raw,
                                        message("TailEvent").FromString)
    sent = message("TailRequest")(**{"from": "start"}).SerializeToString()
    return [CloudEvent.FromString(one.event) for one in call(sent, timeout=within)]


def source_status(broker, name, lane=""):
    import json
    told = broker.run("sources", "-o", "json")
    assert told.returncode == 0, told.stderr
    for one in json.loads(told.stdout):
        if one["name"] == name and one["lane"] == lane:
            return one
    return None


class Redis:
    """One redis-server; what it holds outlives kill() and start()."""

    def __init__(self, directory, *settings):
        self.dir = os.path.join(str(directory), "redis")
        os.makedirs(self.dir, exist_ok=True)
        self.port = free_port()
        self.settings = settings
        self.process = None
        self.start()

    @property
    def url(self):
        return "redis://127.0.0.1:%d" % self.port

    def start(self):
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: run deploy/install-deps --tests"
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen(
                [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.dir,
                 "--save", "", "--appendonly", "yes", "--appendfsync", "always", *self.settings],
                stdout=log, stderr=log)

        def answers():
            assert self.process.poll() is None, "redis-server ended"
            with contextlib.suppress(OSError, RedisError):
                return self.do("PING") == "PONG"
            return False

        eventually(answers)
        return self

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(WAIT_MAX)

    def connect(self, user=None, password=None):
        return RedisClient(self.port, user, password)

    def do(self, *words):
        with self.connect() as client:
            return client.do(*words)

    def many(self, commands):
        with self.connect() as client:
            return client.many(commands)


class RedisError(Exception):
    pass


class RedisClient:
    """Just enough of RESP2."""

    def __init__(self, port, user=None, password=None):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_MAX)
        self._file = self._socket.makefile("rb")
        if password:
            self.do("AUTH", *([user] if user else []), password)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._socket.close()

    @staticmethod
    def _encode(words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)

    def _read(self):
        line = self._file.readline()
        if not line:
            raise RedisError("closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        count = int(rest)
        if kind == b"$":
            return None if count < 0 else self._file.read(count + 2)[:-2]
        return None if count < 0 else [self._read() for _ in range(count)]

    def do(self, *words):
        self._socket.sendall(self._encode(words))
        return self._read()

    def many(self, commands, at_once=2000):
        answers = []
        for begin in range(0, len(commands), at_once):
            some = commands[begin:begin + at_once]
            self._socket.sendall(b"".join(self._encode(words) for words in some))
            answers += [self._read() for _ in some]
        return answers

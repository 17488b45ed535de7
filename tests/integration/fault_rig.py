"""The real `tocsin serve` under faults: start, stop, kill, raw gRPC, its files.

The tests that use it are run by ctest with TOCSIN (the program), TOCSIN_SHIM (the library of
fault_shim.cc) and TOCSIN_PROTOS (a descriptor set of proto/) in the environment.
"""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
import zlib

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# A sanitized broker takes several times the memory.
MEMORY = 8 if os.environ.get("TOCSIN_SANITIZE") else 1
TOCSIN = os.environ["TOCSIN"]
SHIM = os.environ["TOCSIN_SHIM"]
WAIT_MAX = 20.0
START_MAX = 120.0  # recovery reads a log that may be long, on a machine that may be busy


def _pool():
    pool = descriptor_pool.DescriptorPool()
    with open(os.environ["TOCSIN_PROTOS"], "rb") as stored:
        files = descriptor_pb2.FileDescriptorSet.FromString(stored.read())
    for file in files.file:
        pool.Add(file)
    return message_factory.MessageFactory(pool), pool


_FACTORY, _POOL = _pool()


def message(name):
    package = "io.cloudevents.v1." if name == "CloudEvent" else "tocsin.v1."
    return _FACTORY.GetPrototype(_POOL.FindMessageTypeByName(package + name))


CloudEvent = message("CloudEvent")
PublishRequest = message("PublishRequest")
PublishResponse = message("PublishResponse")
WorkerFrame = message("WorkerFrame")
BrokerFrame = message("BrokerFrame")

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def event(name, key="", kind="test.event", data="d"):
    made = CloudEvent(id=name, source="/test", spec_version="1.0", type=kind, text_data=data)
    if key:
        made.attributes["partitionkey"].ce_string = key
    return made.SerializeToString()


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    """A length-delimited field, as raw bytes."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def request(events, sequence=0, from_refused=False):
    """A PublishRequest whose events are raw bytes, well-formed or not."""
    head = PublishRequest(sequence=sequence, from_refused=from_refused).SerializeToString()
    return head + b"".join(field(2, one) for one in events)


def eventually(holds, within=WAIT_MAX):
    """Asks until it holds; each question goes to the broker, so this does not spin."""
    deadline = time.monotonic() + within
    pause = threading.Event()
    while True:
        answer = holds()
        if answer:
            return answer
        assert time.monotonic() < deadline, "not in time"
        pause.wait(0.02)


class Shortfall(AssertionError):
    """What a test with a known defect is expected to end with, and nothing else."""


def shall(holds, within):
    """What the broker does not do yet."""
    try:
        return eventually(holds, within)
    except AssertionError:
        raise Shortfall("it does not") from None


class Broker:
    """One data directory and the process that serves it, one at a time."""

    def __init__(self, directory, rest="", broker="", shim=True, partitions=1):
        self.partitions = partitions
        self.dir = str(directory)
        self.data = os.path.join(self.dir, "data")
        self.config = os.path.join(self.dir, "t.yaml")
        self.faults_path = os.path.join(self.dir, "faults")
        self.set_config(rest or one_trigger(), broker)
        self.env = dict(os.environ)
        if shim:
            self.env.update(LD_PRELOAD=SHIM, TOCSIN_FAULTS=self.faults_path,
                            TOCSIN_SKIP_ZEROS="1")
            # A sanitized broker asks to have its runtime first; it finds the calls all the same.
            options = self.env.get("ASAN_OPTIONS", "")
            self.env["ASAN_OPTIONS"] = f"{options}:verify_asan_link_order=0".lstrip(":")
        self.process = None
        self.log_path = os.path.join(self.dir, "log")
        self.target = ""
        self._channel = None

    def set_config(self, rest, broker=""):
        with open(self.config, "w", encoding="utf-8") as out:
            out.write("version: 1\nbroker:\n  data_dir: %s\n  listen: 127.0.0.1:0\n"
                      "  http: 127.0.0.1:0\n  partitions: %d\n%s%s"
                      % (self.data, self.partitions, broker, rest))

    def faults(self, *lines):
        temporary = self.faults_path + ".new"
        with open(temporary, "w", encoding="utf-8") as out:
            out.write("".join(line + "\n" for line in lines))
        os.rename(temporary, self.faults_path)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as lines:
            return lines.read()

    # --- the process ---
    def start(self, *flags):
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([TOCSIN, "serve", "-c", self.config, *flags],
                                            env=self.env, stdout=log, stderr=log)

        def endpoints():
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                with open(os.path.join(self.data, "endpoints.json"), encoding="utf-8") as file:
                    told = json.load(file)
                return told if told["pid"] == self.process.pid else None
            return None

        told = eventually(endpoints, START_MAX)
        self.target, self.http = told["grpc"], told["http"]
        self._channel = grpc.insecure_channel(
            self.target, options=[("grpc.use_local_subchannel_pool", 1)])
        return self

    def refused(self, *flags):
        """Starts it and expects that it refuses; what it said."""
        ended = subprocess.run([TOCSIN, "serve", "-c", self.config, *flags], env=self.env,
                               capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 1, (ended.returncode, ended.stderr)
        return ended.stderr

    def kill(self):
        self._close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_MAX)

    def stop(self):
        self._close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_MAX) == 0, self.log()

    def end(self):
        """Ends it whatever its state, and frees the disk."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def _close(self):
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # --- calls ---
    def run(self, *words, data=None):
        return subprocess.run([TOCSIN, *words], env=dict(os.environ, TOCSIN_TARGET=self.target),
                              input=data, capture_output=True, timeout=60, check=False)

    def call(self, method, sent, answer):
        return self._channel.unary_unary(
            "/tocsin.v1." + method, lambda raw: raw,
            answer.FromString)(sent, timeout=WAIT_MAX, metadata=[("tocsin-refs", "1")])

    def publish_raw(self, sent):
        return self.call("Publisher/Publish", sent, PublishResponse)

    def publish(self, *events):
        return self.publish_raw(request(events))

    def accepted(self, *events):
        answer = self.publish(*events)
        return answer.accepted == len(events)

    def stream(self):
        return Stream(self._channel)

    def worker(self, function="work", **hello):
        return Worker(self._channel, function, **hello)

    def books(self, trigger="all"):
        answer = self.call("Admin/ListTriggers", b"", message("ListTriggersResponse"))
        return next(one for one in answer.triggers if one.name == trigger)

    def status(self):
        return self.call("Admin/Status", b"", message("StatusResponse"))

    def list(self, method, sent, answer):
        call = self._channel.unary_stream("/tocsin.v1." + method, lambda raw: raw,
                                          message(answer).FromString)
        return list(call(sent.SerializeToString(), timeout=WAIT_MAX))

    def letters(self):
        return self.list("Admin/ListLetters", message("ListLettersRequest")(with_event=True),
                         "Letter")

    def stored(self):
        """All stored events as `tail` shows them, with their triggers."""
        return self.list("Admin/Tail", message("TailRequest")(**{"from": "start"}), "TailEvent")

    def tail(self):
        """The ids of all stored events."""
        return [id_of(one) for one in self.stored()]

    def stores(self, *ids):
        """Exactly these; a publisher may be answered a moment before others see its event."""
        try:
            return eventually(lambda: self.tail() == list(ids), within=5)
        except AssertionError:
            raise AssertionError("%s and not %s" % (self.tail(), list(ids))) from None

    def metric(self, name):
        with urllib.request.urlopen("http://%s/metrics" % self.http, timeout=WAIT_MAX) as answer:
            lines = answer.read().decode().splitlines()
        values = [float(line.rsplit(" ", 1)[1]) for line in lines
                  if line.startswith((name + " ", name + "{"))]
        assert values, name
        return sum(values)

    # --- what it uses ---
    def mib(self, what="VmHWM"):
        """Its memory, from /proc: VmHWM is the most it ever had."""
        with open("/proc/%d/status" % self.process.pid, encoding="ascii") as lines:
            line = next(one for one in lines if one.startswith(what + ":"))
        return int(line.split()[1]) / 1024

    def cpu_seconds(self):
        with open("/proc/%d/stat" % self.process.pid, encoding="ascii") as line:
            words = line.read().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.process.pid))

    # --- files ---
    def files(self, folder, suffix=""):
        where = os.path.join(self.data, folder)
        names = os.listdir(where) if os.path.isdir(where) else []
        return sorted(os.path.join(where, name) for name in names if name.endswith(suffix))

    def stamps(self):
        """Size and checksum of every file of the data, for "nothing was changed"."""
        found = {}
        for root, _, names in os.walk(self.data):
            for name in names:
                if name != "lock":
                    with open(os.path.join(root, name), "rb") as file:
                        content = file.read()
                    found[os.path.join(root, name)] = (len(content), zlib.crc32(content))
        return found


def one_trigger(more=""):
    return "functions: { work: {} }\ntriggers:\n  all:\n    function: work\n" + more


def flip_bit(path, place, bit=0):
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0] ^ (1 << bit)
        file.seek(place)
        file.write(bytes([byte]))


class Stream:
    """A PublishStream on which anything can be sent."""

    def __init__(self, channel):
        self._sent = queue.Queue()
        self._call = channel.stream_stream(
            "/tocsin.v1.Publisher/PublishStream", lambda raw: raw,
            PublishResponse.FromString)(iter(self._sent.get, None), timeout=WAIT_MAX)

    def send(self, raw):
        self._sent.put(raw)

    def read(self):
        return next(self._call)

    def end(self):
        """Closes our side; the status of the call after its last answer."""
        self._sent.put(None)
        with contextlib.suppress(grpc.RpcError):
            list(self._call)
        return self._call.code()


class Worker:
    """A worker that says what the test tells it to, valid or not."""

    def __init__(self, channel, function, credit=100, name="test"):
        self._sent = queue.Queue()
        self._frames = queue.Queue()
        hello = WorkerFrame()
        hello.hello.protocol = 1
        hello.hello.worker = name
        hello.hello.functions.append(function)
        hello.hello.credit.events = credit
        self._sent.put(hello.SerializeToString())
        self._call = channel.stream_stream(
            "/tocsin.v1.Worker/Attach", lambda raw: raw,
            BrokerFrame.FromString)(iter(self._sent.get, None), timeout=60)
        self.deliveries, self.refused, self.cancelled = [], 0, []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.next_frame().HasField("welcome")

    def _read(self):
        with contextlib.suppress(grpc.RpcError):
            for frame in self._call:
                self._frames.put((frame, time.monotonic()))
        self._frames.put((None, time.monotonic()))

    def next_frame(self, within=WAIT_MAX):
        """The next frame, None at the end of the stream; queue.Empty if none comes."""
        frame, self.came = self._frames.get(timeout=within)
        if frame is None:
            return None
        self.deliveries.extend(frame.deliveries.deliveries)
        self.cancelled.extend(frame.cancel.handles)
        self.refused += frame.refused.count
        return frame

    def take(self, count=1, within=WAIT_MAX):
        """Waits for that many deliveries."""
        while len(self.deliveries) < count:
            assert self.next_frame(within) is not None, "the stream ended"
        taken, self.deliveries = self.deliveries[:count], self.deliveries[count:]
        return taken

    def until(self, holds, within=WAIT_MAX):
        while not holds():
            assert self.next_frame(within) is not None, "the stream ended"

    def send(self, frame):
        self._sent.put(frame.SerializeToString())

    def send_raw(self, raw):
        self._sent.put(raw)

    def heartbeat(self):
        frame = WorkerFrame()
        frame.heartbeat.SetInParent()
        self.send(frame)

    def ack(self, *handles, started=0):
        frame = WorkerFrame()
        for handle in handles:
            acked = frame.answers.acked.add()
            acked.first = acked.last = handle
        frame.answers.started_through = started
        self.send(frame)

    def answer(self, delivery, outcome, **fields):
        frame = WorkerFrame()
        other = frame.answers.others.add()
        other.handle = delivery.handle
        getattr(other, outcome).SetInParent()
        for name, value in fields.items():
            setattr(getattr(other, outcome), name, value)
        self.send(frame)

    def started(self, delivery):
        frame = WorkerFrame()
        frame.answers.started_through = delivery.handle
        self.send(frame)

    def code(self):
        """The status with which the broker ended the stream."""
        while self.next_frame() is not None:
            pass
        return self._call.code()

    def close(self):
        self._sent.put(None)
        self._call.cancel()


def id_of(delivery):
    return CloudEvent.FromString(delivery.event).id


@pytest.fixture(name="make")
def fixture_make(tmp_path):
    """Makes brokers that end with the test; for a module that imports it."""
    made = []

    def make(**options):
        made.append(Broker(tmp_path, **options))
        return made[-1]

    yield make
    for broker in made:
        broker.end()

#!/usr/bin/python3
"""How late schedules fire, what a million of them take, how soon local functions begin.

  lateness    100,000 armed, some of which fire while the bench runs, idle and under publishes:
              from an instant to the arrival of its durable event at a worker
  million     resident memory with a million armed; processor time while nothing happens
  burst       100,000 at one instant: until the last is durable; publishes meanwhile
  cold        from a publish to the function's first instruction: `exec` of a shell and of
              Python; `run` of a native worker of ours (`tocsin work`) and of a Python worker, none
              of which is running: both load gRPC and attach

  scale       no worker of a `run` function, 60 events at once of a tenth of a second each, four
              workers at most: to the first event, to the last, and until all workers are gone

Prints a row of JSON per figure: row (of the list of targets), case, ours, peer (the floor or what
else is known), ratio, unit. Run it on a quiet machine; TOCSIN and TOCSIN_PROTOS are needed (see
tests/bench/CMakeLists.txt).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

from fault_rig import (Broker, CloudEvent, event, eventually, field, message,  # noqa: E402
                       request, varint)

PAUSE = threading.Event()
ROWS = []


def row(name, case, ours, peer, peer_name, unit):
    ratio = ours / peer if peer else None
    told = {"row": name, "case": case, "ours": round(ours, 4), "peer": peer,
            "peer_name": peer_name, "ratio": None if ratio is None else round(ratio, 3),
            "unit": unit}
    ROWS.append(told)
    print(json.dumps(told), flush=True)


def write_rows(path):
    if path:
        with open(path, "w", encoding="utf-8") as out:
            json.dump(ROWS, out, indent=1)


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))]


def one_schedule(name, at_us):
    """A Schedule{name, at_us}, encoded by hand: a million of them by the library take a minute."""
    return field(1, field(1, name.encode()) + b"\x18" + varint(at_us))


def add(broker, names_and_times, batch=5000):
    for first in range(0, len(names_and_times), batch):
        sent = b"".join(one_schedule(*one) for one in names_and_times[first:first + batch])
        answer = broker.call("Admin/AddSchedules", sent, message("AddSchedulesResponse"))
        assert not answer.refusals, answer.refusals[0]


def now_us():
    return time.time_ns() // 1000


class Publishing:
    """One event after the other, each answered before the next; how long the answers take."""

    def __init__(self, broker, every=0.0):
        self.times, self.ended = [], threading.Event()
        self.broker, self.every = broker, every
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        number = 0
        while not self.ended.is_set():
            number += 1
            sent = request([event("load-%d-%d" % (id(self), number), kind="load", data="d" * 1000)])
            began = time.monotonic()
            self.broker.publish_raw(sent)
            self.times.append((began, time.monotonic() - began))
            if self.every:
                self.ended.wait(self.every)

    def end(self):
        self.ended.set()
        self.thread.join()
        return self.times


TRIGGER = ("functions: { work: {} }\ntriggers:\n  all:\n"
           "    filters: [ { exact: { type: dev.tocsin.timer.fired } } ]\n    function: work\n")


def lateness(directory, armed, fires, loaded):
    broker = Broker(directory, TRIGGER, shim=False, partitions=4).start()
    try:
        far = now_us() + 3_600_000_000
        add(broker, [("far%d" % i, far + i) for i in range(armed - fires)])
        # A fire every few milliseconds, at odd times.
        begin = now_us() + 3_000_000
        add(broker, [("s%d" % i, begin + i * 5_137) for i in range(fires)])
        worker = broker.worker("work", credit=1000)
        load = Publishing(broker, 0.001) if loaded else None
        late = []
        while len(late) < fires:
            for delivery in worker.take(1, within=60):
                arrived = time.time_ns()
                sent = CloudEvent.FromString(delivery.event)
                due = sent.attributes["time"].ce_timestamp
                late.append((arrived - due.seconds * 10**9 - due.nanos) / 1e6)
                worker.ack(delivery.handle, started=delivery.handle)
        if load:
            load.end()
        return late
    finally:
        broker.end()


def histogram(case, late):
    """How many were at most so late, in milliseconds."""
    edges = [0.5, 1, 1.5, 2, 3, 5, 10, 20, 50, 100]
    for edge in edges:
        row("T11", "%s, at most %g ms late" % (case, edge),
            sum(one <= edge for one in late) / len(late), None, None, "share")


def million(directory, count):
    broker = Broker(directory, shim=False, partitions=4).start()
    try:
        empty = broker.mib("VmRSS")
        far = now_us() + 24 * 3_600_000_000
        began = time.monotonic()
        for first in range(0, count, 50_000):
            add(broker, [("job-%d" % i, far + i * 1000) for i in range(first, first + 50_000)])
        took = time.monotonic() - began
        row("T12", "added a second, in calls of 5,000", count / took, None, None, "schedules/s")
        PAUSE.wait(70)  # over a checkpoint
        row("T12", "resident with %d armed" % count, broker.mib("VmRSS"), 150, "floor", "MiB")
        row("T12", "resident, the most it ever had", broker.mib("VmHWM"), None, None, "MiB")
        row("T12", "resident without any", empty, None, None, "MiB")
        cpu, began = broker.cpu_seconds(), time.monotonic()
        PAUSE.wait(10)
        idle = (broker.cpu_seconds() - cpu) / (time.monotonic() - began) * 100
        row("T12", "processor while idle", idle, 1, "floor", "% of a core")
        broker.kill()
        began = time.monotonic()
        broker.start()
        row("T12", "from kill -9 to serving with %d" % count, time.monotonic() - began, None, None,
            "s")
    finally:
        broker.end()


def burst(directory, count):
    broker = Broker(directory, shim=False, partitions=4).start()
    try:
        instant = now_us() + 15_000_000
        for first in range(0, count, 50_000):
            add(broker, [("s%d" % i, instant) for i in range(first, min(first + 50_000, count))])
        assert now_us() < instant - 3_000_000, "the machine is too slow for this"
        ends = lambda: sum(one.durable_end for one in broker.status().partitions)  # noqa: E731
        load = Publishing(broker, 0.005)
        PAUSE.wait(max(0.0, (instant - now_us()) / 1e6 - 0.05))
        before = ends() - len(load.times)
        due = instant / 1e6
        while True:
            have = ends()
            if have - before - len(load.times) >= count - 1:
                break
            PAUSE.wait(0.01)  # asking costs the broker something, too
        took = time.time() - due
        since = time.monotonic() - took
        times = load.end()
        quiet = [length * 1e3 for began, length in times if began + length < since]
        busy = [length * 1e3 for began, length in times if began + length >= since]
        row("T12", "%d at one instant, until all are durable" % count, took, 1, "floor", "s")
        row("T12", "publish p99 before", percentile(quiet, 0.99), None, None, "ms")
        row("T12", "publish p99 meanwhile", percentile(busy, 0.99), percentile(quiet, 0.99),
            "before", "ms")
        row("T12", "publish, the slowest meanwhile", max(busy), None, None, "ms")
    finally:
        broker.end()


def cold(directory, name, function, rounds, told):
    """`told` gives the nanoseconds at which the function began with an event, once it has."""
    trigger = "triggers:\n  all:\n    filters: [ { exact: { type: test.event } } ]\n"
    broker = Broker(directory, "functions:\n  job:\n%s%s    function: job\n" % (function, trigger),
                    shim=False, partitions=1).start()
    times = []
    try:
        PAUSE.wait(1)
        for i in range(rounds + 1):
            sent = request([event("e%d" % i)])
            began = time.time_ns()
            broker.publish_raw(sent)
            at = eventually(lambda: told(broker, "e%d" % i))
            times.append((at - began) / 1e6)
            eventually(lambda: broker.books().pending == 0)
            PAUSE.wait(2.5 if "run" in function else 0.05)  # its workers have ended
        floor = 60 if "ython" in name else 15
        row("T16", "%s, p50 of %d" % (name, rounds), statistics.median(times[1:]), floor, "floor",
            "ms")
        row("T16", "%s, worst" % name, max(times[1:]), None, None, "ms")
    finally:
        broker.end()


def note_of(folder):
    path = os.path.join(folder, "notes")

    def told(_, wanted):
        if not os.path.exists(path):
            return None
        with open(path, encoding="ascii") as lines:
            for line in lines:
                if line.startswith(wanted + " ") and line.endswith("\n"):
                    return int(line.split()[1])
        return None

    return told


def colds(make, rounds):
    folder = make()
    note = "echo $CE_ID $(date +%%s%%N) >> %s/notes" % folder
    cold(folder, "exec", "    exec: { command: [/bin/sh, -c, %s] }\n" % json.dumps(note), rounds,
         note_of(folder))
    folder = make()
    script = ("import os, time; open(%r, 'a').write('%%s %%d\\n' %% "
              "(os.environ['CE_ID'], time.time_ns()))" % os.path.join(folder, "notes"))
    cold(folder, "exec of python3", "    exec: { command: [/usr/bin/python3, -c, %s] }\n"
         % json.dumps(script), rounds, note_of(folder))
    folder = make()
    note = "echo $CE_ID $(date +%%s%%N) >> %s/notes" % folder
    command = [os.environ["TOCSIN"], "work", "job", "--", "/bin/sh", "-c", note]
    cold(folder, "run of a native worker",
         "    run: { command: %s, idle: 1s }\n" % json.dumps(command), rounds, note_of(folder))
    folder = make()
    cold(folder, "run of a Python worker",
         "    run: { command: %s, idle: 1s }\n" % json.dumps(python_worker(folder, "")), rounds,
         note_of(folder))


def python_worker(folder, then):
    """The command of a worker that notes when it began with an event."""
    script = os.path.join(folder, "worker.py")
    with open(script, "w", encoding="utf-8") as out:
        out.write("import time\nfrom tocsin import Worker\nworker = Worker('bench')\n"
                  "@worker.function('job')\ndef job(event):\n"
                  "    now = time.time_ns()\n"
                  "    with open(%r, 'a') as notes:\n"
                  "        notes.write('%%s %%d\\n' %% (event.id, now))\n%s"
                  "worker.run()\n" % (os.path.join(folder, "notes"), then))
    return ["/usr/bin/python3", "-B", script]


def scale(folder, events=60):
    command = json.dumps(python_worker(folder, "    time.sleep(0.1)\n"))
    rest = ("functions:\n  job:\n    run: { command: %s, max: 4, idle: 1s }\n"
            "triggers:\n  all:\n    filters: [ { exact: { type: test.event } } ]\n"
            "    function: job\n" % command)
    broker = Broker(folder, rest, shim=False, partitions=4).start()
    try:
        def workers():
            listed = broker.call("Admin/ListWorkers", b"", message("ListWorkersResponse"))
            return len(listed.workers)

        for burst in range(2):
            assert workers() == 0
            began = time.time_ns()
            broker.publish_raw(request([event("e%d-%d" % (burst, i)) for i in range(events)]))
            most = 0
            deadline = time.monotonic() + 60
            while broker.books().acked < events * (burst + 1):
                most = max(most, workers())
                assert time.monotonic() < deadline, "not all were done"
            done = time.time_ns()
            with open(os.path.join(folder, "notes"), encoding="ascii") as lines:
                starts = [line.split() for line in lines if line.startswith("e%d-" % burst)]
            assert len(starts) == events == len({one for one, _ in starts}), "each ran once"
            eventually(lambda: workers() == 0)
            gone = time.time_ns()
            case = "60 events at once, no worker, 4 at most (burst %d): " % (burst + 1)
            row("T16", case + "to the first event",
                (min(int(at) for _, at in starts) - began) / 1e6, None, None, "ms")
            row("T16", case + "to the last settled", (done - began) / 1e9, None, None, "s")
            row("T16", case + "workers at once", most, None, None, "workers")
            row("T16", case + "until none is left", (gone - began) / 1e9, None, None, "s")
    finally:
        broker.end()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--dir", default=".")
    arguments.add_argument("--only", default="lateness,burst,million,cold,scale")
    arguments.add_argument("--scale", type=float, default=1.0)
    arguments.add_argument("-o", "--output")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir) as root:
        made = []

        def make():
            os.sync()  # what others left to write is not to be in the way
            made.append(os.path.join(root, str(len(made))))
            os.mkdir(made[-1])
            return made[-1]

        if "lateness" in given.only:
            for loaded in (False, True):
                late = lateness(make(), int(100_000 * given.scale), int(2000 * given.scale), loaded)
                case = "100,000 armed, %s" % ("1 KB publishes" if loaded else "idle")
                row("T11", case + ", p50", percentile(late, 0.5), None, None, "ms")
                row("T11", case + ", p99", percentile(late, 0.99), 5, "floor", "ms")
                row("T11", case + ", worst", max(late), None, None, "ms")
                histogram(case, late)
        if "burst" in given.only:
            burst(make(), int(100_000 * given.scale))
        if "million" in given.only:
            million(make(), int(1_000_000 * given.scale) // 50_000 * 50_000)
        if "cold" in given.only:
            colds(make, max(3, int(15 * given.scale)))
        if "scale" in given.only:
            scale(make())
    write_rows(given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

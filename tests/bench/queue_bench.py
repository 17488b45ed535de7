#!/usr/bin/python3
"""What a source brings into the journal per second, beside the same client library alone.

Each round reads the same records once with queue_reader and once with `tocsin serve`, in turn, so
that noise of the machine meets both. The server is real. Prints a line per kind: records per second
of both, their ratio, processor time per record; with --json a row per kind and run, too. Fails
below RATIO_FLOOR of the library, unless the processor time says that the machine was the bound: on
two cores server, library and broker share. Some two minutes on a quiet machine; a run that takes
longer than RUN_MAX seconds fails its kind, and the others go on.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

from fault_rig import Broker  # noqa: E402
from queue_rig import Redis, free_port  # noqa: E402

BYTES = 128
RATIO_FLOOR = 0.8
RUN_MAX = 60.0
LOOK_EVERY = 0.05


def alone(reader, *words):
    done = subprocess.run([reader, *map(str, words)], capture_output=True, text=True,
                          timeout=RUN_MAX, check=True)
    told = json.loads(done.stdout)
    return told["records"] / told["seconds"], told["cpu"] / told["records"] * 1e6


def tocsin(directory, source, count, feed=None):
    """Records per second from the first that is durable to the last, and microseconds of processor
    time each."""
    broker = Broker(directory, rest="sources: { in: %s }\n" % source, partitions=4,
                    broker="  retention: { size: 8GiB }\n", shim=False).start()
    feeding = None
    try:
        feeding = feed() if feed else None
        deadline = time.monotonic() + RUN_MAX
        pause = threading.Event()

        def durable(wanted):
            """Waits until so many are, and tells how many, when, and the processor's time."""
            while True:
                # There is none before the source has a lane.
                with contextlib.suppress(AssertionError):
                    now = broker.metric("tocsin_source_events_total")
                    if now >= wanted:
                        return now, time.monotonic(), broker.cpu_seconds()
                if time.monotonic() > deadline:
                    raise TimeoutError("%s: not %d records in %.0f s" % (source, wanted, RUN_MAX))
                pause.wait(LOOK_EVERY)

        first, began, before = durable(1)
        last, ended, after = durable(count)
        return (last - first) / (ended - began), (after - before) / (last - first) * 1e6
    finally:
        if feeding:
            feeding.kill()
            feeding.wait()
        broker.end()


def redis_kind(options, work):
    server = Redis(work, "--appendonly", "no")
    try:
        script = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'v', ARGV[2]) end"
        server.do("EVAL", script, 1, "s", options.count, "x" * BYTES)
        yield (lambda: alone(options.reader, "redis", server.port, "s", options.count),
               lambda to: tocsin(to, "{ redis: { url: \"%s\", stream: s } }" % server.url,
                                 options.count))
    finally:
        server.kill()


def kafka_kind(options, work):
    from kafka_rig import Kafka
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic
    server = Kafka(work)
    try:
        admin = AdminClient({"bootstrap.servers": server.address})
        for future in admin.create_topics([NewTopic("t", 4, 1)]).values():
            future.result(60)
        producer = Producer({"bootstrap.servers": server.address, "linger.ms": 20,
                             "queue.buffering.max.messages": 2 * options.count})
        value = "x" * BYTES
        for number in range(options.count):
            producer.produce("t", value, str(number % 1000))
            if number % 1000 == 0:
                producer.poll(0)
        assert producer.flush(120) == 0
        yield (lambda: alone(options.reader, "kafka", server.address, "t", 4, options.count),
               lambda to: tocsin(to, "{ kafka: { brokers: [\"%s\"], topics: [t] } }"
                                 % server.address, options.count))
    finally:
        server.kill()


def zeromq_kind(options, _):
    def feed(endpoint):
        return subprocess.Popen([options.reader, "push", endpoint, str(options.count), str(BYTES)],
                                stdout=subprocess.DEVNULL)

    def by_library():
        endpoint = "tcp://127.0.0.1:%d" % free_port()
        sending = feed(endpoint)
        try:
            return alone(options.reader, "zeromq", endpoint, options.count)
        finally:
            sending.kill()
            sending.wait()

    def by_tocsin(directory):
        endpoint = "tcp://127.0.0.1:%d" % free_port()
        return tocsin(directory, "{ zeromq: { bind: [\"%s\"] } }" % endpoint, options.count,
                      lambda: feed(endpoint))
    yield by_library, by_tocsin


KINDS = {"redis": redis_kind, "kafka": kafka_kind, "zeromq": zeromq_kind}


def measure(options, name, kind, rows):
    """A line about the kind; what is wrong with it, or nothing."""
    rounds = []
    with tempfile.TemporaryDirectory(dir=options.dir) as work:
        for by_library, by_tocsin in kind(options, work):
            for number in range(options.rounds):
                directory = os.path.join(work, "r%d" % number)
                os.mkdir(directory)
                rounds.append((*by_library(), *by_tocsin(directory)))
    for one in rounds:
        rows.append(dict(zip(("library_per_s", "library_us", "tocsin_per_s", "tocsin_us"),
                             (round(value, 3) for value in one)), kind=name, records=options.count,
                         bytes=BYTES, ratio=round(one[2] / one[0], 3)))
    ratio = statistics.median(one[2] / one[0] for one in rounds)
    middle = [statistics.median(column) for column in zip(*rounds)]
    print("| %s | %.0f k | %.0f k | %.2f | %.2f, %.2f |" % (
        name, middle[0] / 1e3, middle[2] / 1e3, ratio, middle[1], middle[3]), flush=True)
    # Above one core's worth of work, a machine of two cores has no more to give.
    bound = middle[3] * middle[2] / 1e6
    if ratio < RATIO_FLOOR and bound < 1.0:
        return "%s: %.2f of the library at %.2f cores; the floor is %.1f" % (
            name, ratio, bound, RATIO_FLOOR)
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--reader", required=True)
    parser.add_argument("--count", type=int, default=300000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(KINDS))
    parser.add_argument("--dir", required=True, help="where data directories are made")
    parser.add_argument("--json", help="a file for a row per kind and run")
    parser.add_argument("--no-floors", action="store_true")
    options = parser.parse_args()
    missed, rows = [], []
    print("| kind | library, records/s | tocsin, records/s | ratio | us each: library, tocsin |")
    print("|---|---|---|---|---|", flush=True)
    for name, kind in KINDS.items():
        if options.only not in (None, name):
            continue
        try:
            wrong = measure(options, name, kind, rows)
        except (TimeoutError, subprocess.SubprocessError, AssertionError) as error:
            missed.append("%s: %s" % (name, error))
            continue
        if wrong and not options.no_floors:
            missed.append(wrong)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            out.write("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    for one in missed:
        print("failed: %s" % one)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

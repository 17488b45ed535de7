#!/usr/bin/python3
"""What a source brings into the journal per second, beside the same client library alone.

Each round reads the same records once with queue_reader and once with `tocsin serve`, in turn, so
that noise of the machine meets both. The server is real. Prints a line per kind: records per second
of both, their ratio, processor time per record. Fails below RATIO_FLOOR of the library, unless the
processor time says that the machine was the bound: on two cores server, library and broker share.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

from fault_rig import Broker  # noqa: E402
from queue_rig import Redis, free_port  # noqa: E402

BYTES = 128
RATIO_FLOOR = 0.8


def alone(reader, *words):
    done = subprocess.run([reader, *map(str, words)], capture_output=True, text=True, timeout=600,
                          check=True)
    told = json.loads(done.stdout)
    return told["records"] / told["seconds"], told["cpu"] / told["records"] * 1e6


def tocsin(directory, source, count, feed=None):
    """Records per second from the first that is durable to the last, and microseconds of processor
    time each."""
    broker = Broker(directory, rest="sources: { in: %s }\n" % source, partitions=4,
                    broker="  retention: { size: 8GiB }\n", shim=False).start()
    try:
        feeding = feed() if feed else None

        def durable():
            try:
                return broker.metric("tocsin_source_events_total")
            except AssertionError:
                return 0

        before = 0
        while before == 0:
            before = durable()
        began, cpu = time.monotonic(), broker.cpu_seconds()
        now = before
        while now < count:
            now = durable()
        seconds = time.monotonic() - began
        used = broker.cpu_seconds() - cpu
        if feeding:
            feeding.wait(60)
        return (count - before) / seconds, used / (count - before) * 1e6
    finally:
        broker.end()


def redis_kind(options, work):
    server = Redis(work, "--appendonly", "no")
    value = "x" * BYTES
    server.many([("XADD", "s", "*", "v", value)] * options.count)
    yield (lambda: alone(options.reader, "redis", server.port, "s", options.count),
           lambda to: tocsin(to, "{ redis: { url: \"%s\", stream: s } }" % server.url,
                             options.count))
    server.kill()


def kafka_kind(options, work):
    from kafka_rig import Kafka
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic
    server = Kafka(work)
    admin = AdminClient({"bootstrap.servers": server.address})
    for future in admin.create_topics([NewTopic("t", 4, 1)]).values():
        future.result(60)
    producer = Producer({"bootstrap.servers": server.address, "linger.ms": 20,
                         "queue.buffering.max.messages": 1000000})
    value = "x" * BYTES
    for number in range(options.count):
        producer.produce("t", value, str(number % 1000))
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush(120)
    yield (lambda: alone(options.reader, "kafka", server.address, "t", 4, options.count),
           lambda to: tocsin(to, "{ kafka: { brokers: [\"%s\"], topics: [t] } }" % server.address,
                             options.count))
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
            sending.wait(60)

    def by_tocsin(directory):
        endpoint = "tcp://127.0.0.1:%d" % free_port()
        return tocsin(directory, "{ zeromq: { bind: [\"%s\"] } }" % endpoint, options.count,
                      lambda: feed(endpoint))
    yield by_library, by_tocsin


KINDS = {"redis": redis_kind, "kafka": kafka_kind, "zeromq": zeromq_kind}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--reader", required=True)
    parser.add_argument("--count", type=int, default=300000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(KINDS))
    parser.add_argument("--dir", required=True, help="where data directories are made")
    parser.add_argument("--no-floors", action="store_true")
    options = parser.parse_args()
    missed = []
    print("| kind | library, records/s | tocsin, records/s | ratio | us each: library, tocsin |")
    print("|---|---|---|---|---|")
    for name, kind in KINDS.items():
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory(dir=options.dir) as work:
            for by_library, by_tocsin in kind(options, work):
                rounds = []
                for number in range(options.rounds):
                    directory = os.path.join(work, "r%d" % number)
                    os.mkdir(directory)
                    rounds.append((*by_library(), *by_tocsin(directory)))
                ratio = statistics.median(one[2] / one[0] for one in rounds)
                middle = [statistics.median(column) for column in zip(*rounds)]
                print("| %s | %.0f k | %.0f k | %.2f | %.2f, %.2f |" % (
                    name, middle[0] / 1e3, middle[2] / 1e3, ratio, middle[1], middle[3]),
                      flush=True)
                # Above one core's worth of work, a machine of two cores has no more to give.
                bound = middle[3] * middle[2] / 1e6
                if ratio < RATIO_FLOOR and bound < 1.0:
                    missed.append("%s: %.2f of the library at %.2f cores" % (name, ratio, bound))
    for one in missed:
        print("below the floor of %.1f: %s" % (RATIO_FLOOR, one))
    return 1 if missed and not options.no_floors else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
"""Tocsin beside its peers, in one run on one machine, in turn, round by round.

    peer_bench.py --build build [--rounds 5] [--scale 1] [--only T1,T3] [--peers nats,redis]

Each turn begins with sync(2), so that what one broker left unwritten is no burden of the next. All
brokers of a row run all the time; only one has load. Each load is a process of its own: the C++ SDK
for Tocsin, peer_load for the others. Rows go to build/bench.d, all of them together with those of
other benches to build/bench.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import bench_rows  # noqa: E402
import peer_servers as servers  # noqa: E402

LOAD_WITHIN = 900
FIRST_WITHIN = 400
RESTART_EVENTS = 1_200_000

# How each side publishes and consumes; said beside every figure.
OURS = {
    "settled": "1 publisher, 1 worker, C++ SDK; batches of what has come, at most 2048 events or "
               "256 KiB, 16 under way; acks as ranges",
    "roundtrip": "1 publisher, C++ SDK, one publish under way",
    "paced": "1 publisher, 1 worker with one event per call, C++ SDK",
}
OURS_ANSWER = {"durable": "after fdatasync", "written": "after write"}


class Variant:
    """A peer with settings of its server and of its client."""

    def __init__(self, name, kind, server, durability, clients, flags=(), rate=50000, only=None):
        self.name, self.kind, self.server = name, kind, server
        self.durability, self.clients, self.flags = durability, clients, list(flags)
        self.rate = rate  # about what it reaches; a round's length follows from it
        self.only = only  # cases


def variants():
    nats = "Go client nats.go; async publish, 8192 under way; %s, ack of each"
    nats_default = "answered when written, synced every 2 min"
    return [
        Variant("nats pull", "nats", "nats", nats_default, nats % "pull, 8192 ahead"),
        Variant("nats push", "nats", "nats", nats_default, nats % "push", ["-consume", "push"]),
        Variant("nats fast, pull", "nats", "nats", nats_default,
                "Go client nats.go and jetstreamext; fast batch publish, acked every 1000; pull, "
                "8192 ahead, ack of each", ["-publish", "fast"], only=("settled",)),
        Variant("nats fast, ack all", "nats", "nats", nats_default,
                "as before, but one ack per 256 events, which no single one can be taken back from",
                ["-publish", "fast", "-ack", "all"], only=("settled", "drain")),
        Variant("nats sync always", "nats", "nats sync", "answered after fsync of each message",
                nats % "pull, 8192 ahead", rate=1000),
        Variant("redis always", "redis", "redis always", "answered after fsync of the batch",
                "pipelined XADD, 8192 under way; XREADGROUP of 1000, XACK of as many", rate=30000),
        Variant("redis everysec", "redis", "redis everysec", "answered when in memory",
                "pipelined XADD, 8192 under way; XREADGROUP of 1000, XACK of as many"),
        Variant("kafka acks=all", "kafka", "kafka", "answered when in the page cache, never synced",
                "Go client franz-go, 4 partitions; batches of 1 MB or 5 ms; commits behind each "
                "poll", rate=100000),
        Variant("rabbitmq quorum", "rabbitmq", "rabbitmq", "answered after fsync of the batch",
                "Go client amqp091-go; confirms, 8192 under way; prefetch 2000, ack every 250",
                rate=12000),
    ]


SERVERS = {
    "nats": lambda where, tools: servers.Nats(where, tools),
    "nats sync": lambda where, tools: servers.Nats(where, tools, "always"),
    "redis always": lambda where, tools: servers.Redis(where, tools, "always"),
    "redis everysec": lambda where, tools: servers.Redis(where, tools, "everysec"),
    "kafka": servers.Kafka,
    "rabbitmq": servers.Rabbit,
}
KINDS = {"nats": servers.Nats, "redis": servers.Redis, "kafka": servers.Kafka,
         "rabbitmq": servers.Rabbit}


def disk_sync_us(directory):
    """What the disk takes for 4 KiB by itself, at the median: the floor of what is durable."""
    block, took = b"d" * 4096, []
    with tempfile.TemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, 200 * len(block))
        os.fsync(file.fileno())
        for number in range(200):
            begun = time.perf_counter()
            os.pwrite(file.fileno(), block, number * len(block))
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - begun) * 1e6)
    return sorted(took)[len(took) // 2]


class Bench:
    def __init__(self, options, tools, work):
        self.options, self.tools, self.work = options, tools, work
        self.all = [one for one in variants() if not options.peers or one.kind in options.peers]
        self.why_absent = {kind: KINDS[kind].absent(tools) for kind in KINDS}
        self.versions = {kind: KINDS[kind].version(tools) for kind in KINDS
                         if not self.why_absent[kind]}
        self.running = {}
        self.names = 0

    # --- servers
    def serve(self, name, make):
        if name not in self.running:
            self.running[name] = make().start()
        return self.running[name]

    def ours(self, durability="durable", name=None, **how):
        name = name or "tocsin " + durability
        where = os.path.join(self.work, name.replace(" ", "-"))
        return self.serve(name, lambda: servers.Tocsin(where, self.tools, durability, **how))

    def peer(self, variant):
        return self.serve(variant.server,
                          lambda: SERVERS[variant.server](self.work, self.tools))

    def end(self, *names):
        for name in names or list(self.running):
            server = self.running.pop(name, None)
            if server is not None:
                server.stop()
                shutil.rmtree(server.dir, ignore_errors=True)

    # --- loads
    def load(self, command):
        os.sync()
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_WITHIN,
                              check=False)
        if done.returncode != 0:
            raise RuntimeError("%s\n%s%s" % (" ".join(command), done.stdout, done.stderr))
        return json.loads(done.stdout.strip().splitlines()[-1])

    def our_load(self, case, server, **flags):
        command = [self.tools.broker_load, case, "--grpc", server.address,
                   "--http", "127.0.0.1:%d" % server.http]
        for flag, value in flags.items():
            command += ["--" + flag] + ([] if value is True else [str(value)])
        return self.load(command)

    def peer_load(self, case, variant, **flags):
        self.names += 1
        command = [self.tools.peer_load, variant.kind, case, "-address",
                   self.peer(variant).address, "-name", "b%d" % self.names, *variant.flags]
        for flag, value in flags.items():
            command += ["-" + flag, str(value)]
        return self.load(command)

    # --- rows
    def wanted(self, case, kinds=None):
        return [one for one in self.all
                if (one.only is None or case in one.only) and (kinds is None or one.kind in kinds)]

    def in_turn(self, row, case, title, ours, theirs, unit, fields, less=False, kinds=None, **more):
        """Rounds of ours, then each peer; `fields`: (name in the result, words), a row each."""
        present, rows = [], []
        for variant in self.wanted(case, kinds):
            if self.why_absent[variant.kind]:
                rows += [bench_rows.absent_row(row, title, variant.name, unit,
                                               self.why_absent[variant.kind])]
            else:
                present.append(variant)
                self.peer(variant)
        results = {}
        for number in range(self.options.rounds):
            results.setdefault("", []).append(ours())
            self.say(row, title, number, "tocsin", results[""][-1])
            for variant in present:
                results.setdefault(variant.name, []).append(theirs(variant))
                self.say(row, title, number, variant.name, results[variant.name][-1])
        for variant in present:
            for field, words in fields:
                rows.append(bench_rows.row_of(
                    row, title + words, variant.name, unit,
                    [one[field] for one in results[""]],
                    [one[field] for one in results[variant.name]], less,
                    peer_version=self.versions[variant.kind], peer_clients=variant.clients,
                    peer_durability=variant.durability, **more))
        return rows

    def say(self, row, title, number, who, result):
        told = {key: round(value, 3) for key, value in result.items()}
        print("  %s %s, round %d: %s %s" % (row, title, number + 1, who, told), file=sys.stderr,
              flush=True)

    def events(self, rate, seconds=2.0):
        return max(int(rate * seconds * self.options.scale), 1000)

    def throughput(self, row, size, payload):
        broker = self.ours()
        return self.in_turn(
            row, "settled", "publish to settled, %s" % payload,
            lambda: self.our_load("settled", broker, bytes=size,
                                  events=self.events(600000 if size < 1000 else 250000)),
            lambda variant: self.peer_load("settled", variant, bytes=size,
                                           events=self.events(variant.rate)),
            "events/s", [("per_second", "")], payload_bytes=size, ours_clients=OURS["settled"],
            ours_durability=OURS_ANSWER["durable"])

    def t1(self):
        return self.throughput("T1", 1024, "1 KB")

    def t2(self):
        return self.throughput("T2", 128, "128 B")

    def t3(self):
        broker, count = self.ours(), max(int(1000 * self.options.scale), 100)
        return self.in_turn(
            "T3", "roundtrip", "publish, one under way, 1 KB",
            lambda: self.our_load("roundtrip", broker, events=count, bytes=1024),
            lambda variant: self.peer_load("roundtrip", variant, events=count, bytes=1024),
            "us", [("p50_us", ", p50"), ("p99_us", ", p99")], True, payload_bytes=1024,
            ours_clients=OURS["roundtrip"], ours_durability=OURS_ANSWER["durable"])

    def t4(self):
        broker, count = self.ours(), max(int(30000 * self.options.scale), 5000)
        return self.in_turn(
            "T4", "paced", "publish to handler, 1 KB, open loop of 10 k/s",
            lambda: self.our_load("paced", broker, events=count, bytes=1024, rate=10000),
            # Behind what it cannot keep up with, a peer's latency only grows: a short look.
            lambda variant: self.peer_load("paced", variant, bytes=1024, rate=10000,
                                           events=count if variant.rate > 10000 else 1000),
            "us", [("p50_us", ", p50"), ("p99_us", ", p99")], True, payload_bytes=1024,
            ours_clients=OURS["paced"], ours_durability=OURS_ANSWER["durable"],
            since="from when each publish was due")

    # Of stored events and a killed broker: from its start to the answer of a first publish.
    def t13(self):
        self.end()
        rows, seconds = [], {}
        count = max(int(RESTART_EVENTS * self.options.scale), 20000)
        chosen = [None] + [one for one in self.all
                           if one.name in ("nats pull", "redis always", "kafka acks=all",
                                           "rabbitmq quorum")]
        title = "kill -9 to the first answered publish, %.2g GB stored" % (count * 1024 / 1e9)
        for variant in chosen:
            if variant is not None and self.why_absent[variant.kind]:
                rows.append(bench_rows.absent_row("T13", title, variant.name, "s",
                                                  self.why_absent[variant.kind]))
                continue
            name = variant.name if variant else ""
            server = self.peer(variant) if variant else self.ours()
            if variant:
                command = [self.tools.peer_load, variant.kind, "fill", "-address", server.address,
                           "-events", str(count), *variant.flags]
                first = [self.tools.peer_load, variant.kind, "first", "-address", server.address]
            else:
                command = [self.tools.broker_load, "fill", "--grpc", server.address, "--http",
                           "127.0.0.1:%d" % server.http, "--events", str(count)]
                first = [self.tools.broker_load, "first", "--grpc", server.address]
            self.load(command)
            os.sync()
            for number in range(self.options.rounds):
                server.kill()
                with subprocess.Popen(first, stdout=subprocess.PIPE, text=True) as asking:
                    asking.stdout.readline()  # ready
                    begun = server.spawn()
                    told = json.loads(asking.communicate(timeout=FIRST_WITHIN)[0])
                took = (told["answered_ns"] - begun) / 1e9
                seconds.setdefault(name, []).append(took)
                self.say("T13", title, number, name or "tocsin", {"seconds": took})
            self.end()
            if variant:
                rows.append(bench_rows.row_of(
                    "T13", title, variant.name, "s", seconds[""], seconds[name], True,
                    payload_bytes=1024, peer_version=self.versions[variant.kind],
                    ours_durability="serves: a durable publish was answered"))
        return rows

    # Ours durable over ours written.
    def t20(self):
        rows = []
        durable, written = self.ours(), self.ours("written")
        for size, payload, rate in ((1024, "1 KB", 250000), (128, "128 B", 600000)):
            rounds = []
            for number in range(self.options.rounds):
                rounds.append([self.our_load("settled", broker, bytes=size,
                                             events=self.events(rate))["per_second"]
                               for broker in (durable, written)])
                self.say("T20", payload, number, "durable, written", dict(enumerate(rounds[-1])))
            rows.append(bench_rows.row_of(
                "T20", "publish to settled, %s: durable beside written" % payload, "tocsin written",
                "events/s", *zip(*rounds), payload_bytes=size, ours_clients=OURS["settled"],
                ours_durability=OURS_ANSWER["durable"], peer_durability=OURS_ANSWER["written"]))
        self.end("tocsin written")
        return rows

    # Resident memory per idle worker, beside a bare gRPC server with the same streams.
    def t10(self):
        rows, count = [], 1000
        for shared in (False, True):
            rounds = []
            for number in range(self.options.rounds):
                each = []
                for server in (self.ours(name="tocsin idle"), self.relay()):
                    before = server.rss()
                    command = [self.tools.broker_load, "idle", "--grpc", server.address,
                               "--workers", str(count)] + (["--shared"] if shared else [])
                    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                          text=True) as idle:
                        idle.stdout.readline()
                        each.append((server.rss() - before) / count / 1024)
                        idle.stdin.close()
                        idle.wait()
                # Others for each round: freed memory stays with a process.
                self.end("tocsin idle", "relay")
                rounds.append(each)
                self.say("T10", "idle workers", number, "tocsin, relay", dict(enumerate(each)))
            rows.append(bench_rows.row_of(
                "T10", "memory per idle worker, %s" %
                ("one connection for all" if shared else "a connection each"), "bare gRPC server",
                "KiB", *zip(*rounds), less_is_better=True, workers=count))
        return rows

    def relay(self):
        return self.serve("relay", lambda: Relay(self.work, self.tools))

    def t14(self):
        broker, relay, rounds = self.ours(), self.relay(), []
        count = max(int(5000 * self.options.scale), 500)
        for number in range(self.options.rounds):
            mine = self.our_load("invoke", broker, events=count, bytes=128)
            bare = self.load([self.tools.broker_load, "relay-roundtrip", "--grpc", relay.address,
                              "--events", str(count), "--bytes", "128"])
            rounds.append([mine["p50_us"], bare["p50_us"]])
            self.say("T14", "invoke", number, "tocsin, relay", dict(enumerate(rounds[-1])))
        self.end("relay")
        return [bench_rows.row_of(
            "T14", "warm invocation of a stored event, one under way, 128 B, p50",
            "gRPC ping-pong", "us", *zip(*rounds), less_is_better=True, payload_bytes=128,
            ours_clients="1 worker, C++ SDK, concurrency 1, no prefetch; from one call of the "
                         "handler to the next")]

    def t15(self):
        broker = self.ours()
        return self.in_turn(
            "T15", "drain", "invocations of stored events, 128 B",
            lambda: self.our_load("drain", broker, bytes=128, events=self.events(600000)),
            lambda variant: self.peer_load("drain", variant, bytes=128,
                                           events=self.events(variant.rate, 4)),
            "invocations/s", [("per_second", "")], kinds=("nats", "redis"), payload_bytes=128,
            ours_clients="1 worker, C++ SDK, batches of at most 1024",
            ours_durability="settled when synced")

    def t17(self):
        groups = 100
        triggers = "functions:\n" + "".join("  fan%d: {}\n" % i for i in range(groups)) + \
            "triggers:\n" + "".join(
                "  fan%d: { filters: [ exact: { type: bench.fan } ], function: fan%d }\n" % (i, i)
                for i in range(groups))
        broker = self.ours(name="tocsin fan", triggers=triggers)
        rows = self.in_turn(
            "T17", "fanout", "one event to 100 triggers, 1 KB",
            lambda: self.our_load("fanout", broker, bytes=1024, events=self.events(5000),
                                  groups=groups, workers=4),
            lambda variant: self.peer_load("fanout", variant, bytes=1024, events=self.events(500),
                                           groups=groups),
            "deliveries/s", [("per_second", "")], kinds=("nats", "redis"), payload_bytes=1024,
            ours_clients="1 publisher, 4 workers with 25 functions each, C++ SDK",
            ours_durability=OURS_ANSWER["durable"])
        self.end("tocsin fan")
        return rows


class Relay(servers.Server):
    """A bare gRPC server on the same streams, without disk and books."""

    def __init__(self, directory, tools):
        self.name = "relay"
        self.tools = tools
        super().__init__(directory)
        self.port_file = os.path.join(self.dir, "port")

    def command(self):
        return [self.tools.broker_load, "serve-relay", self.port_file]

    def serves(self):
        if not os.path.exists(self.port_file):
            return False
        with open(self.port_file, encoding="utf-8") as told:
            text = told.read()
        self.port = int(text) if text.endswith("\n") else 0
        return self.port > 0


ROWS = ("T1", "T2", "T3", "T4", "T20", "T14", "T15", "T17", "T10", "T13")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", required=True, help="the build directory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="length of a round")
    parser.add_argument("--only", default="", help="targets, with commas")
    parser.add_argument("--peers", default="", help="kinds of peers, with commas")
    parser.add_argument("--join", action="store_true", help="only make bench.json anew")
    options = parser.parse_args()
    build = os.path.abspath(options.build)
    options.peers = [one for one in options.peers.split(",") if one]
    only = [one for one in options.only.split(",") if one]
    tools = types.SimpleNamespace(
        tocsin=os.path.join(build, "tocsin"), broker_load=os.path.join(build, "tests/broker_load"),
        peer_load=os.path.join(build, "peers/peer_load"),
        nats_server=os.path.join(build, "peers/nats-server"),
        kafka_jars=os.environ.get("TOCSIN_KAFKA_JARS", os.path.join(build, "kafka")))
    rows_dir = os.path.join(build, "bench.d")
    if not options.join:
        if not os.path.exists(tools.peer_load):
            for kind in KINDS:
                KINDS[kind].absent = staticmethod(
                    lambda _: "peer_load was not built: make peers (it needs a Go of "
                              "tests/bench/peers/go.mod)")
        with tempfile.TemporaryDirectory(prefix="tocsin-peers-", dir=build) as work:
            bench = Bench(options, tools, work)
            for kind, why in bench.why_absent.items():
                print("peer %s: %s" % (kind, "ABSENT, " + why if why else bench.versions[kind]))
            try:
                for row in only or ROWS:
                    begun = time.monotonic()
                    disk, busy = disk_sync_us(work), os.getloadavg()[0]
                    rows = getattr(bench, row.lower())()
                    for one in rows:
                        one.update(disk_sync_us=round(disk), load_before=round(busy, 2))
                    print("%s: the disk alone syncs 4 KiB in %.0f us (p50), load average %.1f"
                          % (row, disk, busy))
                    bench_rows.write(rows_dir, "peers-" + row, rows)
                    print("%s took %.0f s" % (row, time.monotonic() - begun), file=sys.stderr)
                    print(bench_rows.table(rows), flush=True)
            finally:
                bench.end()
    rows = bench_rows.join(rows_dir, os.path.join(build, "bench.json"))
    print("%d rows in %s" % (len(rows), os.path.join(build, "bench.json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())

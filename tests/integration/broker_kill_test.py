#!/usr/bin/python3
"""Kills a real broker with SIGKILL at random while events, timers and workers are at work.

Afterwards: every answered event ran or is a dead letter, first runs of a key follow the order in
which they were published, each instant of the timer gave one event, executions stay within
attempts + broker crashes, and the books balance.

    broker_kill_test.py --tocsin build/tocsin [--kills N]    (TOCSIN_KILLS, TOCSIN_SEED)
"""

import argparse
import collections
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

CONFIG = """
version: 1
broker: { data_dir: %(dir)s/data, listen: "127.0.0.1:%(port)d", http: "127.0.0.1:0" }
sources:
  tick: { timer: { cron: "@every 500ms", missed: { policy: all } } }
functions: { work: {}, ticks: {} }
triggers:
  work:
    filters: [ { exact: { type: load } } ]
    function: work
    retry: { attempts: 3, backoff: 50ms }
  ticks: { sources: [tick], function: ticks }
"""
ATTEMPTS = 3


class Fixture:
    def __init__(self, tocsin, directory, rng):
        self.tocsin, self.dir, self.rng = tocsin, directory, rng
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.env = dict(os.environ, TOCSIN_TARGET="127.0.0.1:%d" % self.port)
        self.config = os.path.join(directory, "t.yaml")
        with open(self.config, "w", encoding="utf-8") as out:
            out.write(CONFIG % {"dir": directory, "port": self.port})
        self.log = open(os.path.join(directory, "broker.log"), "ab")
        self.broker = None

    def run(self, *words, data=None):
        return subprocess.run([self.tocsin, *words], env=self.env, input=data, text=True,
                              capture_output=True, timeout=60, check=False)

    def start(self):
        self.broker = subprocess.Popen([self.tocsin, "serve", "-c", self.config],
                                       stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 30
        while self.run("status").returncode != 0:
            if self.broker.poll() is not None or time.monotonic() > deadline:
                sys.exit("the broker did not start; see " + self.log.name)

    def kill(self):
        self.broker.send_signal(signal.SIGKILL)
        self.broker.wait()

    def worker(self, function, path, script):
        command = [self.tocsin, "work", function, "--concurrency", "4", "--", "sh", "-c",
                   "cat >/dev/null; echo $CE_ID $CE_PARTITIONKEY >> %s; %s" % (path, script)]
        return subprocess.Popen(command, env=self.env, stdout=self.log, stderr=self.log)

    def triggers(self):
        answer = self.run("triggers", "-o", "json")
        return {t["name"]: t for t in json.loads(answer.stdout)} if answer.returncode == 0 else {}


def publish(fixture, stop, answered):
    """Publishes numbered events; one is answered when the command says so."""
    number = 0
    while not stop.is_set():
        batch = []
        for _ in range(20):
            kind = "poison" if number % 97 == 96 else "e"
            batch.append({"specversion": "1.0", "id": "%s%d" % (kind, number), "source": "/kill",
                          "type": "load", "partitionkey": "k%d" % (number % 7), "data": number})
            number += 1
        while not stop.is_set():
            if fixture.run("publish", "--json", "-", data=json.dumps(batch)).returncode == 0:
                answered.extend(event["id"] for event in batch)
                break


def read_runs(path):
    with open(path, encoding="utf-8") as lines:
        return [line.split() for line in lines]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tocsin", required=True)
    parser.add_argument("--kills", type=int, default=int(os.environ.get("TOCSIN_KILLS", "8")))
    options = parser.parse_args()
    seed = int(os.environ.get("TOCSIN_SEED", random.SystemRandom().randrange(1 << 32)))
    print("seed", seed, flush=True)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        fixture = Fixture(os.path.abspath(options.tocsin), directory, rng)
        runs, ticks = os.path.join(directory, "runs"), os.path.join(directory, "ticks")
        open(runs, "w").close()
        open(ticks, "w").close()
        fixture.start()
        script = "case $CE_ID in poison*) exit 1;; esac; exit 0"
        workers = [fixture.worker("work", runs, script), fixture.worker("ticks", ticks, "exit 0")]
        stop, answered = threading.Event(), []
        publisher = threading.Thread(target=publish, args=(fixture, stop, answered))
        publisher.start()
        try:
            for _ in range(options.kills):
                threading.Event().wait(rng.uniform(0.1, 1.5))
                fixture.kill()
                if rng.random() < 0.5:
                    workers[0].kill()
                    workers[0].wait()
                    workers[0] = fixture.worker("work", runs, script)
                fixture.start()
            stop.set()
            publisher.join()
            deadline = time.monotonic() + 120
            while True:
                books = fixture.triggers()
                if books and books["work"]["pending"] == 0:
                    break
                if time.monotonic() > deadline:
                    sys.exit("not drained: %s" % books)
                threading.Event().wait(0.2)
            dead = json.loads(fixture.run("dead", "list", "-o", "json").stdout)
        finally:
            stop.set()
            publisher.join()
            for process in [*workers, fixture.broker]:
                process.kill()
                process.wait()
        return check(options.kills, answered, read_runs(runs), read_runs(ticks), dead, books)


def check(kills, answered, runs, ticks, dead, books):
    failures = []
    executions = collections.Counter(run[0] for run in runs)
    missing = [event for event in answered if event not in executions]
    if missing:
        failures.append("%d answered events never ran, e.g. %s" % (len(missing), missing[:3]))
    poison = {event for event in answered if event.startswith("poison")}
    if len(dead) < len(poison):
        failures.append("%d poison events, %d letters" % (len(poison), len(dead)))
    most = max(executions.values(), default=0)
    if most > ATTEMPTS + kills:
        failures.append("an event ran %d times" % most)
    seen, last = set(), {}
    for event, key in runs:
        number = int(event.lstrip("poisne"))
        if event not in seen and number < last.get(key, -1):
            failures.append("key %s: %s ran first after %d" % (key, event, last[key]))
        seen.add(event)
        last[key] = max(last.get(key, -1), number)
    if not ticks:
        failures.append("the timer never fired")
    for book in books.values():
        ends = sum(book[end] for end in ("acked", "dead", "dropped", "expired", "pending"))
        if book["matched"] != ends:
            failures.append("books of %s do not balance" % book["name"])
    print("%d kills, %d answered, %d runs, %d letters, %d ticks" %
          (kills, len(answered), len(runs), len(dead), len(ticks)))
    for failure in failures:
        print("FAILED:", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
"""Kills a real broker with SIGKILL at random, and its workers, while a publisher, a timer and files
are at work at full load.

Afterwards: every answered event ran, the poison ones are dead letters after their attempts; first
runs of a key follow the order in which they were published; each instant of the timer fired once
or is counted as skipped; each file, complete when it was taken, gave exactly one event; executions
stay within attempts + broker crashes; the books balance.

With --power each kill is a power cut: what was not synced is lost by the toss of a coin
(power_cut.py); with --lie the disk says synced and has not, which a run must find.

    broker_kill_test.py --tocsin build/tocsin --load build/tests/kill_load [--kills N] [--rate N]
                        [--power build/tests/libpower_shim.so [--lie]]
    (TOCSIN_KILLS, TOCSIN_SEED)
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from power_cut import Power

CONFIG = """
version: 1
broker: { data_dir: %(dir)s/data, listen: "127.0.0.1:%(port)d", http: "127.0.0.1:0" }
sources:
  tick: { timer: { cron: "@every 500ms", missed: { policy: all } } }
  inbox: { file: { path: %(dir)s/inbox, settle: 50ms, rescan: 2s } }
functions: { work: {}, ticks: {}, files: {} }
triggers:
  work:
    filters: [ { exact: { type: load } } ]
    function: work
    retry: { attempts: 3, backoff: 50ms }
  ticks: { sources: [tick], function: ticks }
  files: { sources: [inbox], function: files }
"""
ATTEMPTS = 3
TICK_MS = 500
DRAIN_SECONDS_MAX = 300


class Failed(Exception):
    pass


class Fixture:
    def __init__(self, options, directory):
        self.tocsin, self.load = os.path.abspath(options.tocsin), os.path.abspath(options.load)
        self.dir = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.env = dict(os.environ, TOCSIN_TARGET="127.0.0.1:%d" % self.port)
        self.config = os.path.join(directory, "t.yaml")
        self.runs = os.path.join(directory, "runs")
        self.answered = os.path.join(directory, "answered")
        self.inbox = os.path.join(directory, "inbox")
        os.mkdir(self.inbox)
        with open(self.config, "w", encoding="utf-8") as out:
            out.write(CONFIG % {"dir": directory, "port": self.port})
        self.log = open(os.path.join(directory, "broker.log"), "ab")
        self.broker = None
        self.lies = options.lie
        data = os.path.join(directory, "data")
        os.mkdir(data)
        self.power = Power(data, directory, os.path.abspath(options.power), options.lie) \
            if options.power else None

    def run(self, *words):
        return subprocess.run([self.tocsin, *words], env=self.env, text=True, capture_output=True,
                              timeout=60, check=False)

    def json(self, *words):
        answer = self.run(*words, "-o", "json")
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def start(self):
        env = dict(self.env, **self.power.environment()) if self.power else self.env
        self.broker = subprocess.Popen([self.tocsin, "serve", "-c", self.config],
                                       stdout=self.log, stderr=self.log, env=env)

    def wait_ready(self):
        deadline = time.monotonic() + 60
        while self.run("status").returncode != 0:
            if self.broker.poll() is not None:
                raise Failed("the broker did not start")
            if time.monotonic() > deadline:
                raise Failed("the broker does not answer")

    def kill(self, rng):
        if self.broker.poll() is not None:
            raise Failed("the broker ended by itself with status %d" % self.broker.returncode)
        self.broker.send_signal(signal.SIGKILL)
        self.broker.wait()
        if self.power:
            self.power.cut(rng)

    def worker(self):
        return subprocess.Popen([self.load, "work", self.runs], env=self.env, stdout=self.log,
                                stderr=self.log)

    def publisher(self, rate):
        return subprocess.Popen([self.load, "publish", self.answered, str(rate)], env=self.env,
                                stdin=subprocess.PIPE, stderr=self.log)


def drop_files(fixture, stop, count, seed):
    """Drops files in every way people do: written in place, moved in, and in two strokes."""
    rng = random.Random(seed)
    number = 0
    while not stop.wait(rng.uniform(0.005, 0.04)):
        name = os.path.join(fixture.inbox, "f%d.csv" % number)
        kind = rng.randrange(3)
        if kind == 0:
            with open(name, "w", encoding="utf-8") as out:
                out.write("a,b\n")
        elif kind == 1:
            outside = os.path.join(fixture.dir, "part")
            with open(outside, "w", encoding="utf-8") as out:
                out.write("a,b\n")
            os.rename(outside, name)
        else:
            with open(name, "w", encoding="utf-8") as out:
                out.write("a,")
                out.flush()
                stop.wait(rng.uniform(0, 0.1))
                out.write("b\n")
        number += 1
    count.append(number)


def campaign(fixture, options, rng):
    fixture.start()
    fixture.wait_ready()
    workers = [fixture.worker(), fixture.worker()]
    publisher = fixture.publisher(options.rate)
    stop, dropped = threading.Event(), []
    dropper = threading.Thread(target=drop_files,
                               args=(fixture, stop, dropped, rng.randrange(1 << 32)))
    dropper.start()
    worker_kills = 0
    try:
        for _ in range(options.kills):
            threading.Event().wait(rng.uniform(0.05, 1.2))
            fixture.kill(rng)
            if rng.random() < 0.4:
                victim = rng.randrange(2)
                workers[victim].kill()
                workers[victim].wait()
                workers[victim] = fixture.worker()
                worker_kills += 1
            fixture.start()
            if rng.random() < 0.8:  # else it is killed while it starts
                fixture.wait_ready()
        fixture.wait_ready()
        stop.set()
        dropper.join()
        publisher.stdin.close()
        if publisher.wait(timeout=120) != 0:
            raise Failed("the publisher has events without an answer")
        return dropped[0], worker_kills, wait_drained(fixture, dropped[0])
    finally:
        stop.set()
        dropper.join()
        for process in [*workers, publisher, fixture.broker]:
            process.kill()
            process.wait()


def wait_drained(fixture, files):
    """The books once nothing is pending but the timer's newest, and every file has come."""
    # What a disk that lies has lost never comes.
    deadline = time.monotonic() + (20 if fixture.lies else DRAIN_SECONDS_MAX)
    while True:
        triggers = fixture.json("triggers")
        books = {t["name"]: t for t in triggers} if triggers else {}
        if books and books["work"]["pending"] == 0 and books["files"]["pending"] == 0 \
                and books["files"]["matched"] >= files and books["ticks"]["pending"] <= 1:
            # The timer goes on: what it did lies between what is said before and after.
            before = timer(fixture)
            ticks = instants(fixture.runs)
            return books, (before, ticks, timer(fixture)), fixture.json("dead", "list")
        if time.monotonic() > deadline:
            raise Failed("not drained: %s" % books)
        threading.Event().wait(0.2)


def timer(fixture):
    """How many instants fired, and how many were skipped."""
    source = next(s for s in fixture.json("sources") if s["name"] == "tick")
    return source["events"], source["skipped"]


def instants(runs):
    with open(runs, encoding="utf-8") as lines:
        return sorted({line[1:].rstrip("\n") for line in lines if line[0] == "t"})


def milliseconds(tick):
    text = tick.split("/", 1)[1].rstrip("Z")
    seconds, _, fraction = text.partition(".")
    return (int(time.mktime(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) - time.timezone) * 1000
            + int((fraction + "000")[:3]))


def check(fixture, options, files, worker_kills, state):
    books, (before, ticks, after), dead = state
    failures = []
    result = subprocess.run(
        [fixture.load, "check", fixture.answered, fixture.runs, str(files), str(ATTEMPTS),
         str(options.kills)], text=True, capture_output=True, check=False)
    sys.stdout.write(result.stdout)
    if result.returncode != 0:
        failures.append("see above")
    facts = json.loads(result.stdout.strip().split("\n")[-1])
    if books["work"]["matched"] != facts["published"]:
        failures.append("%d events were answered, %d are in the journal" %
                        (facts["published"], books["work"]["matched"]))
    if books["work"]["dead"] != facts["poison"] or len(dead) != facts["poison"]:
        failures.append("%d poison events, %d dead, %d letters" %
                        (facts["poison"], books["work"]["dead"], len(dead)))
    if any(letter["attempts"] != ATTEMPTS for letter in dead):
        failures.append("a letter without its %d attempts" % ATTEMPTS)
    if books["files"]["matched"] != files:
        failures.append("%d files made %d events" % (files, books["files"]["matched"]))
    fired, skipped = after
    if not before[0] - 2 <= books["ticks"]["matched"] <= fired:
        failures.append("%d instants fired, %d are in the journal" %
                        (fired, books["ticks"]["matched"]))
    span = (milliseconds(ticks[-1]) - milliseconds(ticks[0])) // TICK_MS + 1
    if not sum(before) - 2 <= span <= sum(after) + 2:
        failures.append("%d instants passed, %d fired and %d were skipped" % (span, fired, skipped))
    for book in books.values():
        ends = sum(book[end] for end in ("acked", "dead", "dropped", "expired", "pending"))
        if book["matched"] != ends:
            failures.append("the books of %s do not balance: %s" % (book["name"], book))
    print("%d broker kills, %d worker kills, %d events answered (%d repeats), %d executions, at "
          "most %d of one event; %d files; %d instants fired, %d skipped; %d letters" %
          (options.kills, worker_kills, facts["published"], facts["duplicates"],
           facts["executions"], facts["most"], files, fired, skipped, len(dead)))
    if fixture.power:
        print("%d power cuts took back %d sectors and %d changes of names" %
              (fixture.power.cuts, fixture.power.sectors_lost, fixture.power.names_lost))
    return failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tocsin", required=True)
    parser.add_argument("--load", required=True)
    parser.add_argument("--kills", type=int, default=int(os.environ.get("TOCSIN_KILLS", "50")))
    parser.add_argument("--rate", type=int, default=0, help="events a second; 0: full load")
    parser.add_argument("--power", help="the library that notes what is not synced")
    parser.add_argument("--lie", action="store_true", help="the disk lies; the run must fail")
    parser.add_argument("--keep", action="store_true", help="leave the directory of a failure")
    options = parser.parse_args()
    seed = int(os.environ.get("TOCSIN_SEED", random.SystemRandom().randrange(1 << 32)))
    print("seed", seed, flush=True)
    directory = tempfile.mkdtemp(prefix="tocsin-kill-")
    fixture = Fixture(options, directory)
    try:
        files, worker_kills, state = campaign(fixture, options, random.Random(seed))
        failures = check(fixture, options, files, worker_kills, state)
    except Failed as problem:
        failures = [str(problem)]
    for failure in failures:
        print("FAILED:", failure)
    if failures:
        with open(fixture.log.name, encoding="utf-8", errors="replace") as log:
            sys.stdout.writelines(log.readlines()[-30:])
    if not (failures and options.keep):
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print("see", directory)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

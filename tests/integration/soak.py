#!/usr/bin/python3
"""A broker under half the load it can take, for long, while it and its workers are restarted.

First the most it takes is measured, for half a minute; the rest runs at half of it (or at --rate).
In the first and the last quarter of the time the broker, in turn, is stopped (SIGTERM) and killed
(SIGKILL) every other minute, and a worker is killed in those between; the half between is one life.
Afterwards: each event that was answered ran, first runs of a key rose, the books balance; in that
life memory and descriptors of broker and workers did not grow.

    soak.py --tocsin build/tocsin --load build/tests/soak_load [--minutes 60] [--rate N]
            [--plot docs/soak.svg]
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

CONFIG = """
version: 1
broker:
  data_dir: %(dir)s/data
  listen: "127.0.0.1:%(port)d"
  http: "127.0.0.1:0"
  retention: { size: 2GiB }
functions: { soak: {} }
triggers:
  soak: { function: soak, retry: { attempts: 5, backoff: 100ms } }
"""
SAMPLE_SECONDS = 5
RESTART_SECONDS = 60
CALIBRATE_SECONDS = 30
WARM = 0.2  # of the long life: its caches and tables fill
LIFE_MIN = 600  # seconds: in a shorter one tables still fill
GROWTH_MAX = 1.1  # of memory, from the first third of what is left to the last
PAUSE = threading.Event()  # never set: waits that a signal may end


class Soak:
    def __init__(self, options, directory):
        self.tocsin, self.load = os.path.abspath(options.tocsin), os.path.abspath(options.load)
        self.dir = directory
        self.state = os.path.join(directory, "state")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.env = dict(os.environ, TOCSIN_TARGET="127.0.0.1:%d" % port)
        self.config = os.path.join(directory, "t.yaml")
        with open(self.config, "w", encoding="utf-8") as out:
            out.write(CONFIG % {"dir": directory, "port": port})
        self.log = open(os.path.join(directory, "log"), "ab")
        self.broker = self.publisher = None
        self.workers, self.samples, self.restarts = [], [], []
        self.started = self.born = time.monotonic()
        self.before = (0, 0, {})

    def run(self, *words):
        return subprocess.run([self.tocsin, *words], env=self.env, text=True,
                              capture_output=True, timeout=60, check=False)

    def serve(self):
        self.broker = subprocess.Popen([self.tocsin, "serve", "-c", self.config],
                                       stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while self.run("status").returncode != 0:
            if self.broker.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("FAILED: the broker did not start")
        self.born = time.monotonic()

    def worker(self):
        return subprocess.Popen([self.load, "work", self.state], env=self.env,
                                stdout=self.log, stderr=self.log)

    def publish(self, rate):
        self.publisher = subprocess.Popen([self.load, "publish", self.state, str(rate)],
                                          env=self.env, stdin=subprocess.PIPE, stderr=self.log)

    def show(self):
        shown = subprocess.run([self.load, "show", self.state], text=True, capture_output=True,
                               check=True)
        return json.loads(shown.stdout)

    def end_publisher(self):
        self.publisher.stdin.close()
        if self.publisher.wait(timeout=180) != 0:
            raise SystemExit("FAILED: the publisher has events without an answer")

    def sample(self):
        told = self.show()
        now = time.monotonic() - self.started
        then, ran, latency = self.before
        fresh = {int(end): count - latency.get(end, 0) for end, count in told["latency"].items()}
        self.before = (now, told["first_runs"], told["latency"])
        self.samples.append({
            "at": now, "age": time.monotonic() - self.born,
            "rate": (told["first_runs"] - ran) / max(now - then, 0.001),
            "p50": quantile(fresh, 0.5), "p99": quantile(fresh, 0.99),
            "rss": memory(self.broker.pid), "fds": descriptors(self.broker.pid),
            # Not what is mapped of the file that says which events ran: that is the test's.
            "worker_rss": max(memory(w.pid, "RssAnon") for w in self.workers),
            "data": size_of(os.path.join(self.dir, "data"))})

    def disturb(self, turn):
        what = ("stop", "worker", "kill", "worker")[turn % 4]
        self.restarts.append((time.monotonic() - self.started, what))
        if what == "worker":
            victim = turn // 2 % len(self.workers)
            self.workers[victim].kill()
            self.workers[victim].wait()
            self.workers[victim] = self.worker()
            return
        self.broker.send_signal(signal.SIGTERM if what == "stop" else signal.SIGKILL)
        if self.broker.wait(timeout=60) != 0 and what == "stop":
            raise SystemExit("FAILED: the broker did not stop in order")
        self.serve()


def quantile(buckets, share):
    total, seen = sum(buckets.values()), 0
    for end in sorted(buckets):
        seen += buckets[end]
        if total and seen >= share * total:
            return end / 1000
    return 0.0


def memory(pid, what="VmRSS"):
    try:
        with open("/proc/%d/status" % pid, encoding="ascii") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))
    except (FileNotFoundError, StopIteration):
        return 0.0


def descriptors(pid):
    try:
        return len(os.listdir("/proc/%d/fd" % pid))
    except FileNotFoundError:
        return 0


def size_of(directory):
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total / (1 << 20)


def campaign(soak, options):
    soak.serve()
    soak.workers = [soak.worker(), soak.worker()]
    rate = options.rate
    if rate == 0:
        soak.publish(0)
        PAUSE.wait(5)
        before, began = soak.show()["first_runs"], time.monotonic()
        PAUSE.wait(CALIBRATE_SECONDS)
        most = (soak.show()["first_runs"] - before) / (time.monotonic() - began)
        rate = int(most / 2)
        print("the most it takes here: %.0f events/s; half of it: %d" % (most, rate), flush=True)
        soak.end_publisher()
    soak.publish(rate)
    soak.started = time.monotonic()
    soak.before = (0.0, soak.show()["first_runs"], soak.show()["latency"])
    every = min(RESTART_SECONDS, options.minutes * 60 / 12)
    turn, next_restart = 0, every
    while (now := time.monotonic() - soak.started) < options.minutes * 60:
        PAUSE.wait(min(SAMPLE_SECONDS, every / 2))
        soak.sample()
        if now >= next_restart:
            if not 0.25 <= now / (options.minutes * 60) <= 0.75:
                soak.disturb(turn)
                turn += 1
            next_restart += every
        if soak.publisher.poll() is not None or any(w.poll() is not None for w in soak.workers):
            raise SystemExit("FAILED: a program of the load ended by itself")
        if soak.broker.poll() is not None:
            raise SystemExit("FAILED: the broker ended by itself")
    soak.end_publisher()
    return rate


def drained(soak):
    deadline = time.monotonic() + 300
    while True:
        answer = soak.run("triggers", "-o", "json")
        books = json.loads(answer.stdout)[0] if answer.returncode == 0 else None
        if books and books["pending"] == 0:
            return books
        if time.monotonic() > deadline:
            raise SystemExit("FAILED: not drained: %s" % books)
        PAUSE.wait(0.5)


def check(soak, books):
    failures = []
    told = soak.show()
    missing = subprocess.run([soak.load, "missing", soak.state], text=True, capture_output=True,
                             check=False).stdout.strip()
    if missing != "0":
        failures.append("%s events never ran" % missing)
    if told["disordered"]:
        failures.append("%d first runs out of order" % told["disordered"])
    if books["matched"] != told["answered"] or books["acked"] != books["matched"]:
        failures.append("%d events were answered; %s" % (told["answered"], books))
    oldest = max(soak.samples, key=lambda s: s["age"])
    life = [s for s in soak.samples
            if abs(s["at"] - s["age"] - (oldest["at"] - oldest["age"])) < SAMPLE_SECONDS
            and s["age"] >= WARM * oldest["age"]]
    third = max(1, len(life) // 3)
    for what, most in (("rss", GROWTH_MAX), ("worker_rss", GROWTH_MAX), ("fds", 1.0)):
        early = statistics.median(s[what] for s in life[:third])
        late = statistics.median(s[what] for s in life[-third:])
        print("%s in the life of %.0f s: median %.0f in its first third, %.0f in its last; most of "
              "all %.0f" % (what, oldest["age"], early, late, max(s[what] for s in soak.samples)))
        if oldest["age"] >= LIFE_MIN and late > early * most + (2 if what == "fds" else 0):
            failures.append("%s grew from %.0f to %.0f" % (what, early, late))
    print("%d events answered (%d repeats), %d executions, %d restarts of the broker, %d of workers"
          % (told["answered"], told["duplicates"], told["executed"],
             sum(what != "worker" for _, what in soak.restarts),
             sum(what == "worker" for _, what in soak.restarts)))
    print("median of the samples: %.0f events/s, publish to handler p50 %.2f ms, p99 %.1f ms" %
          tuple(statistics.median(s[what] for s in soak.samples)
                for what in ("rate", "p50", "p99")))
    return failures


def plot(soak, path):
    """One curve under another, over the same minutes; a line for each restart."""
    curves = (("events/s", "rate"), ("publish to handler, p50, ms", "p50"),
              ("broker, resident MiB", "rss"), ("worker, its own MiB", "worker_rss"),
              ("broker, descriptors", "fds"), ("data directory, MiB", "data"))
    width, height, left = 800, 110, 60
    end = max(s["at"] for s in soak.samples)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" '
           'font-size="11">' % (width, height * len(curves) + 30),
           '<rect width="100%" height="100%" fill="white"/>']
    for row, (title, what) in enumerate(curves):
        top, span = row * height + 20, height - 30
        most = max(s[what] for s in soak.samples) * 1.1 or 1
        for at, kind in soak.restarts:
            x = left + (width - left - 10) * at / end
            color = {"worker": "#ddd", "stop": "#9cf", "kill": "#f99"}[kind]
            out.append('<path d="M%.1f %dv%d" stroke="%s"/>' % (x, top, span, color))
        points = " ".join("%.1f,%.1f" % (left + (width - left - 10) * s["at"] / end,
                                         top + span * (1 - s[what] / most))
                          for s in soak.samples)
        out.append('<text x="%d" y="%d">%s</text>' % (left, top - 5, title))
        out.append('<text x="%d" y="%d" text-anchor="end">%.3g</text>' % (left - 5, top + 10, most))
        out.append('<text x="%d" y="%d" text-anchor="end">0</text>' % (left - 5, top + span))
        out.append('<path d="M%d %dv%dh%d" fill="none" stroke="#888"/>' %
                   (left, top, span, width - left - 10))
        out.append('<polyline points="%s" fill="none" stroke="#036"/>' % points)
    out.append('<text x="%d" y="%d">%.0f minutes; lines: broker stopped (blue), killed (red), a '
               'worker killed (grey)</text></svg>' % (left, height * len(curves) + 22, end / 60))
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tocsin", required=True)
    parser.add_argument("--load", required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=int, default=0, help="events a second; 0: half the most")
    parser.add_argument("--plot", help="an SVG file")
    parser.add_argument("--keep", action="store_true", help="leave the directory")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="tocsin-soak-")
    soak = Soak(options, directory)
    try:
        rate = campaign(soak, options)
        failures = check(soak, drained(soak))
        print("%.0f minutes at %d events/s" % (options.minutes, rate))
    finally:
        for process in [*soak.workers, soak.publisher, soak.broker]:
            if process:
                process.kill()
                process.wait()
        if soak.samples and options.plot:
            plot(soak, options.plot)
        if options.keep:
            print("see", directory)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    for failure in failures:
        print("FAILED:", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

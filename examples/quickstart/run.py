#!/usr/bin/python3
"""Runs the quickstart: a broker, a Python and a C++ worker, real files, a timer, a published event,
and one poison file that is retried, dead-lettered, repaired and redriven. Each step is shown as it
happens. Exit status 0 only if everything that should have been delivered was.
"""

import argparse
import collections
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
STEP_SECONDS_MAX = 15
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ

FILES = {
    "monday.csv": "order,amount\nA-1001,19.90\nA-1002,5.00\nA-1003,120.00\n",
    "tuesday.csv": "order,amount\nA-1004,42.00\nA-1005,7.50\n",
}
POISON = ("wednesday.csv", "order,amount\nA-1006,61.20\nA-1007,twelve\n")
REPAIRED = "order,amount\nA-1006,61.20\nA-1007,12.00\n"
PUBLISHED = {"order": "B-2001", "amount": 99.0}
ORDERS = {"A-1001", "A-1002", "A-1003", "A-1004", "A-1005", "A-1006", "A-1007", "B-2001"}


class Missing(Exception):
    """Something that should have happened did not."""


def styled(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOURS else text


def say(text=""):
    print(text, flush=True)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Tour:
    def __init__(self, build_dir):
        self.tocsin = os.path.join(build_dir, "tocsin")
        self.cpp_worker = os.path.join(build_dir, "quickstart_worker")
        self.build_dir = build_dir
        self.dir = tempfile.mkdtemp(prefix="tocsin-quickstart-")
        self.inbox = os.path.join(self.dir, "inbox")
        os.mkdir(self.inbox)
        port, self.http_port = free_ports(2)
        self.target = f"127.0.0.1:{port}"
        python_path = [os.path.join(build_dir, "sdk/python"), os.path.join(ROOT, "sdk/python"),
                       os.environ.get("PYTHONPATH", "")]
        self.env = dict(os.environ, QUICKSTART_DIR=self.dir, TOCSIN_TARGET=self.target,
                        QUICKSTART_HTTP_PORT=str(self.http_port), PYTHONUNBUFFERED="1",
                        PYTHONPATH=os.pathsep.join(p for p in python_path if p))
        self.processes = {}
        self.changed = threading.Condition()
        self.lines = []                      # what the workers printed
        self.log_path = os.path.join(self.dir, "broker.log")
        self.steps = 0

    # ---- processes

    def start(self, name, command, show):
        if show:
            process = subprocess.Popen(command, env=self.env, cwd=self.dir, text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       start_new_session=True)
            threading.Thread(target=self._follow, args=(name, process), daemon=True).start()
        else:
            with open(self.log_path, "ab") as log:
                process = subprocess.Popen(command, env=self.env, cwd=self.dir, stdout=log,
                                           stderr=subprocess.STDOUT, start_new_session=True)
        self.processes[name] = process

    def _follow(self, name, process):
        for line in process.stdout:
            line = line.rstrip("\n")
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
            say("     " + styled("36", f"{name:>6}") + " | " + line)

    def stop_all(self):
        for process in self.processes.values():
            if process.poll() is None:
                try:
                    os.killpg(process.pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass
        give_up = time.monotonic() + 5
        for process in self.processes.values():
            try:
                process.wait(max(0.1, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()

    def check_alive(self):
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise Missing(f"the {name} process ended with status {process.returncode}")

    # ---- looking and waiting

    def command(self, *arguments, stdin=None, show=True):
        if show:
            words = [f"'{a}'" if re.search(r'[\s{}"]', a) else a for a in arguments]
            say("     " + styled("2", "$ tocsin " + " ".join(words)))
        done = subprocess.run([self.tocsin, *arguments], env=self.env, input=stdin, text=True,
                              capture_output=True, timeout=STEP_SECONDS_MAX, check=False)
        if done.returncode != 0:
            raise Missing(f"tocsin {arguments[0]} failed: {(done.stderr or done.stdout).strip()}")
        if show:
            for line in (done.stdout.rstrip("\n") or done.stderr.rstrip("\n")).split("\n"):
                say("       " + line)
        return done.stdout

    def listed(self, *arguments):
        """The array of a list command, whatever object it may be wrapped in."""
        document = json.loads(self.command(*arguments, "-o", "json", show=False))
        if isinstance(document, dict):
            document = next((v for v in document.values() if isinstance(v, list)), [])
        return document

    def wait_for(self, what, condition):
        give_up = time.monotonic() + STEP_SECONDS_MAX
        while True:
            self.check_alive()
            result = condition()
            if result:
                return result
            if time.monotonic() > give_up:
                raise Missing(f"{what}: not within {STEP_SECONDS_MAX} s")
            with self.changed:
                self.changed.wait(0.1)

    def printed(self, pattern):
        with self.changed:
            return [m for m in (re.search(pattern, line) for line in self.lines) if m]

    def wait_printed(self, what, pattern, count=1):
        return self.wait_for(what, lambda: len(self.printed(pattern)) >= count)

    def is_ready(self):
        try:
            url = f"http://127.0.0.1:{self.http_port}/readyz"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def drop(self, name, text):
        # Written in place, as a careless uploader would: Tocsin waits until the file is complete.
        with open(os.path.join(self.inbox, name), "w", encoding="utf-8") as file:
            file.write(text)
        say(f"     {name}: {text.count(chr(10)) - 1} lines")

    def step(self, text):
        self.steps += 1
        say()
        say(styled("1", f"{self.steps:2}. {text}"))

    # ---- the tour

    def run(self):
        self.step("A broker starts; its journal is empty, its inbox is watched")
        say("     " + styled("2", "$ tocsin serve -c examples/quickstart/tocsin.yaml"))
        self.start("broker", [self.tocsin, "serve", "-c", os.path.join(HERE, "tocsin.yaml"),
                              "--data-dir", os.path.join(self.dir, "data"),
                              "--listen", self.target], show=False)
        self.wait_for("the broker is ready", self.is_ready)
        say(f"     ready on {self.target}; data, inbox and log in {self.dir}")

        self.step("Two workers attach: worker.py serves import-csv, worker.cc charge and show-time")
        self.start("python", ["/usr/bin/python3", os.path.join(HERE, "worker.py")], show=True)
        self.start("c++", [self.cpp_worker], show=True)
        self.wait_for("both workers are attached", lambda: len(self.listed("workers")) >= 2)
        self.command("workers")

        self.step("Two CSV files are dropped into the inbox; each order in them becomes an event")
        for name, text in FILES.items():
            self.drop(name, text)
        self.wait_printed("both files are imported", r"import-csv: \w+\.csv has", 2)
        self.wait_printed("five orders are charged", r"charge: A-", 5)

        self.step("An order is published by command")
        self.command("publish", "--type", "com.example.order.placed", "--source", "/quickstart",
                     "--id", PUBLISHED["order"], "--subject", PUBLISHED["order"],
                     "--data", json.dumps(PUBLISHED))
        self.wait_printed("the published order is charged", r"charge: B-2001")

        self.step("A poison file: an amount in it is no number. Three attempts, then a dead letter")
        self.drop(*POISON)
        letters = self.wait_for("a dead letter is there", lambda: self.listed("dead", "list"))
        self.wait_printed("three attempts", rf"import-csv: {POISON[0]}, attempt", 3)
        attempts = len(self.printed(rf"import-csv: {POISON[0]}, attempt"))
        if attempts != 3:
            raise Missing(f"{POISON[0]} had {attempts} attempts instead of 3")
        self.command("dead", "list")

        self.step("The file is repaired, the dead letter redriven")
        self.drop(POISON[0], REPAIRED)
        self.command("dead", "redrive", str(letters[0]["id"]))
        self.wait_printed("the repaired file is imported", rf"import-csv: {POISON[0]} has 2 orders")
        self.wait_for("the dead letters are empty", lambda: not self.listed("dead", "list"))

        self.step("Meanwhile the timer went on: every 2 s, each instant once")
        self.wait_printed("three instants", r"show-time: ", 3)

        self.step("The books of each trigger: matched = acked + dead + dropped + expired + pending")
        self.wait_for("nothing is pending", self.is_settled)
        self.command("triggers")
        self.verify()

    def is_settled(self):
        return all(t["pending"] == 0 for t in self.listed("triggers"))

    def verify(self):
        charged = collections.Counter(m.group(1) for m in self.printed(r"charge: (\S+?),"))
        if set(charged) != ORDERS:
            raise Missing(f"orders never charged: {sorted(ORDERS - set(charged))}; "
                          f"charged unasked: {sorted(set(charged) - ORDERS)}")
        twice = sorted(order for order, count in charged.items() if count > 1)
        if twice:
            raise Missing(f"charged more than once: {twice}")
        instants = collections.Counter(m.group(1) for m in self.printed(r"show-time: (\S+)"))
        if max(instants.values()) > 1:
            raise Missing(f"an instant fired twice: {instants.most_common(1)[0][0]}")
        triggers = {t["name"]: t for t in self.listed("triggers")}
        for name, one in triggers.items():
            ends = sum(int(one[k]) for k in ("acked", "dead", "dropped", "expired", "pending"))
            if int(one["matched"]) != ends:
                raise Missing(f"the books of {name} do not balance: {one}")
        # The redriven delivery is a new one: 3 files + 1 redrive matched, 1 of them dead.
        imports = {k: int(triggers["import-orders"][k]) for k in ("matched", "acked", "dead")}
        if imports != {"matched": 4, "acked": 3, "dead": 1}:
            raise Missing(f"import-orders says {imports}")
        say()
        say(styled("1;32", "Delivered:") + f" 3 files imported (1 of them after 3 failed attempts, "
            f"repair and redrive), {len(charged)} orders charged once each, "
            f"{len(instants)} timer instants. Nothing lost, nothing twice.")

    def stay(self):
        say()
        say(f"It goes on running. Drop CSV files into {self.inbox}, or in another terminal:")
        say(f"  export TOCSIN_TARGET={self.target} PATH={self.build_dir}:$PATH")
        say("  tocsin publish --type com.example.order.placed --source /me "
            "--data '{\"order\": \"C-1\", \"amount\": 1}'")
        say("  tocsin triggers")
        say(f"  curl http://127.0.0.1:{self.http_port}/metrics")
        say("Ctrl-C ends it.")
        while True:
            self.check_alive()
            time.sleep(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build-dir", default=os.path.join(ROOT, "build"))
    parser.add_argument("--stay", action="store_true", help="keep running until Ctrl-C")
    options = parser.parse_args()
    build_dir = os.path.abspath(options.build_dir)
    for program in ("tocsin", "quickstart_worker"):
        if not os.access(os.path.join(build_dir, program), os.X_OK):
            say(f"quickstart: {build_dir}/{program} is not built; run make build")
            return 1

    def on_sigterm(_signal, _frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_sigterm)
    tour = Tour(build_dir)
    began = time.monotonic()
    status = 1
    try:
        tour.run()
        status = 0
        say(f"The tour took {time.monotonic() - began:.1f} s.")
        if options.stay:
            tour.stay()
        say("To keep it running and play with it: make quickstart STAY=1")
    except (Missing, subprocess.TimeoutExpired, KeyError, ValueError) as problem:
        status = 1
        say()
        say(styled("1;31", "Missing:") + f" {problem!r}" if not isinstance(problem, Missing)
            else styled("1;31", "Missing:") + f" {problem}")
    except KeyboardInterrupt:
        say()
        say("quickstart: stopped")
        status = status if options.stay else 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        tour.stop_all()
        if status not in (0, 130) and os.path.exists(tour.log_path):
            with open(tour.log_path, encoding="utf-8", errors="replace") as log:
                say("The end of the broker's log:")
                for line in log.read().split("\n")[-20:]:
                    say("  " + line)
        shutil.rmtree(tour.dir, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())

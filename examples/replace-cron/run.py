#!/usr/bin/python3
"""A crontab before, the imported configuration after. Exit status 0 only if the import gives
tocsin.yaml, the night when clocks change fires what it should, and every command ran.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
STEP_SECONDS_MAX = 60
JOBS = ("collect", "backup", "report", "archive")


class Missing(Exception):
    """Something that should have happened did not."""


def say(text=""):
    print(text, flush=True)


def eventually(what, holds):
    end = time.monotonic() + STEP_SECONDS_MAX
    while not holds():
        if time.monotonic() > end:
            raise Missing(what)
        time.sleep(0.1)


class Tour:
    def __init__(self, build, folder):
        self.tocsin = os.path.join(build, "tocsin")
        self.folder = folder
        self.ledger = os.path.join(folder, "ledger")

    def run(self, *words):
        say("$ tocsin " + " ".join(words))
        done = subprocess.run([self.tocsin, *words], cwd=HERE, capture_output=True, text=True,
                              check=False)
        if done.returncode != 0:
            raise Missing(done.stderr)
        return done

    def import_it(self):
        done = self.run("import", "crontab", "--tz", "Europe/Berlin", "crontab")
        say(done.stderr)
        with open(os.path.join(HERE, "tocsin.yaml"), encoding="utf-8") as kept:
            if kept.read() != done.stdout:
                raise Missing("tocsin.yaml is not what the import gives:\n" + done.stdout)
        if "ran twice on the autumn night" not in done.stderr:
            raise Missing("the note on the autumn night")

    def look(self):
        say(self.run("cron", "explain", "0 8 * * 1-5", "--tz", "Europe/Berlin").stdout)
        say(self.run("cron", "next", "30 2 * * *", "--tz", "Europe/Berlin", "-n", "3",
                     "--from", "2026-10-24T12:00:00").stdout)
        fires = json.loads(self.run(
            "simulate", "-c", "tocsin.yaml", "--from", "2026-10-24T12:00:00Z", "--for", "24h",
            "-o", "json").stdout)["fires"]
        backups = [fire["at"] for fire in fires if fire["source"] == "backup.sh"]
        if backups != ["2026-10-25T00:30:00Z"]:
            raise Missing(f"one backup on the autumn night, and not {backups}")
        say(f"{len(fires)} fires in 24 hours, one of them the backup: {backups[0]}\n")

    def serve(self):
        # The same file, with schedules that fire at once.
        with open(os.path.join(HERE, "tocsin.yaml"), encoding="utf-8") as kept:
            text = re.sub(r'cron: "[^"]*"', 'cron: "@every 1s"', kept.read())
        text = text.replace("version: 1\n", "version: 1\nbroker:\n  data_dir: %s/data\n"
                            "  listen: 127.0.0.1:0\n  http: 127.0.0.1:0\n" % self.folder)
        config = os.path.join(self.folder, "now.yaml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(text)
        say("$ tocsin serve -c now.yaml")
        broker = subprocess.Popen([self.tocsin, "serve", "-c", config], cwd=HERE,
                                  env=dict(os.environ, LEDGER=self.ledger))
        try:
            eventually("every command ran", lambda: set(self.ran()) >= set(JOBS))
        finally:
            broker.send_signal(signal.SIGTERM)
            status = broker.wait(STEP_SECONDS_MAX)
        if status != 0:
            raise Missing(f"the broker ended with status {status}")
        with open(self.ledger, encoding="utf-8") as kept:
            lines = kept.read().splitlines()
        report = next(line for line in lines if line.startswith("report "))
        if "Dear team, ${GREETING} is in the environment." not in report:
            raise Missing(f"the text behind the %, and not {report}")
        ids = [line.split()[1] for line in lines]
        if len(ids) != len(set(ids)):
            raise Missing("each instant once")
        say(f"\n{len(lines)} runs, each of an instant of its own; for instance\n  {report}")

    def ran(self):
        if not os.path.exists(self.ledger):
            return []
        with open(self.ledger, encoding="utf-8") as kept:
            return [line.split()[0] for line in kept.read().splitlines() if line]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-dir", default=os.path.join(HERE, "..", "..", "build"))
    build = os.path.abspath(parser.parse_args().build_dir)
    folder = tempfile.mkdtemp(prefix="tocsin-cron-")
    tour = Tour(build, folder)
    try:
        tour.import_it()
        tour.look()
        tour.serve()
    except Missing as missing:
        say(f"\nmissing: {missing}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
"""Matching beside AWS event-ruler, in one run: the figures of docs/benchmarks.md.

Both are processes of their own that hold the same rules and events; they are measured in turns,
so that noise of the machine meets both, and their time is core time of the matching thread (the
garbage collector and the compiler of the virtual machine are not counted). First all rule banks
are counted on both sides: the counts must be equal, and those that are expected.

    match_figures.py --ours build/match_figures --vectors DIR [-o FILE] [--rounds 5] [--no-floors]

Writes a list of {row, case, ours, peer, peer_name, ratio, unit, ours_range, peer_range}. Exit
status 1 if a count differs or a floor is missed.
"""

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

RULER_VERSION = "2.1.0"
RULER = "event-ruler " + RULER_VERSION
POM = """<project><modelVersion>4.0.0</modelVersion><groupId>t</groupId>
<artifactId>ruler</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>software.amazon.event.ruler</groupId><artifactId>event-ruler</artifactId>
<version>%s</version></dependency></dependencies></project>
""" % RULER_VERSION
HERE = os.path.dirname(os.path.abspath(__file__))
# (row, case): least events or rules a second, or most bytes, or least ratio.
FLOORS = {
    ("T5", "exact_100k"): ("ours", 1.5e6),
    ("T6", "three_fields_10k"): ("ours", 0.5e6),
    ("T7", "complex_arrays"): ("ratio", 5),
    ("T7", "all_banks"): ("ratio", 5),
    ("T8", "exact_100k"): ("ours", 100e3),
    ("T9", "exact_100k"): ("most", 30e6),
}


def class_path(folder):
    """The jars of event-ruler, fetched once by Maven into its own cache."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.abspath(os.path.join(folder, "ruler-%s.classpath" % RULER_VERSION))
    if os.path.exists(path):
        with open(path, encoding="utf-8") as told:
            jars = told.read().strip()
        if all(os.path.exists(jar) for jar in jars.split(":")):
            return jars
    maven = shutil.which("mvn")
    assert maven and shutil.which("javac"), "mvn or javac is missing: deploy/install-deps --tests"
    with open(os.path.join(folder, "pom.xml"), "w", encoding="utf-8") as pom:
        pom.write(POM)
    done = subprocess.run([maven, "-q", "-B", "dependency:build-classpath",
                           "-Dmdep.outputFile=" + path], cwd=folder, capture_output=True, text=True,
                          timeout=900, check=False)
    assert done.returncode == 0, "event-ruler could not be fetched:\n" + done.stdout[-2000:]
    with open(path, encoding="utf-8") as told:
        return told.read().strip()


class Side:
    """A process that takes commands."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "%s ended at: %s" % (self.process.args[0], command)
        return json.loads(line)

    def rate(self, command):
        answer = self.ask(command)
        return answer["count"] / answer["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


class Data:
    """Rules and events as files of JSON lines."""

    def __init__(self, vectors, folder):
        self.folder = folder
        with open(os.path.join(vectors, "citylots2_rule_banks.json"), encoding="utf-8") as text:
            self.banks = json.load(text)
        lots = os.path.join(vectors, "synthetic_lots_20000.jsonl.gz")
        with gzip.open(lots, "rt", encoding="utf-8") as text:
            self.lots = text.read().splitlines()
        self.events = os.path.join(folder, "events.jsonl")
        with open(self.events, "w", encoding="utf-8") as out:
            out.write("\n".join(self.lots) + "\n")

    def rules(self, name, rules):
        path = os.path.join(self.folder, name + ".jsonl")
        with open(path, "w", encoding="utf-8") as out:
            for rule in rules:
                out.write(json.dumps(rule, separators=(",", ":")) + "\n")
        return path

    def exact(self, count):
        """The events' own values first, so that most events match one rule."""
        values = dict.fromkeys(json.loads(lot)["properties"]["MAPBLKLOT"] for lot in self.lots)
        number = 0
        while len(values) < count:
            values["%07d" % number] = None
            number += 1
        return [{"properties": {"MAPBLKLOT": [value]}} for value in list(values)[:count]]

    def three_fields(self, count):
        """Combinations that events have: each field alone is shared by many rules."""
        seen = {}
        numbers = []
        for lot in self.lots:
            properties = json.loads(lot)["properties"]
            numbers.append(properties["FROM_ST"])
            key = (properties["STREET"], properties["FROM_ST"], properties["ST_TYPE"])
            if None not in key:
                seen[key] = None
        keys = list(seen)[:count]
        for i, number in enumerate(numbers):
            if len(keys) >= count:
                break
            keys.append((keys[i][0], number or "1", keys[i][2]))
        return [{"properties": {"STREET": [a], "FROM_ST": [b], "ST_TYPE": [c]}}
                for a, b, c in keys]


class Run:
    """One measurement after the other, and what they gave."""

    def __init__(self, arguments, data, ruler):
        self.arguments = arguments
        self.data = data
        self.ruler = ruler
        self.rows = []
        self.wrong = []

    def sides(self):
        return Side([self.arguments.ours]), Side(self.ruler)

    def add(self, row, case, unit, ours, peer, more_is_better=True):
        mine, theirs = statistics.median(ours), statistics.median(peer)
        ratio = mine / theirs if more_is_better else theirs / mine
        entry = {"row": row, "case": case, "ours": mine, "peer": theirs, "peer_name": RULER,
                 "ratio": round(ratio, 2), "unit": unit, "ours_range": [min(ours), max(ours)],
                 "peer_range": [min(peer), max(peer)]}
        self.rows.append(entry)
        kind, floor = FLOORS.get((row, case), (None, 0))
        met = {"ours": mine >= floor, "ratio": ratio >= floor, "most": mine <= floor,
               None: True}[kind]
        if not met:
            self.wrong.append("%s %s: %s is below its floor of %g" % (
                row, case, "the ratio %.2f" % ratio if kind == "ratio" else "%g" % mine, floor)
                              if kind != "most" else
                              "%s %s: %g is above its most of %g" % (row, case, mine, floor))
        print("%-3s %-28s %12s [%s .. %s]  %s %s [%s .. %s]  ratio %.2f %s" % (
            row, case, short(mine), short(min(ours)), short(max(ours)), RULER, short(theirs),
            short(min(peer)), short(max(peer)), ratio, unit), flush=True)

    def check_banks(self):
        ours, peer = self.sides()
        for bank in self.data.banks:
            path = self.data.rules("bank_" + bank["bank"], bank["rules"])
            counts = []
            for side in (ours, peer):
                side.ask("load %s %s" % (path, self.data.events))
                counts.append(side.ask("count")["matches"])
            expected = bank["expected_matches_synthetic"]
            if counts != [expected, expected]:
                self.wrong.append("%s: %s and %s, expected %s" % (bank["bank"], *counts, expected))
        ours.close()
        peer.close()
        print("%d rule banks on %d events: %s" % (
            len(self.data.banks), len(self.data.lots),
            "; ".join(self.wrong) if self.wrong else "counts are equal, and those expected"),
              flush=True)

    def throughput(self, row, case, rules, command="run", unit="events per core second",
                   rounds=None):
        path = self.data.rules(case, rules)
        ours, peer = self.sides()
        for side in (ours, peer):
            side.ask("load %s %s" % (path, self.data.events))
        if command == "run":
            mine, theirs = (side.ask("count")["matches"] for side in (ours, peer))
            if mine != theirs:
                self.wrong.append("%s %s: the matches differ" % (row, case))
        seconds = self.arguments.seconds
        for side in (peer, ours):  # the compiler of the virtual machine, the caches
            side.ask("%s %g" % (command, seconds * (3 if side is peer else 0.5)))
        rates = ([], [])
        for _ in range(rounds or self.arguments.rounds):
            for side, found in zip((ours, peer), rates):
                found.append(side.rate("%s %g" % (command, seconds)))
        ours.close()
        peer.close()
        self.add(row, case, unit, *rates)

    def memory(self, row, case, rules):
        path = self.data.rules(case, rules)
        none = os.path.join(self.data.folder, "one_event.jsonl")
        with open(none, "w", encoding="utf-8") as out:
            out.write(self.data.lots[0] + "\n")
        bytes_used = ([], [])
        for _ in range(3):
            for side, found in zip(self.sides(), bytes_used):
                found.append(side.ask("load %s %s" % (path, none))["bytes"])
                side.close()
        self.add(row, case, "bytes", *bytes_used, more_is_better=False)


def short(number):
    for size, name in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return "%.3g%s" % (number / size, name)
    return "%.3g" % number


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ours", default="build/match_figures")
    parser.add_argument("--vectors", default=os.path.join(HERE, "../../../shared/vectors",
                                                          "event_ruler"))
    parser.add_argument("--jars", default="build/ruler", help="where the class path is kept")
    parser.add_argument("-o", "--output", help="the JSON; default: standard output's end")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="core time of one measurement")
    parser.add_argument("--only", default="", help="rows, such as T5,T9; default: all, and the "
                        "counts of the banks")
    parser.add_argument("--banks", action="store_true", help="measure each bank, too")
    parser.add_argument("--no-floors", action="store_true")
    arguments = parser.parse_args()
    if not os.path.isdir(arguments.vectors):
        sys.exit("no rule banks in %s: see docs/testing.md" % arguments.vectors)
    if arguments.output:  # rather than after the measurement
        os.makedirs(os.path.dirname(os.path.abspath(arguments.output)), exist_ok=True)
    ruler = ["java", "-Xmx4g", "-cp", class_path(arguments.jars),
             os.path.join(HERE, "RulerPeer.java")]
    wanted = arguments.only.split(",") if arguments.only else ["T5", "T6", "T7", "T8", "T9"]
    with tempfile.TemporaryDirectory() as folder:
        data = Data(arguments.vectors, folder)
        run = Run(arguments, data, ruler)
        if not arguments.only:
            run.check_banks()
        everything = [rule for bank in data.banks for rule in bank["rules"]]
        arrays = next(b["rules"] for b in data.banks if b["bank"] == "COMPLEX_ARRAYS")
        if "T5" in wanted:
            run.throughput("T5", "exact_100k", data.exact(100_000))
        if "T6" in wanted:
            run.throughput("T6", "three_fields_10k", data.three_fields(10_000))
        if "T7" in wanted:
            run.throughput("T7", "complex_arrays", arrays)
            run.throughput("T7", "all_banks", everything)
        if "T8" in wanted:
            run.throughput("T8", "exact_100k", data.exact(100_000), "build",
                           "rules per core second")
        if "T9" in wanted:
            run.memory("T9", "exact_100k", data.exact(100_000))
        if arguments.banks:
            for bank in data.banks:
                run.throughput("bank", bank["bank"], bank["rules"], rounds=3)
    text = json.dumps(run.rows, indent=1)
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as out:
            out.write(text + "\n")
    else:
        print(text)
    for line in run.wrong:
        print("match_figures:", line, file=sys.stderr)
    counts_wrong = any("floor" not in line and "most" not in line for line in run.wrong)
    return 1 if counts_wrong or (run.wrong and not arguments.no_floors) else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
"""Instructions that the broker's core executes per event, against the recorded bounds.

    instructions.py --load build/tests/instruction_load [--record]

Each case of instruction_load runs under callgrind with many and with few events; the difference is
what its events cost, whatever else the machine does. More than LEEWAY above instructions.json
fails; as much below asks for new bounds, which --record writes.
"""

import argparse
import json
import os
import re
import subprocess
import sys

LEEWAY = 0.06
BOUNDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "instructions.json")
MANY, FEW = 2560, 512


def instructions(load, case, events):
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", load, case, str(events)],
        capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    return int(re.search(r"Collected : (\d+)", done.stderr).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--load", required=True)
    parser.add_argument("--record", action="store_true", help="write the bounds anew")
    options = parser.parse_args()
    with open(BOUNDS, encoding="utf-8") as file:
        bounds = json.load(file)
    missed, measured = [], {}
    for case, bound in bounds.items():
        cost = (instructions(options.load, case, MANY) - instructions(options.load, case, FEW)) \
            / (MANY - FEW)
        measured[case] = round(cost)
        more = cost / bound - 1 if bound else 0
        print("%-12s %7.0f instructions per event, recorded %7d, %+.1f %%"
              % (case, cost, bound, more * 100), flush=True)
        if more > LEEWAY:
            missed.append(case)
        elif more < -LEEWAY:
            print("%-12s needs less than recorded: run this with --record" % case)
    if options.record:
        with open(BOUNDS, "w", encoding="utf-8") as out:
            json.dump(measured, out, indent=1)
            out.write("\n")
        return 0
    for case in missed:
        print("%s: more instructions than recorded: find out why, or --record them" % case)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
"""One trigger more among 100,000: how long until events are routed by it (row T8).

A broker with 100,000 triggers in its configuration gets one after the other by Admin.ApplyTriggers.
Each is timed from the call to its answer, which comes when it is durable and every shard has it; an
event that is published then must match it. The first 200 alone, then 800 at once behind each other,
during which all triggers are compiled anew every 256 changes. Then they are taken away, timed
likewise, and an event must match none. Prints rows of JSON as timer_bench.py does. Needs TOCSIN and
TOCSIN_PROTOS (see tests/bench/CMakeLists.txt).
"""

import argparse
import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

import fault_rig  # noqa: E402
from fault_rig import Broker, event, message  # noqa: E402
from timer_bench import percentile, row, write_rows  # noqa: E402

FLOOR_MS = 5
ALONE = 200


def one(name, kind):
    return "  %s: { filters: [ { exact: { type: %s } } ], function: work }\n" % (name, kind)


def timed(action):
    began = time.monotonic()
    action()
    return (time.monotonic() - began) * 1e3


def apply_all(broker, names):
    apply, answer = message("ApplyTriggersRequest"), message("ApplyTriggersResponse")

    def add(name):
        sent = apply(text="triggers:\n" + one(name, "kind." + name), file="bench")
        told = broker.call("Admin/ApplyTriggers", sent.SerializeToString(), answer)
        assert not told.errors and len(told.changes) == 1, told

    times = []
    for name in names:
        times.append(timed(lambda name=name: add(name)))
        assert broker.accepted(event("with-" + name, kind="kind." + name))
    return times


def remove_all(broker, names):
    remove, answer = message("RemoveTriggersRequest"), message("RemoveTriggersResponse")
    times = []
    for name in names:
        sent = remove(names=[name]).SerializeToString()
        times.append(timed(lambda sent=sent: broker.call("Admin/RemoveTriggers", sent, answer)))
        assert broker.accepted(event("without-" + name, kind="kind." + name))
    return times


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("--dir", default=".")
    arguments.add_argument("--triggers", type=int, default=100_000)
    arguments.add_argument("--changes", type=int, default=1000)
    arguments.add_argument("-o", "--output")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir) as root:
        rest = "functions: { work: {} }\ntriggers:\n" + "".join(
            one("trigger-%d" % i, "kind.%d" % i) for i in range(given.triggers))
        broker = Broker(root, rest, shim=False, partitions=4)
        try:
            row("T8", "start with %d triggers in the file" % given.triggers,
                timed(broker.start) / 1e3, None, None, "s")
            names = ["added-%d" % i for i in range(given.changes)]
            apply_all(broker, ["warm"])
            for what, times in (("added, nothing else to do", apply_all(broker, names[:ALONE])),
                                ("added, all compiled anew meanwhile",
                                 apply_all(broker, names[ALONE:])),
                                ("removed", remove_all(broker, names))):
                case = "one among %d %s" % (given.triggers, what)
                row("T8", case + ", p50", percentile(times, 0.5), None, None, "ms")
                row("T8", case + ", p99", percentile(times, 0.99), FLOOR_MS, "floor", "ms")
                row("T8", case + ", worst", max(times), None, None, "ms")
            matched = {fault_rig.id_of(told): list(told.triggers) for told in broker.stored()}
            for name in names:
                assert matched["with-" + name] == [name], (name, matched["with-" + name])
                assert not matched["without-" + name], (name, matched["without-" + name])
        finally:
            broker.end()
    write_rows(given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

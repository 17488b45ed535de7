#!/usr/bin/python3
"""Rows per second from a replication slot into the journal, beside pg_recvlogical on an equal slot.

Each round gives both the same rows, in turn, so that noise of the machine meets both; both read
with pgoutput what lies ready in the log. Prints rows per second of both, their ratio, processor
time per row, and Tocsin's memory. Fails below RATIO_FLOOR, unless the processor time says that the
machine was the bound: on two cores walsender and reader share.
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

from fault_rig import Broker, eventually, one_trigger  # noqa: E402
from postgres_rig import Postgres, program  # noqa: E402
from queue_rig import source_status  # noqa: E402

RATIO_FLOOR = 0.7


def alone(server, slot, rows):
    """pg_recvlogical until the end of the log, as it does it best: nothing synced, to /dev/null."""
    end = server.do("SELECT pg_current_wal_lsn()", "bench")[0][0]
    began = time.monotonic()
    done = subprocess.run(
        [program("pg_recvlogical"), "-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres",
         "-d", "bench", "--slot", slot, "--start", "--endpos", end, "--fsync-interval", "0",
         "-o", "proto_version=2", "-o", "publication_names=bench", "-o", "streaming=on",
         "-f", "/dev/null"], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return rows / (time.monotonic() - began)


def tocsin(server, directory, slot, rows):
    """From the first row that is durable to the last."""
    broker = Broker(directory, partitions=4, shim=False, broker="  retention: { size: 8GiB }\n",
                    rest="sources:\n  in:\n    postgres: { url: \"%s\", publication: bench,"
                         " slot: %s, snapshot: never, create: false }\n"
                         % (server.url("bench"), slot) + one_trigger()).start()
    try:
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
        while now < rows:
            now = durable()
        seconds = time.monotonic() - began
        used = broker.cpu_seconds() - cpu
        assert source_status(broker, "in")["undecodable"] == 0
        return (rows - before) / seconds, used / (rows - before) * 1e6, broker.mib()
    finally:
        broker.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default=".")
    parser.add_argument("--rows", type=int, default=300000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-one", action="store_true", help="one transaction for all rows")
    options = parser.parse_args()
    server = Postgres(logical_decoding_work_mem="64MB", wal_sender_timeout="60s",
                      max_wal_size="4GB")
    ratios, told = [], []
    try:
        server.do("CREATE DATABASE bench")
        server.do("CREATE TABLE t (id bigint PRIMARY KEY, kind text, total numeric(10,2), at "
                  "timestamptz); CREATE PUBLICATION bench FOR TABLE t", "bench")
        for number in range(options.rounds):
            for slot in ("theirs", "ours"):
                server.do("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')" % slot,
                          "bench")
            size = options.rows if options.in_one else 100
            for start in range(0, options.rows, size):
                server.do("INSERT INTO t SELECT g, 'paid', g * 0.01, now() FROM "
                          "generate_series(%d, %d) g" % (number * options.rows + start,
                                                         number * options.rows + start + size - 1),
                          "bench")
            theirs = alone(server, "theirs", options.rows)
            with tempfile.TemporaryDirectory(dir=options.dir) as directory:
                ours, cpu, memory = tocsin(server, directory, "ours", options.rows)
            ratios.append(ours / theirs)
            told.append({"pg_recvlogical": round(theirs), "tocsin": round(ours),
                         "ratio": round(ours / theirs, 3), "cpu_us": round(cpu, 2),
                         "peak_mib": round(memory)})
            print(json.dumps(told[-1]), flush=True)
            for slot in ("theirs", "ours"):
                eventually(lambda one=slot: not server.slot(one)["active"])
                server.do("SELECT pg_drop_replication_slot('%s')" % slot, "bench")
    finally:
        server.end()
    ratio = statistics.median(ratios)
    bound = statistics.median(one["cpu_us"] * one["tocsin"] / 1e6 for one in told)
    print("median ratio %.2f; processors used by tocsin %.2f" % (ratio, bound))
    if ratio < RATIO_FLOOR and bound < 0.8:
        print("below the floor of %.1f, and the processor was not the bound" % RATIO_FLOOR)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

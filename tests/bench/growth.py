#!/usr/bin/python3
"""How events/s and memory grow with partitions, triggers, workers, payload and backlog, as a plot.

    growth.py --build build [--scale 1] [--plot docs/growth.svg] [--data build/growth.json]

A fresh broker for each point; publish to durable settlement, batched, 128 B unless said; memory is
what is resident after the load (blue) and was at most, the start included (grey). The load ends
with a look at the books of all triggers, which is a part of both where there are 100,000. With
--from the plot is made of data measured before.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import types

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers"))

import peer_bench  # noqa: E402
import peer_servers as servers  # noqa: E402

EVENTS = 300000
WIDTH, HEIGHT, MARGIN = 210, 150, 46
CURVES = ("partitions", "triggers", "workers", "payload", "backlog")
UNITS = {"partitions": "partitions", "triggers": "triggers, one of which matches",
         "workers": "workers of one function", "payload": "bytes of payload",
         "backlog": "stored events before the worker comes"}


def triggers(count):
    others = "".join(
        "  other%d: { filters: [ exact: { type: other.%d } ], function: count }\n" % (i, i)
        for i in range(count - 1))
    return servers.one_trigger() + others


def points(name, events):
    """(x, what the broker is, what the load is)."""
    if name == "partitions":
        return [(n, {"partitions": n}, {"bytes": 128, "events": events, "keys": 10000})
                for n in (1, 2, 4, 8, 16, 32, 64)]
    if name == "triggers":
        return [(n, {"triggers": triggers(n)}, {"bytes": 128, "events": events})
                for n in (1, 10, 100, 1000, 10000, 100000)]
    if name == "workers":
        return [(n, {}, {"bytes": 128, "events": events, "workers": n})
                for n in (1, 2, 4, 8, 16, 32)]
    if name == "payload":
        return [(n, {}, {"bytes": n, "events": min(events, 400_000_000 // n)})
                for n in (64, 256, 1024, 4096, 16384, 65536)]
    return [(n, {}, {"bytes": 128, "events": n}) for n in
            (10000, 30000, 100000, 300000, 1000000) if n <= 4 * events]


def measure(options, tools):
    data = {}
    for name in CURVES:
        for x, broker, load in points(name, int(EVENTS * options.scale)):
            rates, memory, highest = [], [], []
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory(prefix="growth-", dir=options.build) as work:
                    bench = peer_bench.Bench(types.SimpleNamespace(peers=["none"]), tools, work)
                    server = servers.Tocsin(work, tools, **broker).start()
                    try:
                        case = "drain" if name == "backlog" else "settled"
                        rates.append(bench.our_load(case, server, **load)["per_second"])
                        memory.append(server.rss())
                        highest.append(server.rss("VmHWM:"))
                    finally:
                        server.stop()
                        shutil.rmtree(server.dir, ignore_errors=True)
            data.setdefault(name, []).append(
                {"x": x, "per_second": statistics.median(rates),
                 "rss_bytes": statistics.median(memory),
                 "rss_bytes_max": statistics.median(highest)})
            print("%s %d: %.0f events/s, %.0f MB" % (name, x, statistics.median(rates),
                                                     statistics.median(memory) / 1e6), flush=True)
    return data


def label(value):
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return "%g%s" % (round(value / limit, 1), unit)
    return "%g" % value


def panel(left, top, title, xs, ys, unit, grey=()):
    """A curve over a logarithmic x, and a grey one; y from 0."""
    most = max([*ys, *grey])
    highest_y = most * 1.15
    low, high = math.log(min(xs)), math.log(max(xs))

    def at(x, y):
        return (left + (math.log(x) - low) / (high - low) * WIDTH,
                top + HEIGHT * (1 - y / highest_y))

    out = ['<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#ccc"/>'
           % (left, top, WIDTH, HEIGHT),
           '<text x="%d" y="%d" font-size="11">%s</text>' % (left, top - 6, title)]
    for share in (0, 0.5, 1):
        y = top + HEIGHT * (1 - share / 1.15)
        out.append('<text x="%d" y="%.1f" font-size="9" text-anchor="end">%s</text>'
                   % (left - 4, y + 3, label(most * share)))
        out.append('<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#eee"/>'
                   % (left, y, left + WIDTH, y))
    places = [at(x, y) for x, y in zip(xs, ys)]
    if grey:
        out.append('<polyline fill="none" stroke="#999" stroke-dasharray="3 2" points="%s"/>'
                   % " ".join("%.1f,%.1f" % at(x, y) for x, y in zip(xs, grey)))
    out.append('<polyline fill="none" stroke="#1f77b4" stroke-width="1.5" points="%s"/>'
               % " ".join("%.1f,%.1f" % place for place in places))
    for (x, y), value in zip(places, xs):
        out.append('<circle cx="%.1f" cy="%.1f" r="2.2" fill="#1f77b4"/>' % (x, y))
        out.append('<text x="%.1f" y="%d" font-size="9" text-anchor="middle">%s</text>'
                   % (x, top + HEIGHT + 12, label(value)))
    out.append('<text x="%d" y="%d" font-size="9" fill="#666">%s</text>'
               % (left, top + HEIGHT + 25, unit))
    return out


def plot(data, path):
    step_x, step_y = WIDTH + MARGIN + 14, HEIGHT + 62
    names = [name for name in CURVES if name in data]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif">'
           % (len(names) * step_x + 20, 2 * step_y + 10),
           '<rect width="100%" height="100%" fill="white"/>']
    for column, name in enumerate(names):
        left = MARGIN + column * step_x
        xs = [point["x"] for point in data[name]]
        out += panel(left, 26, "events/s", xs, [p["per_second"] for p in data[name]], UNITS[name])
        out += panel(left, 26 + step_y, "memory, MB", xs,
                     [p["rss_bytes"] / 1e6 for p in data[name]], UNITS[name],
                     [p["rss_bytes_max"] / 1e6 for p in data[name]])
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", default="")
    parser.add_argument("--data", default="")
    parser.add_argument("--from", dest="source", default="", help="data of an earlier run")
    options = parser.parse_args()
    if options.source:
        with open(options.source, encoding="utf-8") as file:
            data = json.load(file)
    else:
        build = options.build = os.path.abspath(options.build)
        tools = types.SimpleNamespace(
            tocsin=os.path.join(build, "tocsin"), nats_server="", kafka_jars="", peer_load="",
            broker_load=os.path.join(build, "tests/broker_load"))
        data = measure(options, tools)
        with open(options.data or os.path.join(build, "growth.json"), "w",
                  encoding="utf-8") as out:
            json.dump(data, out, indent=1)
            out.write("\n")
    if options.plot:
        plot(data, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())

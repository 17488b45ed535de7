"""Figures beside figures: rows of bench.json, and the same as a table.

A row is {row, case, ours, peer, peer_name, ratio, unit}: `row` is the number of the target, T1 and
so on; `ratio` is ours over the peer's, the other way round where less is better, null where a side
has no figure. What else a row has explains it: both ranges, payload, batch, clients, durability,
the version of the peer, when the answer is sent.
"""

import glob
import json
import os
import re
import statistics

NEEDED = ("row", "case", "ours", "peer", "peer_name", "ratio", "unit")


def row_of(row, case, peer_name, unit, ours, peer, less_is_better=False, **more):
    """Of rounds in turn: two lists of equal length."""
    ratios = [(b / a if less_is_better else a / b) for a, b in zip(ours, peer)]
    return {"row": row, "case": case, "ours": statistics.median(ours),
            "peer": statistics.median(peer), "peer_name": peer_name,
            "ratio": statistics.median(ratios), "unit": unit,
            "ours_range": [min(ours), max(ours)], "peer_range": [min(peer), max(peer)],
            "ratio_range": [min(ratios), max(ratios)], "rounds": len(ours), **more}


def absent_row(row, case, peer_name, unit, why):
    return {"row": row, "case": case, "ours": None, "peer": None, "peer_name": peer_name,
            "ratio": None, "unit": unit, "absent": why}


def write(directory, name, rows):
    """Rows of one bench, in place of those that it wrote before."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name + ".json"), "w", encoding="utf-8") as out:
        json.dump(rows, out, indent=1)
        out.write("\n")


def join(directory, path):
    """Every array of rows in `directory` as one array; a file that holds none is an error."""
    rows = []
    for name in sorted(glob.glob(os.path.join(directory, "*.json"))):
        with open(name, encoding="utf-8") as file:
            part = json.load(file)
        for row in part:
            missing = [key for key in NEEDED if key not in row]
            if missing:
                raise ValueError("%s: a row without %s" % (name, ", ".join(missing)))
        rows += part
    rows.sort(key=lambda row: [int(number) for number in re.findall(r"\d+", row["row"])])
    with open(path, "w", encoding="utf-8") as out:
        json.dump(rows, out, indent=1)
        out.write("\n")
    return rows


def number(value):
    if value is None:
        return "-"
    for limit, unit in ((1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            return "%.3g%s" % (value / (limit if unit == " M" else 1e3), unit)
    return "%.3g" % value if value < 1000 else "%.0f" % value


def spread(value, low_high):
    if low_high is None or low_high[0] == low_high[1]:
        return number(value)
    return "%s [%s .. %s]" % (number(value), number(low_high[0]), number(low_high[1]))


def table(rows):
    lines = ["| target | case | beside | unit | tocsin | peer | ratio |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        if row.get("absent"):
            lines.append("| %s | %s | %s | absent: %s | - | - | - |"
                         % (row["row"], row["case"], row["peer_name"], row["absent"]))
            continue
        lines.append("| %s | %s | %s | %s | %s | %s | %s |" % (
            row["row"], row["case"], row["peer_name"], row["unit"],
            spread(row["ours"], row.get("ours_range")), spread(row["peer"], row.get("peer_range")),
            spread(row["ratio"], row.get("ratio_range"))))
    return "\n".join(lines)

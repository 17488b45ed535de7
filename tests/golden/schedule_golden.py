#!/usr/bin/python3
"""Writes schedule_golden.txt: instants of cron schedules in thirteen zones over three years.

Independent of the broker's code: it walks every minute of UTC, turns it into wall-clock time with
zoneinfo, and applies the policies by what they say. One line per zone, year, policy and expression:

    zone|year|gap|overlap|expression|count|fnv1a-64 of the instants|first instants after each change

The instants are Unix seconds, hashed as decimal text with a newline after each.

Usage: schedule_golden.py > schedule_golden.txt
"""

import calendar
import datetime
import zoneinfo

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",      # southern, changes at midnight
    "Australia/Lord_Howe",   # half an hour
    "Asia/Kolkata",          # half-hour offset, no change
    "Asia/Beirut",           # changes at midnight
    "Africa/Cairo",          # took DST up again in 2023
    "Pacific/Auckland",
    "Europe/Dublin",         # negative DST in the database
    "Africa/Casablanca",     # back for Ramadan: four changes a year
    "Asia/Tehran",           # gave DST up in 2022
    "Pacific/Chatham",       # 45 minutes
]
YEARS = [2022, 2023, 2024]

# minute, hour: sets or None for every; interval: written with *, range or step.
EXPRESSIONS = {
    "30 2 * * *": ({30}, {2}, False),
    "30 1 * * *": ({30}, {1}, False),
    "0 0 * * *": ({0}, {0}, False),
    "15,45 0,2,23 * * *": ({15, 45}, {0, 2, 23}, False),
    "20 * * * *": ({20}, None, True),
    "*/30 1-3 * * *": ({0, 30}, {1, 2, 3}, True),
    "30 2 * * SUN": ({30}, {2}, False),
    "10 3 13 * FRI": ({10}, {3}, False),
    "0 12 29 2 *": ({0}, {12}, False),
    "45 2 L * *": ({45}, {2}, False),
    "5 0 15W * ?": ({5}, {0}, False),
    "0 1,2,3 ? * SUN#2": ({0}, {1, 2, 3}, False),
}


def day_matches(expression, local):
    weekday = local.isoweekday() % 7
    if expression.endswith("SUN"):
        return weekday == 0
    if expression.endswith("13 * FRI"):
        return local.day == 13 or weekday == 5
    length = calendar.monthrange(local.year, local.month)[1]
    if " L " in expression:
        return local.day == length
    if "15W" in expression:
        nearest = local.replace(day=15)
        shift = {6: -1, 0: 1}.get(nearest.isoweekday() % 7, 0)
        return local.day == 15 + shift
    if "SUN#2" in expression:
        return weekday == 0 and (local.day - 1) // 7 == 1
    if "29 2 *" in expression:
        return local.day == 29 and local.month == 2
    return True


def matches(expression, local):
    minutes, hours, _ = EXPRESSIONS[expression]
    return (
        local.minute in minutes
        and (hours is None or local.hour in hours)
        and day_matches(expression, local)
    )


def walk(zone, year):
    """Yields (Unix seconds, wall clock, second showing, minutes skipped) for each minute."""
    minute = datetime.timedelta(minutes=1)
    utc = datetime.timezone.utc
    at = datetime.datetime(year, 1, 1, tzinfo=utc)
    end = datetime.datetime(year + 1, 1, 1, tzinfo=utc)
    shown_before = (at - minute).astimezone(zone).replace(tzinfo=None)
    while at < end:
        local = at.astimezone(zone)
        shown = local.replace(tzinfo=None, fold=0)
        yield int(at.timestamp()), shown, local.fold == 1, shown_before + minute
        shown_before = shown
        at += minute


def instants(minutes, expression, gap, overlap):
    _, hours, interval = EXPRESSIONS[expression]
    found = []
    for seconds, shown, again, expected in minutes:
        fires = matches(expression, shown)
        if fires and again and not interval and overlap == "first":
            fires = False
        if shown > expected and hours is not None and gap == "next":
            while expected < shown:
                fires = fires or matches(expression, expected)
                expected += datetime.timedelta(minutes=1)
        if fires:
            found.append(seconds)
    return found


def fnv1a(numbers):
    value = 0xCBF29CE484222325
    for byte in "".join(f"{number}\n" for number in numbers).encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def main():
    for name in ZONES:
        zone = zoneinfo.ZoneInfo(name)
        for year in YEARS:
            wanted = {0, 5, 10, 15, 20, 30, 45}
            minutes = []
            changes = []
            for seconds, shown, again, expected in walk(zone, year):
                if shown != expected:
                    changes.append(seconds)
                if shown != expected or shown.minute in wanted:
                    minutes.append((seconds, shown, again, expected))
            for expression in EXPRESSIONS:
                policies = [("next", "first")]
                if year == YEARS[-1]:
                    policies += [("skip", "first"), ("next", "both")]
                for gap, overlap in policies:
                    found = instants(minutes, expression, gap, overlap)
                    after = []
                    for change in changes:
                        after += [x for x in found if x >= change - 3600][:3]
                    print(
                        name, year, gap, overlap, expression, len(found),
                        f"{fnv1a(found):016x}", ",".join(map(str, after)), sep="|",
                    )


if __name__ == "__main__":
    main()

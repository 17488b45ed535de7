#!/usr/bin/python3
"""A system crontab, imported and run for a year under the virtual clock: each instant that cron's
own rules give fires exactly once, at its time, and nothing else.

What is expected is computed here, apart from the program: every minute of the year is walked in
the zone and matched against the fields.
"""

import argparse
import collections
import datetime
import json
import os
import subprocess
import sys
import tempfile
import zoneinfo

ZONE = "Europe/Berlin"
YEAR = 2026

# As Debian has it, with what packages put into cron.d.
CRONTAB = """\
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin
MAILTO=root
# m h dom mon dow user  command
17 *    * * *   root    cd / && run-parts --report /etc/cron.hourly
25 6    * * *   root    test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )
47 6    * * 7   root    test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.weekly )
52 6    1 * *   root    test -x /usr/sbin/anacron || ( cd / && run-parts /etc/cron.monthly )
*/5 *   * * *   munin   if [ -x /usr/bin/munin-cron ]; then /usr/bin/munin-cron; fi
57 0    * * 0   root    if [ $(date +\\%d) -le 7 ]; then /usr/share/mdadm/checkarray; fi
30 2    * * *   backup  /usr/local/bin/dump-databases %one%two
10 3    13 * 5  root    /usr/local/bin/either
09,39 * * * *   root    /usr/lib/php/sessionclean
0 8-18/2 * * 1-5 www-data /usr/local/bin/report --to ${RECIPIENT}
@reboot         root    /usr/local/bin/at-boot
@monthly        root    /usr/local/bin/accounts
"""

ALL = None
# minute, hour, day, month, weekday (0 Sunday); None is every.
EXPECTED = {
    "cron.hourly": ({17}, ALL, ALL, ALL, ALL),
    "cron.daily": ({25}, {6}, ALL, ALL, ALL),
    "cron.weekly": ({47}, {6}, ALL, ALL, {0}),
    "cron.monthly": ({52}, {6}, {1}, ALL, ALL),
    "munin-cron": (set(range(0, 60, 5)), ALL, ALL, ALL, ALL),
    "checkarray": ({57}, {0}, ALL, ALL, {0}),
    "dump-databases": ({30}, {2}, ALL, ALL, ALL),
    "either": ({10}, {3}, {13}, ALL, {5}),
    "sessionclean": ({9, 39}, ALL, ALL, ALL, ALL),
    "report": ({0}, {8, 10, 12, 14, 16, 18}, ALL, ALL, {1, 2, 3, 4, 5}),
    "accounts": ({0}, {0}, {1}, ALL, ALL),
}


def day_matches(day, weekday, local):
    is_day = day is ALL or local.day in day
    is_weekday = weekday is ALL or local.isoweekday() % 7 in weekday
    if day is not ALL and weekday is not ALL:
        return is_day or is_weekday
    return is_day and is_weekday


def matches(fields, local):
    minute, hour, day, month, weekday = fields
    return (local.minute in minute and (hour is ALL or local.hour in hour)
            and (month is ALL or local.month in month) and day_matches(day, weekday, local))


def expected(begin, end):
    """By job, the UTC instants."""
    zone = zoneinfo.ZoneInfo(ZONE)
    minute = datetime.timedelta(minutes=1)
    found = collections.defaultdict(list)
    shown_before = begin.astimezone(zone).replace(tzinfo=None)
    at = begin + minute
    by_minute = collections.defaultdict(list)  # most minutes concern nobody
    for name, fields in EXPECTED.items():
        for one in fields[0]:
            by_minute[one].append((name, fields))
    while at <= end:
        local = at.astimezone(zone)
        shown = local.replace(tzinfo=None, fold=0)
        skipped = []
        gone = shown_before + minute
        while gone < shown:
            skipped.append(gone)
            gone += minute
        concerned = by_minute[shown.minute] if not skipped else EXPECTED.items()
        for name, fields in concerned:
            every_hour = fields[1] is ALL
            fires = matches(fields, shown)
            if local.fold and not every_hour and name != "report":
                fires = False  # a fixed time that comes a second time
            if not every_hour and any(matches(fields, one) for one in skipped):
                fires = True  # what fell into the gap, at its end
            if fires:
                found[name].append(at.strftime("%Y-%m-%dT%H:%M:%SZ"))
        shown_before = shown
        at += minute
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tocsin", required=True)
    program = parser.parse_args().tocsin
    with tempfile.TemporaryDirectory() as folder:
        crontab = os.path.join(folder, "crontab")
        with open(crontab, "w", encoding="utf-8") as out:
            out.write(CRONTAB)
        imported = subprocess.run(
            [program, "import", "crontab", "--form", "system", "--tz", ZONE, crontab],
            capture_output=True, text=True, check=True)
        config = os.path.join(folder, "tocsin.yaml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(imported.stdout)
        subprocess.run([program, "validate", config], check=True, stdout=subprocess.DEVNULL)
        utc = datetime.timezone.utc
        begin = datetime.datetime(YEAR, 1, 1, tzinfo=utc)
        end = datetime.datetime(YEAR + 1, 1, 1, tzinfo=utc)
        simulated = subprocess.run(
            [program, "simulate", "-c", config, "--from", begin.strftime("%Y-%m-%dT%H:%M:%SZ"),
             "--for", "8760h", "--boot", "-o", "json"],
            capture_output=True, text=True, check=True)
    result = json.loads(simulated.stdout)
    fired = collections.defaultdict(list)
    for fire in result["fires"]:
        assert fire["triggers"] == [fire["source"]], fire
        assert fire["id"] == "%s/%s" % (fire["source"], fire["at"]), fire
        fired[fire["source"]].append(fire["at"])
        if fire["source"] != "at-boot":
            assert fire["actual"] == fire["at"], fire
    assert result["skipped"] == [], result["skipped"]
    assert len(fired.pop("at-boot")) == 1
    wanted = expected(begin, end)
    failures = 0
    for name in sorted(set(wanted) | set(fired)):
        if fired[name] != wanted[name]:
            failures += 1
            missing = sorted(set(wanted[name]) - set(fired[name]))
            extra = sorted(set(fired[name]) - set(wanted[name]))
            print(f"{name}: {len(fired[name])} fires, {len(wanted[name])} expected; "
                  f"missing {missing[:5]}, too many {extra[:5]}")
    total = sum(map(len, wanted.values()))
    print(f"{total} instants of {len(wanted)} jobs, {failures} jobs differ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Durations as people write them."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Union

Duration = Union[int, float, str, timedelta]
"""Seconds as a number, a timedelta, or a text such as "200ms", "10s", "1m30s", "2h"."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def seconds(value: Duration) -> float:
    """The duration in seconds. ValueError if it is negative, infinite or not a duration."""
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        if not _WHOLE.fullmatch(value):
            raise ValueError(f"{value!r} is not a duration such as 200ms, 10s or 1m30s")
        result = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = float(value)
    else:
        raise ValueError(f"{value!r} is not a duration: give seconds, a timedelta or a text")
    if not math.isfinite(result) or result < 0:
        raise ValueError(f"{value!r} is not a duration of zero or more")
    return result


def milliseconds(value: Duration) -> int:
    """The same in whole milliseconds, rounded up, so that more than nothing stays more."""
    return math.ceil(seconds(value) * 1000 - 1e-9)

"""Values of CloudEvents attributes and data: the type system, its checks, JSON."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List, NoReturn, Tuple, Union

AttributeValue = Union[str, int, bool, bytes, datetime]

_UNIONS = (Union, getattr(types, "UnionType", Union))  # `X | None` since Python 3.10

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NAME = re.compile(r"[a-z0-9]+")
_DELIVERY = ("tocsindeliverat", "tocsindeliverin")  # ask the broker for something, see Publisher
_REFUSED_CHARACTERS = re.compile("[\u0000-\u001f\u007f-\u009f\ud800-\udfff]")
_NOT_OF_URIS = re.compile(r'[\s<>"{}|\\^`]')
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_MEDIA_TYPE = re.compile(r"[^\s/;,]+/[^\s/;,]+\s*(;.*)?")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:)(\d\d)(?:\.(\d+))?"
                      r"(?:([Zz])|([+-])(\d\d):(\d\d))")


class InvalidEvent(ValueError):
    """Not an event as CloudEvents 1.0 has it; the text names the attribute and the rule."""


def check_name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "data":
        raise InvalidEvent(f"attribute {name!r}: a name is lower-case letters and digits, "
                           "and not `data`")
    if name.startswith("tocsin") and name not in _DELIVERY:
        raise InvalidEvent(f"attribute {name!r}: names that begin with tocsin are the broker's")
    return name


def check_text(name: str, value: object, required: bool = False) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(f"attribute {name} is a str, not {type(value).__name__}")
    if required and not value:
        raise InvalidEvent(f"attribute {name} is missing or empty")
    if _REFUSED_CHARACTERS.search(value):
        raise InvalidEvent(f"attribute {name} has control characters or lone surrogates")
    if name == "dataschema" and value and (
            not _ABSOLUTE.match(value) or _NOT_OF_URIS.search(value)):
        raise InvalidEvent(f"dataschema {value!r} is not an absolute URI")
    return value


def check_source(value: str) -> None:
    if _NOT_OF_URIS.search(value):
        raise InvalidEvent(f"source {value!r} is not a URI-reference: percent-encode it")


def is_json(content_type: str) -> bool:
    """Whether the media type is `*/json` or `*/*+json`; parameters are ignored."""
    essence = content_type.split(";", 1)[0].strip().lower()
    slash, subtype = essence.partition("/")[1:]
    return bool(slash) and (subtype == "json" or subtype.endswith("+json"))


def is_media_type(text: str) -> bool:
    return _MEDIA_TYPE.fullmatch(text) is not None


# ---- time

def parse_rfc3339(text: str) -> Tuple[int, int]:
    """Seconds since 1970 UTC and nanoseconds. InvalidEvent if it is not such a time."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise InvalidEvent(f"{text!r} is not an RFC 3339 time such as 2026-03-29T01:00:00Z")
    day, minute, second, fraction, _utc, sign, hours, minutes = match.groups()
    leap = second == "60"
    try:
        moment = datetime.fromisoformat(f"{day}T{minute}{'59' if leap else second}+00:00")
    except ValueError as error:
        raise InvalidEvent(f"{text!r} is not an RFC 3339 time: {error}") from error
    whole = (moment - _EPOCH) // timedelta(seconds=1) + (1 if leap else 0)
    if sign is not None:
        if int(hours) > 23 or int(minutes) > 59:
            raise InvalidEvent(f"{text!r} is not an RFC 3339 time: its offset is none")
        offset = int(hours) * 3600 + int(minutes) * 60
        whole -= offset if sign == "+" else -offset
    return whole, int(((fraction or "") + "000000000")[:9])


def write_time(value: Any, time: object) -> None:
    """Sets a CloudEventAttributeValue to the time."""
    if isinstance(time, str):
        whole, nanos = parse_rfc3339(time)
    elif isinstance(time, datetime):
        if time.tzinfo is None:
            raise InvalidEvent("a time without a time zone: say datetime.now(timezone.utc)")
        since = time - _EPOCH
        whole = since // timedelta(seconds=1)
        nanos = (since - timedelta(seconds=whole)) // timedelta(microseconds=1) * 1000
    else:
        raise InvalidEvent(f"a time is a datetime or a text, not {type(time).__name__}")
    if not -62135596800 <= whole <= 253402300799:
        raise InvalidEvent("a time is in the years 1 to 9999")
    value.ce_timestamp.seconds = whole
    value.ce_timestamp.nanos = nanos


# ---- attribute values

def read_value(name: str, value: Any) -> AttributeValue:
    """What a CloudEventAttributeValue holds, which is something."""
    kind = value.WhichOneof("attr")
    if kind == "ce_timestamp":
        stamp = value.ce_timestamp
        return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
    if kind == "ce_string" and name == "time":
        whole, nanos = parse_rfc3339(value.ce_string)
        return _EPOCH + timedelta(seconds=whole, microseconds=nanos // 1000)
    held: AttributeValue = getattr(value, kind)
    return held


def write_value(name: str, value: Any, given: object) -> None:
    if isinstance(given, bool):
        value.ce_boolean = given
    elif isinstance(given, int):
        if not -2**31 <= given < 2**31:
            raise InvalidEvent(f"attribute {name} is beyond 32 bits")
        value.ce_integer = given
    elif isinstance(given, str):
        value.ce_string = check_text(name, given)
    elif isinstance(given, (bytes, bytearray)):
        value.ce_bytes = bytes(given)
    elif isinstance(given, datetime):
        write_time(value, given)
    else:
        raise InvalidEvent(f"attribute {name} is a {type(given).__name__}: attributes are str, "
                           "int, bool, bytes or datetime")


# ---- JSON

def _no_constant(text: str) -> NoReturn:
    raise InvalidEvent(f"{text} is not JSON")


def _no_repeats(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidEvent("a name is there twice in one object")
    return fields


def parse_json(text: Union[str, bytes]) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except InvalidEvent:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"not JSON: {error}") from error


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def dump_json(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"),
                          default=_plain)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"data cannot be JSON: {error}") from error
    return text


# ---- data into types

def decode_into(kind: Any, data: Any, event_id: str) -> Any:
    if hasattr(kind, "model_validate"):
        return kind.model_validate(data)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode(kind, data, f"the data of event {event_id!r}")
    return kind(data)


def _decode(kind: Any, data: Any, where: str) -> Any:
    """Follows dataclasses, List, Dict values and Optional; everything else is taken as it is."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS and type(None) in arguments and len(arguments) == 2:
        if data is None:
            return None
        return _decode(next(a for a in arguments if a is not type(None)), data, where)
    if origin is list and isinstance(data, list):
        return [_decode(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(data)]
    if origin is dict and isinstance(data, dict):
        return {name: _decode(arguments[1], one, f"{where}[{name!r}]")
                for name, one in data.items()}
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return data
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {type(data).__name__} and not an object, which "
                         f"{kind.__name__} needs")
    hints = typing.get_type_hints(kind)
    values: Dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.init and field.name in data:
            values[field.name] = _decode(hints[field.name], data[field.name],
                                         f"{where}.{field.name}")
        elif (field.init and field.default is dataclasses.MISSING
              and field.default_factory is dataclasses.MISSING):
            raise ValueError(f"{where} has no {field.name!r}, which {kind.__name__} needs")
    return kind(**values)

"""CloudEvent: a CloudEvents 1.0 event, as handlers read it and publishers build it.

An immutable value. A received event keeps the bytes it came in. Threads may share one.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from datetime import datetime
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Type, TypeVar, Union

from ._event_values import (
    AttributeValue,
    InvalidEvent,
    check_name,
    check_source,
    check_text,
    decode_into,
    dump_json,
    is_json,
    is_media_type,
    parse_json,
    read_value,
    write_time,
    write_value,
)
from ._wire import CloudEventMessage

__all__ = ["AttributeValue", "CloudEvent", "InvalidEvent"]

T = TypeVar("T")
_KEEP: Any = object()
_UNREAD: Any = object()
_OPTIONAL = ("datacontenttype", "dataschema", "subject", "time")
_REQUIRED = ("id", "source", "type")


class CloudEvent:
    """A CloudEvents 1.0 event.

    type, source     required texts; `source` is a URI-reference
    data             None: no data. bytes: as they are. Else with a JSON datacontenttype (default
                     for what is neither str nor bytes): a JSON value, where dataclasses become
                     objects; otherwise a str
    id               unique within the source; empty: a random UUID
    time             an aware datetime or an RFC 3339 text
    partitionkey     what orders deliveries
    extensions       further attributes by name (`[a-z0-9]+`): str, int of 32 bits, bool, bytes or
                     an aware datetime

    InvalidEvent names the attribute and the rule it breaks.
    """

    __slots__ = ("_message", "_encoded", "_data", "__weakref__")

    _message: Any
    _encoded: Optional[bytes]
    _data: Any

    def __init__(self, type: str, source: str, data: object = None, *, id: str = "",
                 subject: str = "", time: Union[datetime, str, None] = None,
                 datacontenttype: str = "", dataschema: str = "", partitionkey: str = "",
                 extensions: Optional[Mapping[str, AttributeValue]] = None) -> None:
        message = CloudEventMessage()
        message.spec_version = "1.0"
        _apply(message, {
            "type": type, "source": source, "id": id or str(uuid.uuid4()), "subject": subject,
            "time": time, "dataschema": dataschema, "partitionkey": partitionkey,
        }, data, datacontenttype, extensions)
        self._set(message, None)

    def _set(self, message: Any, encoded: Optional[bytes]) -> None:
        object.__setattr__(self, "_message", message)
        object.__setattr__(self, "_encoded", encoded)
        object.__setattr__(self, "_data", _UNREAD)

    @classmethod
    def _of(cls, message: Any, encoded: Optional[bytes] = None) -> CloudEvent:
        event = cls.__new__(cls)
        event._set(message, encoded)
        return event

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a CloudEvent is immutable: use event.replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a CloudEvent is immutable")

    def replace(self, *, type: Optional[str] = None, source: Optional[str] = None,
                data: object = _KEEP, id: Optional[str] = None, subject: Optional[str] = None,
                time: Union[datetime, str, None] = _KEEP, datacontenttype: Optional[str] = None,
                dataschema: Optional[str] = None, partitionkey: Optional[str] = None,
                extensions: Optional[Mapping[str, AttributeValue]] = None) -> CloudEvent:
        """The same event but for what is given. An empty text takes an optional attribute away;
        `extensions` are added to those there are."""
        message = CloudEventMessage()
        message.CopyFrom(self._message)
        changes: Dict[str, object] = {
            "type": type, "source": source, "id": id, "subject": subject,
            "dataschema": dataschema, "partitionkey": partitionkey,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if time is not _KEEP:
            changes["time"] = time
        if data is _KEEP and datacontenttype is not None:
            changes["datacontenttype"] = datacontenttype
        if data is not _KEEP:
            message.ClearField("data")
            if datacontenttype is None:
                message.attributes.pop("datacontenttype", None)
        _apply(message, changes, None if data is _KEEP else data, datacontenttype or "",
               extensions)
        return CloudEvent._of(message)

    # ---- attributes

    @property
    def id(self) -> str:
        return str(self._message.id)

    @property
    def source(self) -> str:
        return str(self._message.source)

    @property
    def type(self) -> str:
        return str(self._message.type)

    @property
    def specversion(self) -> str:
        return str(self._message.spec_version)

    @property
    def subject(self) -> str:
        """Empty: absent."""
        return self._text("subject")

    @property
    def datacontenttype(self) -> str:
        """Empty: absent."""
        return self._text("datacontenttype")

    @property
    def dataschema(self) -> str:
        """Empty: absent."""
        return self._text("dataschema")

    @property
    def partitionkey(self) -> str:
        """The key that orders deliveries; empty: absent."""
        return self._text("partitionkey")

    @property
    def time(self) -> Optional[datetime]:
        """When it happened, aware, to the microsecond; None: absent."""
        value = self.get("time")
        return value if isinstance(value, datetime) else None

    @property
    def extensions(self) -> Mapping[str, AttributeValue]:
        """Every attribute that the specification does not name. Read only."""
        return MappingProxyType({name: self[name] for name in self._message.attributes
                                 if name not in _OPTIONAL and self._has(name)})

    def __getitem__(self, name: str) -> AttributeValue:
        """Any attribute by its name; KeyError if the event does not have it."""
        if name in _REQUIRED:
            return str(getattr(self._message, name))
        if name == "specversion":
            return self.specversion
        if not self._has(name):
            raise KeyError(name)
        return read_value(name, self._message.attributes[name])

    def get(self, name: str, default: Any = None) -> Any:
        """Any attribute by its name, or `default`."""
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (
            name in _REQUIRED or name == "specversion" or self._has(name))

    def __iter__(self) -> Iterator[str]:
        """The names of all attributes."""
        yield from ("specversion", *_REQUIRED)
        yield from sorted(name for name in self._message.attributes if self._has(name))

    def _has(self, name: str) -> bool:
        # Looking up a name in a protobuf map would create it.
        attributes = self._message.attributes
        return name in attributes and attributes[name].WhichOneof("attr") is not None

    def _text(self, name: str) -> str:
        return str(self[name]) if self._has(name) else ""

    # ---- data

    @property
    def has_data(self) -> bool:
        return self._message.WhichOneof("data") is not None

    @property
    def raw_data(self) -> bytes:
        """The payload's bytes, whatever their kind; empty if there is none."""
        kind = self._message.WhichOneof("data")
        if kind == "text_data":
            return bytes(self._message.text_data.encode("utf-8"))
        if kind == "binary_data":
            return bytes(self._message.binary_data)
        if kind == "proto_data":
            return bytes(self._message.proto_data.value)
        return b""

    @property
    def data(self) -> Any:
        """The payload: parsed if its datacontenttype is JSON (`*/json`, `*/*+json`), else str or
        bytes as it was sent; None if there is none. Text without a datacontenttype is JSON if it
        can be.

        Parsed once: do not change what is returned. ValueError if it should be JSON and is not.
        """
        if self._data is _UNREAD:
            object.__setattr__(self, "_data", self._read_data())
        return self._data

    def _read_data(self) -> Any:
        kind = self._message.WhichOneof("data")
        if kind is None:
            return None
        content_type = self.datacontenttype
        if is_json(content_type) and kind != "proto_data":
            try:
                return json.loads(self.raw_data)
            except ValueError as error:
                raise ValueError(f"the data of event {self.id!r} is not the {content_type} it is "
                                 f"said to be: {error}") from error
        if kind == "text_data":
            if not content_type:
                try:
                    return json.loads(self._message.text_data)
                except ValueError:
                    pass
            return str(self._message.text_data)
        return self.raw_data

    def data_as(self, kind: Union[Type[T], Callable[[Any], T]]) -> T:
        """The data as `kind`: a dataclass (nested ones, lists and optionals of them too; fields
        it does not have are ignored), a class with `model_validate`, or a function of the data.

        ValueError if a field is missing; what `kind` raises.
        """
        decoded: T = decode_into(kind, self.data, self.id)
        return decoded

    # ---- forms

    @classmethod
    def from_protobuf(cls, encoded: bytes) -> CloudEvent:
        """From io.cloudevents.v1.CloudEvent. InvalidEvent if it cannot be decoded or lacks a
        required attribute."""
        message = CloudEventMessage()
        try:
            message.ParseFromString(encoded)
        except Exception as error:
            raise InvalidEvent(f"not an encoded CloudEvent: {error}") from error
        for name in _REQUIRED:
            if not getattr(message, name):
                raise InvalidEvent(f"attribute {name} is missing or empty")
        if message.spec_version != "1.0":
            raise InvalidEvent(f"specversion is {message.spec_version!r}; only 1.0 is known")
        return cls._of(message, bytes(encoded))

    def to_protobuf(self) -> bytes:
        """The protobuf form; of a received event, the bytes it came in."""
        if self._encoded is None:
            object.__setattr__(self, "_encoded", self._message.SerializeToString())
        return self._encoded or b""

    @classmethod
    def from_json(cls, text: Union[str, bytes]) -> CloudEvent:
        """From the CloudEvents JSON format. InvalidEvent says what is wrong."""
        value = parse_json(text)
        if not isinstance(value, dict):
            raise InvalidEvent("the JSON of an event is an object")
        return cls.from_dict(value)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> CloudEvent:
        """From the parsed CloudEvents JSON format; an attribute that is None is absent."""
        fields = dict(fields)
        if fields.pop("specversion", None) != "1.0":
            raise InvalidEvent('specversion is missing or not "1.0"')
        if "data" in fields and "data_base64" in fields:
            raise InvalidEvent("data and data_base64 exclude each other")
        has_data = "data" in fields
        data = fields.pop("data", None)
        encoded = fields.pop("data_base64", None)
        fields = {name: value for name, value in fields.items() if value is not None}
        for name in _REQUIRED:
            if not fields.get(name):
                raise InvalidEvent(f"attribute {name} is missing or empty")
        content_type = fields.pop("datacontenttype", "")
        known = {name: fields.pop(name, "") for name in (*_REQUIRED, "subject", "dataschema",
                                                         "partitionkey")}
        known["time"] = fields.pop("time", None)
        message = CloudEventMessage()
        message.spec_version = "1.0"
        if encoded is not None:
            try:
                data = base64.b64decode(encoded, validate=True)
            except (binascii.Error, TypeError, ValueError) as error:
                raise InvalidEvent("data_base64 is not base64") from error
            message.binary_data = data
        elif has_data:
            if not content_type or is_json(content_type) or not isinstance(data, str):
                message.text_data = dump_json(data)
                content_type = content_type or "application/json"
            else:
                message.text_data = data
        known["datacontenttype"] = content_type
        _apply(message, known, None, "", fields)
        return cls._of(message)

    def to_dict(self) -> Dict[str, Any]:
        """The CloudEvents JSON format before it is text."""
        fields: Dict[str, Any] = {}
        for name in self:
            value = self[name]
            if isinstance(value, datetime):
                held = self._message.attributes[name]
                value = (held.ce_timestamp.ToJsonString()
                         if held.WhichOneof("attr") == "ce_timestamp" else held.ce_string)
            elif isinstance(value, bytes):
                value = base64.b64encode(value).decode("ascii")
            fields[name] = value
        kind = self._message.WhichOneof("data")
        if kind is not None:
            content_type = self.datacontenttype
            as_json = (not content_type or is_json(content_type)) and kind != "proto_data"
            try:
                if as_json:
                    fields["data"] = json.loads(self.raw_data)
                elif kind == "text_data":
                    fields["data"] = str(self._message.text_data)
            except ValueError:
                pass
            if "data" not in fields:
                fields["data_base64"] = base64.b64encode(self.raw_data).decode("ascii")
        return fields

    def to_json(self) -> str:
        """The CloudEvents JSON format, in one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    # ---- as a value

    def __eq__(self, other: object) -> bool:
        return bool(isinstance(other, CloudEvent) and self._message == other._message)

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def __repr__(self) -> str:
        subject = f", subject={self.subject!r}" if self.subject else ""
        return f"CloudEvent({self.type!r}, {self.source!r}, id={self.id!r}{subject})"

    def __reduce__(self) -> Any:
        return CloudEvent.from_protobuf, (self.to_protobuf(),)

    def _with_defaults(self, attributes: Mapping[str, AttributeValue]) -> CloudEvent:
        """The same event with those of the attributes that it does not have."""
        missing = {name: value for name, value in attributes.items() if name not in self}
        return self.replace(extensions=missing) if missing else self


def _apply(message: Any, attributes: Mapping[str, object], data: object, datacontenttype: str,
           extensions: Optional[Mapping[str, AttributeValue]]) -> None:
    """Writes checked attributes and, unless it is None, data into `message`."""
    attributes = dict(attributes)
    if data is not None:
        datacontenttype = _set_data(message, data, datacontenttype)
    if datacontenttype:
        attributes["datacontenttype"] = datacontenttype
    for name, value in attributes.items():
        if name in _REQUIRED:
            setattr(message, name, check_text(name, value, required=True))
        elif name == "time":
            if value is None or value == "":
                message.attributes.pop("time", None)
            else:
                write_time(message.attributes["time"], value)
        elif check_text(name, value):
            message.attributes[name].ce_string = value
        else:
            message.attributes.pop(name, None)
    if "source" in attributes:
        check_source(message.source)
    content_type = attributes.get("datacontenttype")
    if isinstance(content_type, str) and content_type and not is_media_type(content_type):
        raise InvalidEvent(f"datacontenttype {content_type!r} is not a media type such as "
                           "application/json")
    for name, extension in (extensions or {}).items():
        check_name(name)
        if name in _OPTIONAL or name in _REQUIRED or name == "specversion":
            raise InvalidEvent(f"attribute {name} is no extension: give it by its own name")
        write_value(name, message.attributes[name], extension)


def _set_data(message: Any, data: object, content_type: str) -> str:
    """Sets the payload; returns its datacontenttype."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        message.binary_data = bytes(data)
        return content_type or "application/octet-stream"
    if is_json(content_type) if content_type else not isinstance(data, str):
        message.text_data = dump_json(data)
        return content_type or "application/json"
    if isinstance(data, str):
        message.text_data = check_data_text(data)
        return content_type or "text/plain"
    raise InvalidEvent(f"data of type {type(data).__name__} with datacontenttype {content_type!r}: "
                       "give str or bytes, or a JSON media type")


def check_data_text(data: str) -> str:
    """The text, which may have any character but lone surrogates."""
    try:
        data.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidEvent("data is a text with lone surrogates: give bytes") from error
    return data

"""CloudEvent: building, reading, both forms, what is refused."""

import dataclasses
import json
import pickle
import typing
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from tocsin import CloudEvent, InvalidEvent
from tocsin._wire import CloudEventMessage
from tocsin.duration import milliseconds, seconds


class TestBuilding:
    def test_attributes_go_through_both_forms(self):
        time = datetime(2026, 3, 29, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=2)))
        event = CloudEvent("order.paid", "/shop", {"total": 12}, subject="A-1", time=time,
                           dataschema="https://example.com/s", partitionkey="k",
                           extensions={"count": -3, "flag": True, "raw": b"\x00\xff",
                                       "due": time, "text": "ü"})
        again = CloudEvent.from_protobuf(event.to_protobuf())
        assert again == event and hash(again) == hash(event)
        assert (again.type, again.source, again.subject, again.specversion) == (
            "order.paid", "/shop", "A-1", "1.0")
        assert again.time == time and again.time.utcoffset() == timedelta(0)
        assert again.datacontenttype == "application/json"
        assert again.dataschema == "https://example.com/s"
        assert again.partitionkey == again["partitionkey"] == "k"
        assert dict(again.extensions) == {"count": -3, "flag": True, "raw": b"\x00\xff",
                                          "due": time, "text": "ü", "partitionkey": "k"}
        assert again["flag"] is True
        of_json = CloudEvent.from_json(event.to_json())
        assert of_json.time == time and of_json.data == {"total": 12}
        assert of_json["count"] == -3 and of_json["raw"] == "AP8="

    def test_ids_are_random_version_4_uuids(self):
        ids = {CloudEvent("t", "/s").id for _ in range(100)}
        assert len(ids) == 100
        assert all(uuid.UUID(one).version == 4 for one in ids)

    def test_attributes_are_looked_up_by_name(self):
        event = CloudEvent("t", "/s", id="1", extensions={"x": 1})
        assert event["id"] == "1" and event["specversion"] == "1.0" and event["x"] == 1
        assert event.get("y") is None and event.get("y", 2) == 2
        assert "x" in event and "y" not in event and "subject" not in event
        assert list(event) == ["specversion", "id", "source", "type", "x"]
        with pytest.raises(KeyError):
            event["y"]
        assert event.subject == event.datacontenttype == event.dataschema == ""
        assert event.time is None and event.data is None and not event.has_data
        assert list(event) == ["specversion", "id", "source", "type", "x"]  # looking adds nothing

    def test_is_immutable_and_replaced(self):
        event = CloudEvent("t", "/s", {"a": 1}, subject="x", extensions={"e": 1})
        with pytest.raises(AttributeError, match="event.replace"):
            event.subject = "y"
        with pytest.raises(AttributeError):
            del event.subject
        with pytest.raises(TypeError):
            event.extensions["e"] = 2
        other = event.replace(type="u", subject="", extensions={"f": 2})
        assert (other.type, other.subject, other.id, other.data) == ("u", "", event.id, {"a": 1})
        assert dict(other.extensions) == {"e": 1, "f": 2}
        assert (event.type, event.subject, dict(event.extensions)) == ("t", "x", {"e": 1})
        text = event.replace(data="plain")
        assert (text.data, text.datacontenttype) == ("plain", "text/plain")
        assert event.replace(datacontenttype="text/json").data == {"a": 1}
        assert event.replace(time=None).time is None

    def test_can_be_pickled(self):
        event = CloudEvent("t", "/s", {"a": 1})
        assert pickle.loads(pickle.dumps(event)) == event

    @pytest.mark.parametrize("attributes, words", [
        ({"type": ""}, "type is missing or empty"),
        ({"source": ""}, "source is missing"),
        ({"source": "not a uri"}, "URI-reference"),
        ({"type": 1}, "type is a str, not int"),
        ({"id": "a\nb"}, "id has control characters"),
        ({"subject": "\ud800"}, "lone surrogates"),
        ({"dataschema": "relative"}, "absolute URI"),
        ({"datacontenttype": "json", "data": b""}, "media type"),
        ({"time": datetime(2026, 1, 1)}, "without a time zone"),
        ({"time": "yesterday"}, "RFC 3339"),
        ({"time": "2026-02-30T00:00:00Z"}, "RFC 3339"),
        ({"extensions": {"Upper": 1}}, "lower-case"),
        ({"extensions": {"data": 1}}, "not `data`"),
        ({"extensions": {"tocsinhops": 1}}, "are the broker's"),
        ({"extensions": {"subject": "x"}}, "is no extension"),
        ({"extensions": {"n": 2**31}}, "beyond 32 bits"),
        ({"extensions": {"n": 1.5}}, "is a float"),
        ({"data": {1, 2}}, "cannot be JSON"),
        ({"data": float("nan")}, "cannot be JSON"),
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, "data of type dict"),
    ])
    def test_refuses_what_is_no_event(self, attributes, words):
        with pytest.raises(InvalidEvent, match=words):
            CloudEvent(**{"type": "t", "source": "/s", **attributes})


class TestData:
    @pytest.mark.parametrize("data, content_type, expected_type, raw", [
        ({"b": [1, None]}, "", "application/json", b'{"b":[1,null]}'),
        (12, "", "application/json", b"12"),
        (False, "", "application/json", b"false"),
        ("plain", "", "text/plain", b"plain"),
        ("plain", "application/json", "application/json", b'"plain"'),
        ("<a/>", "application/xml", "application/xml", b"<a/>"),
        (b"\x00\xff", "", "application/octet-stream", b"\x00\xff"),
        ([1], "application/vnd.x+json; v=1", "application/vnd.x+json; v=1", b"[1]"),
    ])
    def test_keeps_its_kind_through_both_forms(self, data, content_type, expected_type, raw):
        event = CloudEvent("t", "/s", data, id="1", datacontenttype=content_type)
        for one in (event, CloudEvent.from_protobuf(event.to_protobuf()),
                    CloudEvent.from_json(event.to_json())):
            assert one.data == data and type(one.data) is type(data)
            assert one.datacontenttype == expected_type
            assert one.raw_data == raw and one.has_data

    def test_bytes_of_a_json_type_are_parsed(self):
        event = CloudEvent("t", "/s", b'{"a": 1}', datacontenttype="application/json")
        assert event.data == {"a": 1} and event.raw_data == b'{"a": 1}'
        broken = CloudEvent("t", "/s", b"{", id="x", datacontenttype="application/json")
        with pytest.raises(ValueError, match="data of event 'x' is not the application/json"):
            broken.data
        assert json.loads(broken.to_json())["data_base64"] == "ew=="

    def test_text_without_a_type_is_json_if_it_can_be(self):
        for text, expected in (('{"a":1}', {"a": 1}), ("plain", "plain")):
            message = CloudEventMessage(id="1", source="/s", type="t", spec_version="1.0",
                                        text_data=text)
            assert CloudEvent.from_protobuf(message.SerializeToString()).data == expected

    def test_dataclasses_go_in_and_come_out(self):
        @dataclasses.dataclass
        class Plain:
            amount: float

        assert CloudEvent("t", "/s", Plain(1.5)).data == {"amount": 1.5}
        event = CloudEvent("t", "/s", {"order": "A", "lines": [{"amount": 2}], "first": None,
                                       "by": {"x": {"amount": 3}}, "unknown": 1})
        order = event.data_as(Order)
        assert order == Order("A", [Line(2)], None, {"x": Line(3)})
        with pytest.raises(ValueError, match="has no 'order', which Order needs"):
            CloudEvent("t", "/s", {}).data_as(Order)
        with pytest.raises(ValueError, match=r"lines\[0\] is int and not an object"):
            CloudEvent("t", "/s", {"order": "A", "lines": [1]}).data_as(Order)
        assert CloudEvent("t", "/s", [3, 1]).data_as(sorted) == [1, 3]


@dataclasses.dataclass
class Line:
    amount: float


@dataclasses.dataclass
class Order:
    order: str
    lines: typing.List[Line] = dataclasses.field(default_factory=list)
    first: typing.Optional[Line] = None
    by: typing.Dict[str, Line] = dataclasses.field(default_factory=dict)


class TestForms:
    @pytest.mark.parametrize("wrong, words", [
        (b"", "not JSON"),
        ("[]", "is an object"),
        ('{"id":"1","source":"/s","type":"t"}', "specversion"),
        ('{"specversion":"1.0","source":"/s","type":"t"}', "id is missing"),
        ('{"specversion":"0.3","id":"1","source":"/s","type":"t"}', "specversion"),
        ('{"specversion":"1.0","id":"1","source":"/s","type":"t","x":{}}', "x is a dict"),
        ('{"specversion":"1.0","id":"1","source":"/s","type":"t","n":4294967296}', "32 bits"),
        ('{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1,"data_base64":""}',
         "exclude each other"),
        ('{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"!"}', "base64"),
        ('{"specversion":"1.0","id":"1","id":"2","source":"/s","type":"t"}', "twice"),
        ('{"specversion":"1.0","id":1,"source":"/s","type":"t"}', "id is a str"),
        ('{"specversion":"1.0","id":"1","source":"/s","type":"t","data":NaN}', "NaN"),
    ])
    def test_json_must_be_an_event(self, wrong, words):
        with pytest.raises(InvalidEvent, match=words):
            CloudEvent.from_json(wrong)

    def test_null_attributes_are_absent_and_null_data_is_data(self):
        event = CloudEvent.from_json('{"specversion":"1.0","id":"1","source":"/s","type":"t",'
                                     '"subject":null,"data":null}')
        assert "subject" not in event
        assert event.has_data and event.data is None and event.raw_data == b"null"
        assert event.datacontenttype == "application/json"
        assert json.loads(event.to_json())["data"] is None

    def test_received_bytes_stay_as_they_came(self):
        message = CloudEventMessage(id="1", source="/s", type="t", spec_version="1.0")
        message.attributes["time"].ce_string = "2026-03-29T01:00:00.123456789+02:00"
        encoded = message.SerializeToString() + b"\xba\x06\x01x"  # and a field of a later version
        event = CloudEvent.from_protobuf(encoded)
        assert event.to_protobuf() == encoded
        assert event.time == datetime(2026, 3, 28, 23, 0, 0, 123456, tzinfo=timezone.utc)
        assert json.loads(event.to_json())["time"] == "2026-03-29T01:00:00.123456789+02:00"

    @pytest.mark.parametrize("encoded", [
        b"\xff\xff", b"", b"\x0a\x011\x12\x02/s\x1a\x030.3\x22\x01t"])
    def test_undecodable_bytes_are_no_event(self, encoded):
        with pytest.raises(InvalidEvent):
            CloudEvent.from_protobuf(encoded)

    @pytest.mark.parametrize("text, moment", [
        ("2026-03-29T01:00:00Z", datetime(2026, 3, 29, 1, tzinfo=timezone.utc)),
        ("2026-03-29t01:00:00.5z", datetime(2026, 3, 29, 1, 0, 0, 500000, tzinfo=timezone.utc)),
        ("2026-03-29T01:00:00-01:30", datetime(2026, 3, 29, 2, 30, tzinfo=timezone.utc)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=timezone.utc)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=timezone.utc)),
        ("9999-12-31T23:59:59.999999999Z",
         datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone.utc)),
    ])
    def test_times_are_read_to_the_microsecond(self, text, moment):
        assert CloudEvent("t", "/s", time=text).time == moment


class TestDuration:
    @pytest.mark.parametrize("value, expected", [
        (10, 10.0), (0.25, 0.25), ("200ms", 0.2), ("1m30s", 90.0), ("1.5h", 5400.0),
        (timedelta(minutes=2), 120.0), ("0s", 0.0)])
    def test_is_read_as_people_write_it(self, value, expected):
        assert seconds(value) == pytest.approx(expected)

    @pytest.mark.parametrize("value", [-1, "10", "s", "1s ", float("inf"), float("nan"), True,
                                       None, timedelta(seconds=-1)])
    def test_refuses_the_rest(self, value):
        with pytest.raises(ValueError):
            seconds(value)

    def test_is_rounded_up_to_milliseconds(self):
        assert [milliseconds(v) for v in (0, 0.0001, 0.25, "200ms")] == [0, 1, 250, 200]

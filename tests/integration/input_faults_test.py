"""Hostile and repeated input, as publishers give it to a real `tocsin serve`."""

import base64
import json
import time

import grpc
import pytest

from fault_rig import Broker, CloudEvent, event, eventually, field, request

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
MIB = 1 << 20


@pytest.fixture(name="broker", scope="module")
def fixture_broker(tmp_path_factory):
    """One broker for all tests: whatever one of them sends, it serves the next."""
    started = Broker(tmp_path_factory.mktemp("input")).start()
    yield started
    assert started.process.poll() is None, started.log()
    started.stop()
    started.end()


@pytest.fixture(name="own")
def fixture_own(tmp_path):
    made = []

    def own(**options):
        made.append(Broker(tmp_path, **options).start())
        return made[-1]

    yield own
    for one in made:
        one.end()


def attribute(name, value):
    """A map entry as raw bytes; `value` is an encoded CloudEventAttributeValue."""
    return field(5, field(1, name) + field(2, value))


# --- F18 ---
def test_F18_a_repeat_after_a_lost_ack_is_a_duplicate_also_after_a_kill(own):
    broker = own()
    stream = broker.stream()
    stream.send(request([event("a", key="k"), event("b", key="k")], sequence=1))
    # Stored, and whatever was answered is not read: the answer is lost with the connection.
    eventually(lambda: broker.tail() == ["a", "b"])
    broker.kill()
    broker.start()
    for _ in range(2):
        again = broker.publish(event("a", key="k"), event("b", key="k"), event("c", key="k"))
        assert again.accepted == 3
        repeated = {one.index: one for one in again.exceptions}
        assert all(one.duplicate and one.code == 0 for one in repeated.values())
        assert [repeated[i].first.offset for i in range(2)] == [0, 1]
        assert [ref.offset for ref in again.refs] == [0, 1, 2]
    assert broker.stores("a", "b", "c")
    assert broker.books().matched == 3
    # The next life knows it from its checkpoint, not from the log's tail.
    broker.stop()
    broker.start()
    assert broker.publish(event("a", key="k")).exceptions[0].first.offset == 0
    assert broker.metric("tocsin_partition_duplicates_total") == 1


def test_F18_a_repeat_of_an_event_under_way_waits_for_its_first_copy(own, tmp_path):
    broker = own()
    broker.faults("hold sync /log/")
    streams = [broker.stream() for _ in range(2)]
    for one in streams:
        one.send(request([event("a")], sequence=1))
    assert broker.tail() == [], "nothing is told before it is synced"
    broker.faults()
    answers = [one.read() for one in streams]
    assert [one.accepted for one in answers] == [1, 1]
    assert sum(len(one.exceptions) for one in answers) == 1
    assert broker.stores("a")


def test_F18_outside_the_window_a_repeat_is_a_new_event(own):
    broker = own(broker="  dedupe: { window: 0s }\n")
    assert not broker.publish(event("a")).exceptions
    assert not broker.publish(event("a")).exceptions
    assert broker.stores("a", "a")


# --- F19 ---
BOOLEAN = b"\x08\x01"
PLAIN = field(1, b"odd") + field(2, b"/test") + field(3, b"1.0") + field(4, b"t")

ODD_EVENTS = {
    "no bytes": b"",
    "over the size limit": event("large", data="x" * MIB),
    "a million empty attributes": PLAIN + field(5, b"") * 1_000_000,
    "a million of a map's bytes": PLAIN + attribute(b"a", BOOLEAN) * 400_000,
    "257 attributes": PLAIN + b"".join(attribute(b"a%d" % i, BOOLEAN) for i in range(257)),
    "a value that is not UTF-8": PLAIN + attribute(b"ext", field(3, b"\xff\xfe")),
    "a name that is not UTF-8": PLAIN + attribute(b"\xff", BOOLEAN),
    "an id that is not UTF-8": PLAIN.replace(b"odd", b"\xc3\x28\x28"),
    "text data that is not UTF-8": PLAIN + field(7, b"\xff"),
    "NUL in the key": PLAIN + attribute(b"partitionkey", field(3, b"a\0b")),
    "NUL in the source": field(1, b"odd") + field(2, b"/t\0") + field(3, b"1.0") + field(4, b"t"),
    "a lone surrogate": PLAIN + attribute(b"ext", field(3, b"\xed\xa0\x80")),
    "a key of 2 KiB": PLAIN + attribute(b"partitionkey", field(3, b"k" * 2048)),
    "no type": field(1, b"odd") + field(2, b"/test") + field(3, b"1.0"),
    "another version": PLAIN.replace(b"1.0", b"0.3"),
    "an attribute twice": PLAIN + attribute(b"ext", BOOLEAN) + attribute(b"ext", BOOLEAN),
    "an id twice": PLAIN + field(1, b"other"),
    "cut short": PLAIN + b"\x32\x7f" + b"x",
    "groups, nested": PLAIN + b"\x4b" * 100_000,
    "noise": bytes((i * 197 + 31) % 256 for i in range(5000)),
}


@pytest.mark.parametrize("name", ODD_EVENTS)
def test_F19_an_odd_event_is_refused_alone_and_its_stream_lives(broker, name):
    stream = broker.stream()
    good = ["%s %d" % (name, i) for i in range(3)]
    began = time.monotonic()
    stream.send(request([event(good[0]), ODD_EVENTS[name], event(good[1])], sequence=7))
    answer = stream.read()
    assert time.monotonic() - began < 2, "its cost is not in proportion to its size"
    assert (answer.sequence, answer.accepted) == (7, 2)
    refused = answer.exceptions[0]
    assert [one.index for one in answer.exceptions] == [1]
    assert refused.code in (INVALID_ARGUMENT.value[0], grpc.StatusCode.OUT_OF_RANGE.value[0])
    assert refused.error and len(refused.error) <= 512 and not refused.duplicate
    refused.error.encode("utf-8")
    stream.send(request([event(good[2])], sequence=8))
    assert (stream.read().sequence, stream.end()) == (8, grpc.StatusCode.OK)
    eventually(lambda: set(good) <= set(broker.tail()))


def test_F19_what_is_refused_is_counted_and_a_message_over_grpcs_limit_harms_nobody_else(broker):
    before = broker.metric("tocsin_publish_refused_events_total")
    assert broker.publish(b"").accepted == 0
    assert broker.metric("tocsin_publish_refused_events_total") == before + 1
    other = broker.stream()
    other.send(request([event("small 1")], sequence=1))
    assert other.read().accepted == 1
    with pytest.raises(grpc.RpcError) as error:
        broker.publish(event("huge", data="x" * (9 * MIB)))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    other.send(request([event("small 2")], sequence=2))
    assert other.read().accepted == 1


# --- F20 ---
ODD_REQUESTS = {
    "noise": bytes((i * 89 + 7) % 256 for i in range(4096)),
    "cut short": request([event("x")])[:-3],
    "a length beyond the end": b"\x12\xff\xff\xff\xff\x07" + b"x",
    "an endless number": b"\x08" + b"\xff" * 11,
    "field 0": b"\x02\x01x",
    "a number where events belong": b"\x10\x05",
    "nested groups": b"\x0b" * 100_000,
}


@pytest.mark.parametrize("name", ODD_REQUESTS)
def test_F20_a_malformed_request_ends_its_stream_after_the_answers_to_what_was_good(broker, name):
    healthy = broker.stream()
    stream = broker.stream()
    stream.send(request([event("before " + name)], sequence=1))
    stream.send(ODD_REQUESTS[name])
    assert stream.read().accepted == 1
    assert stream.end() == INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as error:
        broker.publish_raw(ODD_REQUESTS[name])
    assert error.value.code() == INVALID_ARGUMENT
    healthy.send(request([event("besides " + name)], sequence=1))
    assert healthy.read().accepted == 1


def test_F20_data_that_is_hostile_json_passes_through_and_can_be_shown(broker):
    """Data is bytes to the broker; what reads it must not believe it."""
    texts = {
        "deep": "[" * 100_000 + "]" * 100_000,
        "names": '{"a":1,"a":2}',
        "number": "1e400",
        "surrogate": '"\\ud800"',
        "nan": "NaN",
        "broken": '{"a":',
    }
    sent = []
    for name, text in texts.items():
        made = CloudEvent(id="json " + name, source="/test", spec_version="1.0", type="t",
                          text_data=text)
        made.attributes["datacontenttype"].ce_string = "application/json"
        sent.append(made.SerializeToString())
    assert broker.accepted(*sent)
    shown = broker.run("tail", "--from", "start", "--no-follow", "-o", "jsonl")
    assert shown.returncode == 0, shown.stderr
    lines = [json.loads(line) for line in shown.stdout.decode().splitlines()]
    by_id = {one["event"]["id"]: one["event"] for one in lines if "event" in one}
    for name, text in texts.items():
        # What does not parse is shown as the bytes that it is.
        shown_as = by_id["json " + name]
        assert "data" not in shown_as, name
        assert base64.b64decode(shown_as["data_base64"]).decode() == text, name
    assert broker.run("tail", "--from", "start", "--no-follow").returncode == 0


ODD_JSON = {
    "deep lists": '{"specversion":"1.0","id":"x","source":"/t","type":"t","data":' + "[" * 100_000,
    "deep maps": '{"a":' * 100_000,
    "a name twice": '{"specversion":"1.0","id":"x","id":"y","source":"/t","type":"t"}',
    "a name twice in the data":
        '{"specversion":"1.0","id":"x","source":"/t","type":"t","data":{"a":1,"a":2}}',
    "1e400": '{"specversion":"1.0","id":"x","source":"/t","type":"t","data":1e400}',
    "1e400 as an attribute":
        '{"specversion":"1.0","id":"x","source":"/t","type":"t","ext":1e400}',
    "a lone surrogate": '{"specversion":"1.0","id":"\\ud800","source":"/t","type":"t"}',
    "a lone surrogate in the data":
        '{"specversion":"1.0","id":"x","source":"/t","type":"t","data":"\\udc00"}',
    "NaN": '{"specversion":"1.0","id":"x","source":"/t","type":"t","data":NaN}',
    "Infinity": '{"specversion":"1.0","id":"x","source":"/t","type":"t","data":-Infinity}',
    "a control character": '{"specversion":"1.0","id":"x","source":"/t","type":"t","s":"\\u0000"}',
    "not UTF-8": b'{"specversion":"1.0","id":"\xff","source":"/t","type":"t"}',
    "cut short": '{"specversion":"1.0","id":"x"',
    "no JSON": "hello",
    "data and data_base64":
        '{"specversion":"1.0","id":"x","source":"/t","type":"t","data":1,"data_base64":"eA=="}',
}


@pytest.mark.parametrize("name", ODD_JSON)
def test_F20_the_command_refuses_hostile_json_with_its_place(broker, name):
    good = json.dumps({"specversion": "1.0", "id": "before json " + name, "source": "/t",
                       "type": "t"})
    odd = ODD_JSON[name]
    odd = odd if isinstance(odd, bytes) else odd.encode()
    began = time.monotonic()
    ended = broker.run("publish", "--json", "-", data=good.encode() + b"\n" + odd)
    assert time.monotonic() - began < 5
    said = ended.stderr.decode(errors="replace")
    assert ended.returncode == 1, (ended.returncode, said)
    assert "line 2" in said, said
    assert len(said) < 2000, "it does not repeat what it was given"
    # What was read before it is good.
    ids = eventually(lambda: [ids for ids in [broker.tail()] if "before json " + name in ids])[0]
    assert "x" not in ids and "y" not in ids


def test_F20_worker_frames_that_are_malformed_end_their_stream_alone(broker):
    healthy = broker.worker("other", name="healthy")
    for raw in (b"\xff" * 20, b"\x0b" * 100_000, b"\x12\x05\x0a\x03\x08\x09\x10", b"\x10\x01"):
        worker = broker.worker("other")
        worker.send_raw(raw)
        assert worker.code() == INVALID_ARGUMENT, raw[:10]
    healthy.heartbeat()
    workers = json.loads(broker.run("workers", "-o", "json").stdout)
    assert [one["worker"] for one in workers] == ["healthy"]
    healthy.close()

"""Sources of kind zeromq: the real tocsin and peers by pyzmq. Peers in C++ are in
tests/unit/connectors/zeromq_connector_test.cc."""

import json
import time

import pytest
import zmq
from fault_rig import MEMORY, eventually, fixture_make, one_trigger  # noqa: F401
from queue_rig import attributes_of, data_of, free_port, source_status, stored_events


@pytest.fixture(name="context")
def fixture_context():
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def peer(context, kind, timeout=20_000):
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDTIMEO, timeout)
    made.setsockopt(zmq.RCVTIMEO, timeout)
    return made


def source(keys, event=""):
    return ("sources:\n  in:\n    backoff_max: 200ms\n%s    zeromq: { %s }\n"
            % (event and "    event: %s\n" % event, keys)) + one_trigger()


def status(broker):
    return source_status(broker, "in") or {}


def holds_events(broker, count, within=30.0):
    eventually(lambda: status(broker).get("events") == count, within)
    return stored_events(broker)


def test_push_and_pull_across_a_kill(make, context):
    endpoint = "tcp://127.0.0.1:%d" % free_port()
    broker = make(rest=source("bind: [\"%s\"]" % endpoint,
                              "{ type: 'sensor.{data.kind}', partitionkey: '{topic}' }"),
                  shim=False).start()
    push = peer(context, zmq.PUSH)
    push.connect(endpoint)
    push.send_multipart([b"room/1", b'{"kind":"heat","n":1}'])
    event = holds_events(broker, 1)[0]
    told = attributes_of(event)
    assert told["type"] == "sensor.heat" and told["subject"] == "room/1"
    assert told["partitionkey"] == "room/1" and data_of(event) == '{"kind":"heat","n":1}'
    broker.kill()
    push.send_multipart([b"room/2", b"{}"])  # waits at the peer
    broker.start()
    assert attributes_of(holds_events(broker, 2)[1])["subject"] == "room/2"
    push.send_multipart([b"1", b"2", b"3", b"4"])
    letter = eventually(broker.letters)[0]
    assert letter.reason == "undecodable" and letter.event == b"1234"


def test_publisher_that_goes_and_comes_is_connected_to_again(make, context):
    endpoint = "tcp://127.0.0.1:%d" % free_port()
    broker = make(rest=source("socket: sub, connect: [\"%s\"], subscribe: [a]" % endpoint),
                  shim=False).start()
    eventually(lambda: "not connected" in (status(broker).get("last_error") or ""))
    for turn in (1, 2):
        publisher = peer(context, zmq.XPUB)
        publisher.bind(endpoint)
        assert publisher.recv() == b"\x01a"  # it has subscribed
        publisher.send_multipart([b"b", b"no"])
        publisher.send_multipart([b"a/%d" % turn, b"yes"])
        events = holds_events(broker, turn)
        assert attributes_of(events[-1])["subject"] == "a/%d" % turn
        assert not status(broker).get("last_error")
        publisher.close(linger=1000)
        eventually(lambda: "connect" in (status(broker).get("last_error") or ""))


@pytest.mark.parametrize("kind", ["pull", "sub"])
def test_source_goes_on_by_itself_after_its_peer_was_away_for_twenty_seconds(make, context, kind):
    endpoint = "tcp://127.0.0.1:%d" % free_port()

    def serve():
        made = peer(context, zmq.PUSH if kind == "pull" else zmq.XPUB)
        made.bind(endpoint)
        if kind == "sub":
            assert made.recv() == b"\x01"  # it has subscribed
        return made

    broker = make(rest=source("socket: %s, connect: [\"%s\"]" % (kind, endpoint)),
                  shim=False).start()
    serving = serve()
    serving.send(b"before")
    holds_events(broker, 1)
    serving.close(linger=1000)
    began = time.monotonic()
    eventually(lambda: "connects again" in (status(broker).get("last_error") or ""))
    eventually(lambda: time.monotonic() - began > 20, within=30)
    assert status(broker)["state"] == "running"
    serving = serve()
    serving.send(b"after")
    assert [data_of(one) for one in holds_events(broker, 2)] == ["before", "after"]
    assert not status(broker).get("last_error")
    serving.close()


def test_request_is_answered_when_durable_and_a_repeat_is_known(make, context):
    endpoint = "tcp://127.0.0.1:%d" % free_port()
    broker = make(rest=source("socket: rep, bind: [\"%s\"], parts: [data]" % endpoint),
                  shim=False).start()
    asking = peer(context, zmq.REQ)
    asking.setsockopt(zmq.REQ_RELAXED, 1)
    asking.setsockopt(zmq.REQ_CORRELATE, 1)
    asking.connect(endpoint)
    event = json.dumps({"specversion": "1.0", "id": "r1", "source": "/c", "type": "t"}).encode()
    asking.send(event)
    assert json.loads(asking.recv()) == {"ok": True}
    broker.kill()
    broker.start()
    assert [one.id for one in holds_events(broker, 1)] == ["r1"]
    asking.send(event)  # as a client does that saw no answer
    assert json.loads(asking.recv()) == {"ok": True}
    asking.send(b'{"specversion":"1.0"}')
    answer = json.loads(asking.recv())
    assert answer["ok"] is False and answer["error"]
    assert [one.id for one in stored_events(broker)] == ["r1"]
    assert len(broker.letters()) == 1


def test_curve_admits_only_who_is_named(make, context):
    endpoint = "tcp://127.0.0.1:%d" % free_port()
    server_public, server_secret = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    broker = make(rest=source(
        "bind: [\"%s\"], curve: { secret: '%s', clients: ['%s'] }"
        # A key may look like a reference to the environment.
        % (endpoint, server_secret.decode().replace("${", "$${"),
           public.decode().replace("${", "$${"))), shim=False).start()

    def connect(own_public, own_secret):
        push = peer(context, zmq.PUSH)
        push.curve_serverkey, push.curve_publickey, push.curve_secretkey = (
            server_public, own_public, own_secret)
        push.connect(endpoint)
        return push

    friend = connect(public, secret)
    friend.send(b"friend")
    holds_events(broker, 1)
    stranger = connect(*zmq.curve_keypair())
    stranger.send(b"stranger", zmq.NOBLOCK)
    eventually(lambda: "not admitted" in (status(broker).get("last_error") or ""))
    assert [data_of(one) for one in stored_events(broker)] == ["friend"]
    assert server_secret.decode() not in broker.log()


def test_full_broker_holds_its_peers_back_in_bounded_memory_and_loses_nothing(make, context):
    endpoint = "tcp://127.0.0.1:%d" % free_port()
    broker = make(rest=source("bind: [\"%s\"], high_water_mark: 20" % endpoint),
                  broker="  retention: { size: 32MiB }\n", shim=False).start()
    push = peer(context, zmq.PUSH, timeout=3000)
    push.setsockopt(zmq.SNDHWM, 20)
    push.connect(endpoint)
    sent = 0
    with pytest.raises(zmq.Again):
        while sent < 1000:
            push.send(b"%d" % sent + b"x" * 200_000)
            sent += 1
    assert sent < 400
    eventually(lambda: status(broker)["state"] == "broker_full")
    assert broker.mib() < 200 * MEMORY
    worker = broker.worker(credit=50)
    seen = 0
    while seen < sent:
        delivery = worker.take(within=60)[0]
        worker.ack(delivery.handle)
        seen += 1
    eventually(lambda: status(broker)["events"] == sent, within=60)
    assert status(broker)["state"] == "running"

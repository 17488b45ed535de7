"""Sources of kind kafka: a real Apache Kafka and the real tocsin.

TOCSIN_QUEUE_RECORDS asks for more records across kills (make queues).
"""

import json
import os
import subprocess
import time

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from fault_rig import TOCSIN, eventually, fixture_make, one_trigger  # noqa: F401
from kafka_rig import Kafka
from queue_rig import attributes_of, data_of, source_status, stored_events

RECORDS = int(os.environ.get("TOCSIN_QUEUE_RECORDS", "40000"))


@pytest.fixture(name="kafka", scope="module")
def fixture_kafka(tmp_path_factory):
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    yield server
    server.kill()


class Client:
    """Topics and records."""

    def __init__(self, kafka):
        self.kafka = kafka
        self.admin = AdminClient({"bootstrap.servers": kafka.address})

    def _all(self, futures):
        for future in futures.values():
            future.result(30)

    def create(self, topic, partitions=1, **settings):
        def made():
            try:
                self._all(self.admin.create_topics(
                    [NewTopic(topic, partitions, 1,
                              config={k.replace("_", "."): v for k, v in settings.items()})]))
                return True
            except confluent_kafka.KafkaException as error:
                # The one of that name is still being deleted, or the broker is still starting.
                if error.args[0].code() in (36, -185, -195, 41, 7):
                    return False
                raise
        eventually(made, within=60)
        eventually(lambda: topic in self.admin.list_topics(timeout=10).topics)

    def delete(self, topic):
        self._all(self.admin.delete_topics([topic]))
        eventually(lambda: topic not in self.admin.list_topics(timeout=10).topics, within=60)

    def grow(self, topic, partitions):
        self._all(self.admin.create_partitions([NewPartitions(topic, partitions)]))

    def delete_records(self, topic, before):
        """By the tool of Kafka: this client's version has no call for it."""
        path = os.path.join(self.kafka.dir, "delete.json")
        with open(path, "w", encoding="utf-8") as out:
            json.dump({"partitions": [{"topic": topic, "partition": 0, "offset": before}],
                       "version": 1}, out)
        self.kafka._run("org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server",
                        self.kafka.address, "--offset-json-file", path)

    def produce(self, topic, records, **settings):
        """(key, value, headers) each; waits until they are acknowledged."""
        producer = confluent_kafka.Producer({
            "bootstrap.servers": self.kafka.address, "linger.ms": 5,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 2000000, **settings})
        failed = []
        for number, (key, value, headers) in enumerate(records):
            producer.produce(topic, value, key, headers=headers,
                             on_delivery=lambda error, _: error and failed.append(error))
            if number % 10000 == 0:
                producer.poll(0)
        assert producer.flush(60) == 0 and not failed, failed[:3]
        return producer

    def numbers(self, topic, numbers, key=None):
        self.produce(topic, ((key or str(n % 17), str(n), None) for n in numbers))


@pytest.fixture(name="client")
def fixture_client(kafka):
    return Client(kafka)


def source(kafka, keys, event="", name="in", address=None):
    return ("sources:\n  %s:\n    backoff_max: 300ms\n%s    kafka: { brokers: [\"%s\"],"
            " discover: 300ms, %s }\n"
            % (name, event and "    event: %s\n" % event, address or kafka.address, keys)
            ) + one_trigger()


def status(broker, lane):
    return source_status(broker, "in", lane) or {}


def running(broker, *lanes):
    for lane in lanes:
        eventually(lambda: status(broker, lane).get("state") == "running", within=150)


def stands(broker, lane, words):
    def holds():
        return words in (status(broker, lane).get("last_error") or "")
    try:
        return eventually(holds, within=40)
    except AssertionError:
        raise AssertionError(broker.run("sources", "-o", "json").stdout) from None


def holds_events(broker, count, within=40.0):
    def enough():
        told = json.loads(broker.run("sources", "-o", "json").stdout)
        return sum(one["events"] for one in told) >= count
    try:
        eventually(enough, within)
    except AssertionError:
        raise AssertionError(broker.run("sources", "-o", "json").stdout) from None

    def stored():
        # A source counts what is durable a moment before it can be read.
        events = stored_events(broker)
        return events if len(events) >= count else None
    return eventually(stored)


def values(events):
    return [int(data_of(event)) for event in events]


def test_records_of_every_shape_become_events(make, kafka, client):
    client.create("shapes")
    client.produce("shapes", [
        ("k1", '{"kind":"paid","n":1}', [("region", b"eu")]),
        ("k2", None, None),
        (None, b"\xff\xfe", None),
        ("k3", '{"x":1}', [("ce_specversion", b"1.0"), ("ce_id", b"e1"), ("ce_source", b"/s"),
                           ("ce_type", b"t"), ("content-type", b"application/json")]),
        (None, '{"specversion":"1.0","id":"e2","source":"/s","type":"t","data":[2]}',
         [("content-type", b"application/cloudevents+json; charset=utf-8")]),
        ("k4", "broken", [("content-type", b"application/cloudevents+json")])])
    broker = make(rest=source(kafka, "topics: [shapes]",
                              "{ subject: '{topic}/{header.region}', attributes: { kind: "
                              "'{data.kind}' } }"), shim=False).start()
    raw, tombstone, binary, binary_mode, structured = holds_events(broker, 5)
    told = attributes_of(raw)
    assert told["id"] == "shapes/0/0" and told["source"] == "/sources/in"
    assert told["type"] == "dev.tocsin.kafka.record"
    assert told["subject"] == "shapes/eu" and told["kind"] == "paid"
    assert told["partitionkey"] == "k1" and "time" in told
    assert data_of(raw) == '{"kind":"paid","n":1}'
    assert attributes_of(tombstone)["type"] == "dev.tocsin.kafka.tombstone"
    assert attributes_of(tombstone)["partitionkey"] == "k2"
    assert tombstone.WhichOneof("data") is None
    assert binary.binary_data == b"\xff\xfe"
    assert binary_mode.id == "e1" and attributes_of(binary_mode)["partitionkey"] == "k3"
    assert structured.id == "e2" and data_of(structured) == "[2]"
    letter = eventually(broker.letters)[0]
    assert letter.reason == "undecodable" and letter.event == b"broken"
    assert letter.lane == "shapes/0" and "shapes/0/5" in letter.message
    shown = status(broker, "shapes/0")
    assert shown["kind"] == "kafka" and shown["position"] == "6" and shown["lag"] == 0


def test_every_partition_is_a_lane_and_new_ones_and_new_topics_are_noticed(make, kafka, client):
    client.create("grow-a", 2)
    client.numbers("grow-a", range(100))
    broker = make(rest=source(kafka, "topics: ['^grow-.*']"), shim=False).start()
    assert sorted(values(holds_events(broker, 100))) == list(range(100))
    client.grow("grow-a", 4)
    client.create("grow-b")
    running(broker, "grow-a/3", "grow-b/0")
    client.numbers("grow-a", range(100, 200))
    client.numbers("grow-b", range(200, 210))
    assert sorted(values(holds_events(broker, 210))) == list(range(210))
    # The order of each key is the topic's.
    by_key = {}
    for event in stored_events(broker):
        by_key.setdefault(attributes_of(event)["partitionkey"], []).append(int(data_of(event)))
    for key, found in by_key.items():
        first = [n for n in found if n < 100]
        assert first == sorted(first), key


def test_missing_topic_is_told_and_taken_when_it_is_there(make, kafka, client):
    broker = make(rest=source(kafka, "topics: [later]"), shim=False).start()
    stands(broker, "", "there is no topic later")
    client.create("later")
    client.numbers("later", [1])
    assert values(holds_events(broker, 1)) == [1]


def test_start_latest_and_at_a_time(make, kafka, client):
    client.create("begin")
    client.produce("begin", [(None, "1", None)])
    broker = make(rest=source(kafka, "topics: [begin], start: latest"), shim=False).start()
    running(broker, "begin/0")
    eventually(lambda: status(broker, "begin/0").get("position") == "1")
    broker.kill()
    client.produce("begin", [(None, "2", None)])
    broker.start()
    assert values(holds_events(broker, 1)) == [2]
    broker.set_config(source(kafka, "topics: [begin], start: \"2001-01-01T00:00:00Z\"", name="old"))
    assert broker.run("reload").returncode == 0
    eventually(lambda: values(stored_events(broker)) == [2, 1, 2])


def test_aborted_transactions_are_not_seen(make, kafka, client):
    client.create("tx")
    broker = make(rest=source(kafka, "topics: [tx]"), shim=False).start()
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka.address,
                                         "transactional.id": "tx-test"})
    producer.init_transactions(60)
    for number, commit in [(1, True), (2, False), (3, True), (4, False)]:
        producer.begin_transaction()
        producer.produce("tx", str(number))
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    assert values(holds_events(broker, 2)) == [1, 3]
    # Behind the markers, too: nothing is left to read.
    eventually(lambda: status(broker, "tx/0")["lag"] == 0)
    broker.kill()
    broker.start()
    running(broker, "tx/0")
    client.produce("tx", [(None, "5", None)])
    assert values(holds_events(broker, 3)) == [1, 3, 5]


def test_topic_made_anew_is_refused_until_it_is_forgotten(make, kafka, client):
    client.create("anew")
    client.numbers("anew", range(10))
    broker = make(rest=source(kafka, "topics: [anew]"), shim=False).start()
    holds_events(broker, 10)
    broker.stop()
    client.delete("anew")
    client.create("anew")
    client.numbers("anew", range(100, 105))
    broker.start()
    stands(broker, "anew/0", "it ends at 5, but had been read up to 10")
    # More records than were read: only the record before the position tells.
    client.numbers("anew", range(105, 120))
    stands(broker, "anew/0", "is not the one that was read")
    assert len(stored_events(broker)) == 10
    assert broker.run("sources", "forget", "in", "--yes").returncode == 0
    assert values(holds_events(broker, 20))[10:] == list(range(100, 120))


def test_topic_made_anew_while_it_is_read_is_refused_until_it_is_forgotten(make, kafka, client):
    client.create("living")
    client.numbers("living", range(10))
    broker = make(rest=source(kafka, "topics: [living]"), shim=False).start()
    holds_events(broker, 10)
    client.delete("living")
    client.create("living")
    # More than were read, so that every offset is there.
    client.numbers("living", range(100, 130))
    stands(broker, "living/0", "is not the one that was read")
    count = len(stored_events(broker))
    broker.kill()
    broker.start()
    stands(broker, "living/0", "is not the one that was read")
    assert len(stored_events(broker)) == count
    assert broker.run("sources", "forget", "in", "--yes").returncode == 0
    assert values(holds_events(broker, 30))[count:] == list(range(100, 130))


def test_records_that_expired_unread_are_refused_and_passed_if_asked(make, kafka, client):
    client.create("gap")
    client.numbers("gap", range(10))
    broker = make(rest=source(kafka, "topics: [gap]"), shim=False).start()
    holds_events(broker, 10)
    broker.stop()
    client.numbers("gap", range(10, 30))
    client.delete_records("gap", 25)
    broker.start()
    stands(broker, "gap/0", "15 records after 10 expired")
    broker.set_config(source(kafka, "topics: [gap], on_gap: continue"))
    assert broker.run("reload").returncode == 0
    assert values(holds_events(broker, 15)) == list(range(10)) + list(range(25, 30))
    assert status(broker, "gap/0")["skipped"] == 15


@pytest.mark.parametrize("mechanism, user, wrong, right", [
    ("PLAIN", "ann", "hunter3", "hunter2"),
    ("SCRAM-SHA-512", "bob", "hunter2", "swordfish")])
def test_login_by_sasl_and_what_is_wrong_is_told_without_the_password(
        make, kafka, client, mechanism, user, wrong, right):
    topic = "sasl-" + mechanism
    client.create(topic)
    client.numbers(topic, [1])
    address = "127.0.0.1:%d" % kafka.sasl_port
    login = ("topics: [%s], sasl: { mechanism: %s, user: %s, password: %%s }"
             % (topic, mechanism, user))
    broker = make(rest=source(kafka, login % wrong, address=address), shim=False).start()
    stands(broker, "", "uthentication")
    broker.set_config(source(kafka, login % right, address=address))
    assert broker.run("reload").returncode == 0
    assert values(holds_events(broker, 1)) == [1]
    assert wrong not in broker.log() and right not in broker.log()


def test_tls_with_a_certificate_of_ours_and_what_is_wrong_is_told(make, kafka, client):
    client.create("tls")
    client.numbers("tls", [1])
    address = "localhost:%d" % kafka.tls_port
    own = "ca: {0}/ca.pem, cert: {0}/client.crt, key: {0}/client.key".format(kafka.dir)
    broker = make(rest=source(kafka, "topics: [tls], tls: {}", address=address),
                  shim=False).start()
    stands(broker, "", "certificate")  # who signs here is not among the system's
    broker.set_config(source(kafka, "topics: [tls], tls: { %s }" % own, address=address))
    assert broker.run("reload").returncode == 0
    assert values(holds_events(broker, 1)) == [1]


def test_check_tells_what_is_there_and_what_is_wrong(kafka, client, tmp_path):
    client.create("checked", 3)
    config = tmp_path / "t.yaml"
    config.write_text("""sources:
  good: { kafka: { brokers: ["%(plain)s"], topics: [checked] } }
  member: { kafka: { brokers: ["%(plain)s"], topics: [checked], group: g } }
  missing: { kafka: { brokers: ["%(plain)s"], topics: [checked, never] } }
  login: { kafka: { brokers: ["127.0.0.1:%(sasl)d"], topics: [checked],
                    sasl: { mechanism: PLAIN, user: ann, password: hunter3 } } }
""" % {"plain": kafka.address, "sasl": kafka.sasl_port})
    done = subprocess.run([TOCSIN, "sources", "check", "-c", str(config), "-o", "json"], text=True,
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == 1
    told = {one["name"]: (one["ok"], one["message"]) for one in json.loads(done.stdout)}
    for name, ok, words in [("good", True, "3 partitions"), ("member", True, "3 partitions"),
                            ("missing", False, "has no topic never"),
                            ("login", False, "uthentication")]:
        assert told[name][0] is ok and words in told[name][1], told[name]
    assert "hunter" not in done.stdout


# On a busy machine, too: members that come and go while records come cost no record.
def test_group_shares_partitions_and_goes_on_from_what_was_committed(make, kafka, client, tmp_path):
    client.create("shared", 4)
    client.numbers("shared", range(200))
    # Small timeouts, so that a member that was killed is missed soon.
    keys = ("topics: [shared], group: g1, settings: { session.timeout.ms: 6000,"
            " heartbeat.interval.ms: 500 }")
    from fault_rig import Broker
    first = make(rest=source(kafka, keys), shim=False).start()
    assert sorted(values(holds_events(first, 200, within=180))) == list(range(200))
    second_dir = tmp_path / "second"
    second_dir.mkdir()
    second = Broker(second_dir, rest=source(kafka, keys), shim=False).start()
    try:
        def shared():
            lanes = [[one["lane"] for one in json.loads(broker.run("sources", "-o", "json").stdout)
                      if one["state"] == "running"] for broker in (first, second)]
            return len(lanes[0]) == 2 and len(lanes[1]) == 2
        eventually(shared, within=120)
        client.numbers("shared", range(200, 400))
        eventually(lambda: len(stored_events(first)) + len(stored_events(second)) >= 400,
                   within=120)
        both = values(stored_events(first)) + values(stored_events(second))
        assert sorted(both) == list(range(400))
        assert values(stored_events(second))
        # The other one dies: its partitions come back, from what it committed.
        second.kill()
        client.numbers("shared", range(400, 500))
        try:
            eventually(lambda: set(values(stored_events(first))) >= set(range(400, 500)),
                       within=120)
        except AssertionError:
            raise AssertionError(first.run("sources", "-o", "json").stdout) from None
    finally:
        second.end()


def test_group_whose_committed_offset_expired_is_refused_and_passed_if_asked(make, kafka, client):
    client.create("late")
    client.numbers("late", range(30))
    member = confluent_kafka.Consumer({"bootstrap.servers": kafka.address, "group.id": "late"})
    member.commit(offsets=[confluent_kafka.TopicPartition("late", 0, 10)], asynchronous=False)
    member.close()
    client.delete_records("late", 25)
    keys = "topics: [late], group: late, settings: { session.timeout.ms: 6000 }"
    broker = make(rest=source(kafka, keys), shim=False).start()
    stands(broker, "late/0", "15 records after 10 expired")
    broker.set_config(source(kafka, keys + ", on_gap: continue"))
    assert broker.run("reload").returncode == 0
    assert values(holds_events(broker, 5, within=60)) == list(range(25, 30))


@pytest.mark.parametrize("group", ["", ", group: once"])
def test_exactly_once_across_kills_of_the_broker_and_of_kafka(make, kafka, client, group):
    topic = "once" + str(len(group))
    client.create(topic, 2)
    broker = make(rest=source(kafka, "topics: [%s]%s, settings: { session.timeout.ms: 6000 }"
                              % (topic, group)), shim=False).start()
    kills = 3
    made = 0
    for turn in range(kills + 1):
        upto = RECORDS * (turn + 1) // (kills + 1)
        client.numbers(topic, range(made, upto))
        made = upto
        if turn == 1:
            kafka.kill()
            kafka.start()
        if turn < kills:
            broker.kill()
            broker.start()
    events = holds_events(broker, RECORDS, within=600)
    assert sorted(values(events)) == list(range(RECORDS))
    by_lane = {}
    for event in events:
        by_lane.setdefault(event.id.split("/")[1], []).append(int(event.id.split("/")[2]))
    for lane, offsets in by_lane.items():
        assert offsets == sorted(offsets), lane


# The last ones: they take Kafka away from the others.
def test_source_goes_on_by_itself_after_kafka_was_away_for_twenty_seconds(make, kafka, client):
    """Alone, and as a member of a group."""
    client.create("away")
    client.numbers("away", range(10))
    keys = "topics: [away], settings: { session.timeout.ms: 6000 }"
    member = source(kafka, keys + ", group: away", name="member")
    member = member.split("sources:\n")[1].split("functions:")[0]
    broker = make(rest=source(kafka, keys).replace("functions:", member + "functions:", 1),
                  shim=False).start()
    holds_events(broker, 20, within=60)
    kafka.kill()
    began = time.monotonic()
    for name in ("in", "member"):
        eventually(lambda: source_status(broker, name, "away/0")["state"] != "running", within=30)
    eventually(lambda: time.monotonic() - began > 20, within=30)
    kafka.start()
    client.numbers("away", range(10, 20))
    for name in ("in", "member"):
        eventually(lambda: (source_status(broker, name, "away/0") or {}).get("state") == "running",
                   within=60)
    events = holds_events(broker, 40, within=60)
    assert sorted(values(events)) == sorted(list(range(20)) * 2)


def test_broker_stops_within_seconds_while_kafka_is_away(make, kafka, client):
    client.create("stops")
    client.numbers("stops", range(10))
    broker = make(rest=source(kafka, "topics: [stops], group: stops"), shim=False).start()
    holds_events(broker, 10)
    kafka.kill()
    try:
        broker.stop()
    finally:
        kafka.start()

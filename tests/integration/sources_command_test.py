"""`tocsin sources check` and `forget`, and the examples of docs/sources, with real servers."""

import json
import os
import re
import subprocess

import pytest
from fault_rig import TOCSIN, eventually, fixture_make, one_trigger  # noqa: F401
from queue_rig import Redis, free_port, source_status, stored_events


@pytest.fixture(name="redis")
def fixture_redis(tmp_path):
    server = Redis(tmp_path)
    yield server
    server.kill()


def check(path, *words):
    done = subprocess.run([TOCSIN, "sources", "check", "-c", str(path), *words], text=True,
                          capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_check_tries_every_connection_and_says_what_is_wrong(tmp_path, redis):
    config = tmp_path / "t.yaml"
    nobody = free_port()
    redis.do("XADD", "s", "*", "a", "b")
    redis.do("SET", "text", "x")
    config.write_text("""sources:
  stream: { redis: { url: "%(url)s", stream: s } }
  later: { redis: { url: "%(url)s", list: none-yet } }
  wrong: { redis: { url: "%(url)s", stream: text } }
  mute: { redis: { url: "%(url)s", keyevents: [expired] } }
  away: { redis: { url: "redis://:hunter2@127.0.0.1:%(nobody)d", stream: s } }
  kafka: { kafka: { brokers: ["127.0.0.1:%(nobody)d"], topics: [t] } }
  bound: { zeromq: { bind: ["tcp://127.0.0.1:%(nobody)d"] } }
  taken: { zeromq: { bind: ["tcp://127.0.0.1:%(taken)d"] } }
  apart: { zeromq: { connect: ["tcp://127.0.0.1:%(nobody)d"] } }
  inbox: { file: { path: %(dir)s } }
  missing: { file: { path: %(dir)s/none } }
  lines: { tail: { path: %(dir)s/t.yaml } }
  nightly: { timer: { cron: "30 2 * * *" } }
""" % {"url": redis.url, "nobody": nobody, "taken": redis.port, "dir": tmp_path})
    status, out, _ = check(config, "-o", "json")
    assert status == 1
    told = {one["name"]: one for one in json.loads(out)}
    for name, ok, words in [
            ("stream", True, "with 1 entries"), ("later", True, "not there yet"),
            ("wrong", False, "is a string, not a stream"),
            ("mute", False, "notify-keyspace-events"), ("away", False, "refused"),
            ("kafka", False, str(nobody)), ("bound", True, "can be bound"),
            ("taken", False, "in use"), ("apart", False, "not connected"),
            ("inbox", True, "is there"), ("missing", False, "none"),
            ("lines", True, "can be read"), ("nightly", True, "30 2 * * *")]:
        assert told[name]["ok"] is ok, told[name]
        assert words in told[name]["message"], told[name]
    assert "hunter2" not in out
    status, out, _ = check(config, "stream", "inbox")
    assert status == 0 and out.startswith("ok"), out
    assert check(config, "nobody")[0] == 1
    config.write_text("sources: { a: { redis: {} } }\n")
    status, _, err = check(config)
    assert status == 1 and "`url` is missing" in err


def test_forget_of_a_file_source_makes_its_files_new(make, tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(5):
        (inbox / str(number)).write_text("x")
    rest = "sources: { inbox: { file: { path: %s, settle: 0s } } }\n" % inbox
    broker = make(rest=rest + one_trigger(), shim=False).start()
    eventually(lambda: (source_status(broker, "inbox") or {}).get("events") == 5)
    told = broker.run("sources", "forget", "inbox", "--dry-run", "-o", "json")
    assert json.loads(told.stdout) == {"name": "inbox", "dry_run": True, "lanes": 1, "entries": 5,
                                       "configured": False}
    assert broker.run("sources", "forget", "inbox", "--yes").returncode == 0
    eventually(lambda: len(stored_events(broker)) == 10)
    broker.set_config(one_trigger())
    assert broker.run("reload").returncode == 0
    assert source_status(broker, "inbox")["state"] == "absent"
    assert broker.run("sources", "forget", "inbox", "--yes").returncode == 0
    assert source_status(broker, "inbox") is None
    broker.kill()
    broker.start()
    assert source_status(broker, "inbox") is None
    missing = broker.run("sources", "forget", "inbox", "--yes")
    assert missing.returncode == 1 and b"nothing is remembered" in missing.stderr


def pages():
    folder = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "sources")
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))
            if name.endswith(".md") and name != "README.md"]


@pytest.mark.parametrize("page", pages(), ids=os.path.basename)
def test_examples_of_the_pages_are_valid(page, tmp_path):
    with open(page, encoding="utf-8") as text:
        examples = re.findall(r"```yaml\n(.*?)```", text.read(), re.S)
    assert examples
    for number, example in enumerate(examples):
        config = tmp_path / ("%d.yaml" % number)
        config.write_text(example)
        done = subprocess.run([TOCSIN, "validate", str(config)], capture_output=True, text=True,
                              env=dict(os.environ, REDIS_PASSWORD="p", KAFKA_PASSWORD="p",
                                       SHOP_DB="postgresql://db/shop",
                                       CURVE_SECRET="0" * 40), timeout=60, check=False)
        assert done.returncode == 0, example + done.stderr


def test_example_of_the_redis_page_runs(make, redis):
    """The first example as it stands, but for addresses."""
    page = next(one for one in pages() if one.endswith("redis.md"))
    with open(page, encoding="utf-8") as text:
        example = re.search(r"```yaml\n(.*?)```", text.read(), re.S).group(1)
    rest = example.split("sources:", 1)[1]
    rest = "sources:" + rest.replace("redis://localhost:6379", redis.url)
    broker = make(rest=rest, shim=False).start()
    redis.do("XADD", "orders", "*", "customer", "c7", "body", '{"kind":"paid","total":12}')
    event = eventually(lambda: stored_events(broker))[0]
    assert event.type == "shop.order.paid"
    assert event.attributes["partitionkey"].ce_string == "c7"
    assert event.text_data == '{"kind":"paid","total":12}'
    delivery = broker.worker("ship").take()[0]
    assert delivery.event

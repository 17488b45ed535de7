"""`tocsin test` and transforms, as processes: examples, failures, errors, JUnit, exit statuses."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

TOCSIN = None
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

CONFIG = """
version: 1
config:
  broker: { partitions: 2 }
  sources:
    inbox: { file: { path: /nowhere } }
  functions: { f: {}, g: {} }
  triggers:
    paid:
      pattern: { type: [paid], data: { total: [ { numeric: [">", 10] } ] } }
      function: f
      timeout: 5s
      retry: { attempts: 3, backoff: 2s, factor: 3 }
    made:
      pattern: { type: [made] }
      function: g
      transform: { attributes: { type: "{type}.x" }, data: { n: "{data.n}" } }
"""


def run(*words, stdin=None, **more):
    done = subprocess.run([TOCSIN, *words], input=stdin, capture_output=True, text=True,
                          timeout=60, check=False, **more)
    return done.returncode, done.stdout, done.stderr


class TestCommand(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "t.yaml")

    def write(self, text, config=CONFIG):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(config + text)

    def run_tests(self, text, *words):
        self.write(text)
        code, out, err = run("test", self.path, "-o", "json", *words)
        answer = json.loads(out)
        self.assertEqual(answer["errors"], [], err)
        return code, answer["tests"]

    def one(self, text):
        code, tests = self.run_tests("tests:\n  - name: one\n" + text)
        self.assertEqual(len(tests), 1)
        self.assertEqual(code, 0 if tests[0]["passed"] else 1)
        return tests[0]

    def test_the_page_and_the_examples_pass(self):
        with open(os.path.join(ROOT, "docs/trigger-tests.md"), encoding="utf-8") as page:
            example = re.search(r"```yaml\n(# example\n.*?)```", page.read(), re.S).group(1)
        self.write(example, config="")
        code, out, err = run("test", self.path)
        self.assertEqual(code, 0, out + err)
        self.assertIn("5 passed, 0 failed", out)
        environment = dict(os.environ, QUICKSTART_HTTP_PORT="0", QUICKSTART_DIR=".")
        files = [os.path.join(ROOT, "examples", name) for name in (
            "quickstart/triggers_test.yaml", "replace-cron/schedules_test.yaml")]
        code, out, err = run("test", *files, env=environment)
        self.assertEqual(code, 0, out + err)
        self.assertIn("6 passed, 0 failed", out)

    def test_a_trigger_that_does_not_match_says_the_clause(self):
        test = self.one("    events: [ { event: { id: a, type: paid, data: { total: 5 } } } ]\n"
                        "    expect: { paid: { a: acked } }\n")
        self.assertFalse(test["passed"])
        failure = test["failures"][0]
        self.assertEqual((failure["trigger"], failure["event"]), ("paid", "a"))
        self.assertEqual((failure["line"], failure["column"]), (21, 23))
        self.assertIn("expected acked, was not delivered", failure["message"])
        self.assertIn("it is 5", failure["message"])

    def test_what_is_not_expected_fails(self):
        event = "    events: [ { event: { id: a, type: paid, data: { total: 50 } } } ]\n"
        self.assertIn("expected nothing, was acked: attempt 1 at 0s: ack",
                      self.one(event + "    expect: { paid: {} }\n")["failures"][0]["message"])
        wrong = {
            "not_delivered": "expected not_delivered",
            "dead": "expected dead, was acked",
            "{ attempts: 2 }": "expected 2 attempts",
            "{ at: [1s] }": "expected attempts at [1s]",
            "{ reason: refused }": "expected dead",
            "{ receives: { data: { total: 51 } } }": "data.total: expected 51, was 50",
            "{ receives: { data: { more: 1 } } }": "data.more: expected 1, is absent",
        }
        for outcome, message in wrong.items():
            test = self.one(event + "    expect: { paid: { a: %s } }\n" % outcome)
            self.assertFalse(test["passed"], outcome)
            self.assertIn(message, test["failures"][0]["message"], outcome)
        for outcome in ("acked", "delivered", "{ attempts: 1, at: [0s] }",
                        "{ receives: { type: paid, data: { total: 50.0 } } }"):
            self.assertTrue(self.one(event + "    expect: { paid: { a: %s } }\n" % outcome)
                            ["passed"], outcome)

    def test_functions_answer_by_attempt_and_by_event(self):
        test = self.one("""\
    events:
      - { event: { id: a, type: paid, data: { total: 11 } } }
      - { at: 1s, event: { id: b, type: paid, data: { total: 11 } } }
      - { at: 2s, event: { id: c, type: paid, data: { total: 11 } } }
      - { at: 2s, event: { id: d, type: paid, data: { total: 11 } } }
      - { at: 2s, event: { id: late, type: paid, data: { total: 11 } } }
    functions:
      f:
        a: [ retry, timeout, ack ]
        b: { reject: { message: no good } }
        c: [ { retry: { after: 1m, takes: 1s } }, { drop: { message: done } } ]
        late: [ { ack: { takes: 6s } }, ack ]
        "*": retry
    expect:
      paid:
        a: { outcome: acked, at: [0s, 2s, 13s] }
        b: { outcome: dead, reason: rejected, message: good, attempts: 1 }
        c: { outcome: dropped, at: [0s, 61s] }
        d: { outcome: dead, reason: exhausted, at: [0s, 2s, 8s] }
        late: { outcome: acked, at: [0s, 7s] }
""")
        self.assertEqual(test["failures"], [])
        by_event = {seen["event"]: seen for seen in test["deliveries"]}
        self.assertEqual([attempt["answer"] for attempt in by_event["late"]["attempts"]],
                         ["ack (too late)", "ack"])

    def test_what_does_not_end_is_pending(self):
        test = self.one("    for: 3s\n"
                        "    events: [ { event: { id: a, type: paid, data: { total: 50 } } } ]\n"
                        "    functions: { f: timeout }\n"
                        "    expect: { paid: { a: pending } }\n")
        self.assertEqual(test["failures"], [])
        self.assertEqual(test["for"], "3s")

    def test_a_rate_holds_under_the_virtual_clock(self):
        paid = "{ event: { id: %s, type: paid, data: { total: 50 } } }"
        self.write("""\
tests:
  - name: one
    events: [ %s ]
    expect:
      paid:
        a: { outcome: acked, at: [0s] }
        b: { outcome: acked, at: [500ms] }
        c: { outcome: acked, at: [1s] }
""" % ", ".join(paid % name for name in "abc"),
                   config=CONFIG.replace("timeout: 5s", "timeout: 5s\n      rate: 2/s"))
        code, out, err = run("test", self.path)
        self.assertEqual(code, 0, out + err)

    def test_a_transform_changes_what_is_delivered_alone(self):
        test = self.one("""\
    events:
      - event: { id: a, type: made, data: { n: 12345678901234567890, more: 1 } }
      - event: { id: b, type: made, data: { m: 1 } }
    expect:
      made:
        a: { outcome: acked, receives: { id: a, type: made.x } }
        b: { outcome: dead, reason: refused, attempts: 0, message: "no value for {data.n}" }
""")
        self.assertEqual(test["failures"], [])
        received = test["deliveries"][0]["received"] if \
            test["deliveries"][0]["event"] == "a" else test["deliveries"][1]["received"]
        self.assertEqual(received["data"], {"n": 12345678901234567890})

    def test_explain_shows_what_a_function_gets(self):
        config = os.path.join(self.dir.name, "tocsin.yaml")
        with open(config, "w", encoding="utf-8") as file:
            lines = CONFIG.split("config:\n")[1].splitlines()
            file.write("\n".join(line[2:] for line in lines) + "\n")
        words = ("explain", "-c", config, "--trigger", "made", "-o", "json", "--event", "-")
        event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "made", "data": {"n": 5}}
        code, out, err = run(*words, stdin=json.dumps(event))
        self.assertEqual(code, 0, err)
        receives = json.loads(out)[0]["receives"]
        self.assertEqual((receives["type"], receives["data"]), ("made.x", {"n": 5}))
        _, out, _ = run(*words, stdin=json.dumps(dict(event, data={})))
        answer = json.loads(out)[0]
        self.assertTrue(answer["matched"])
        self.assertIsNone(answer["receives"])
        self.assertIn("{data.n}", answer["refused"])

    def test_errors_have_their_place_and_come_all_at_once(self):
        self.write("""\
tests:
  - name: one
    evnts: []
    events: [ { event: { id: a } }, { event: nothing.json }, { from: inbx, event: { type: t } } ]
    functions: { f: rety, h: ack }
    expect:
      payd: {}
      paid: { z: acked, a: aked }
""")
        code, out, err = run("test", self.path)
        self.assertEqual(code, 1)
        for message in ("20:5: unknown key `evnts` in `tests[]`; did you mean `events`? [T0102]",
                        "21:24: no event: ", "21:46: ",
                        "there is no source `inbx` in the configuration; did you mean `inbox`?",
                        "an answer is one of ack, retry, reject, drop, timeout; did you mean "
                        "`retry`?",
                        "there is no function `h` in the configuration",
                        "there is no trigger `payd` in the configuration; did you mean `paid`?",
                        "no event of this test has the id `z`",
                        "did you mean `acked`?"):
            self.assertIn(message, err)
        self.assertTrue(all(line.startswith(self.path + ":") for line in err.splitlines()), err)
        self.assertIn("1 files with errors", out)
        # Of the configuration, in its own file; of a transform, at its place.
        self.write("tests: []\n", config="config: other.yaml\n")
        with open(os.path.join(self.dir.name, "other.yaml"), "w", encoding="utf-8") as file:
            file.write("functions: { f: {} }\ntriggers:\n  a:\n    function: f\n"
                       "    transform: { data: { n: \"{data..x}\", m: {data.x} } }\n")
        code, _, err = run("test", self.path)
        self.assertEqual(code, 1)
        self.assertIn("other.yaml:5:29: transform: `{data..x}` has an empty step", err)

    def test_a_file_without_tests_is_an_error(self):
        self.write("tests: []\n")
        code, _, err = run("test", self.path)
        self.assertEqual(code, 1)
        self.assertIn("there is nothing to test", err)
        self.assertEqual(run("test")[0], 2)
        self.assertEqual(run("test", os.path.join(self.dir.name, "none.yaml"))[0], 1)

    def test_junit_has_each_test_and_each_failure(self):
        self.write("""\
tests:
  - name: good <one>
    events: [ { event: { id: a, type: paid, data: { total: 50 } } } ]
    expect: { paid: { a: acked } }
  - name: bad "one"
    events: [ { event: { id: a, type: paid, data: { total: 50 } } } ]
    expect: { paid: { a: dead } }
""")
        report = os.path.join(self.dir.name, "report.xml")
        code, out, _ = run("test", self.path, "--junit", report)
        self.assertEqual(code, 1)
        self.assertIn("1 passed, 1 failed", out)
        self.assertIn("%s:24:23: paid a: expected dead, was acked" % self.path, out)
        root = xml.etree.ElementTree.parse(report).getroot()
        self.assertEqual((root.get("tests"), root.get("failures"), root.get("errors")),
                         ("2", "1", "0"))
        cases = root.findall("./testsuite/testcase")
        self.assertEqual([case.get("name") for case in cases], ["good <one>", 'bad "one"'])
        self.assertEqual([len(case.findall("failure")) for case in cases], [0, 1])
        self.assertIn("expected dead", cases[1].find("failure").get("message"))
        code, out, _ = run("test", self.path, "--only", "good")
        self.assertEqual(code, 0, out)
        self.assertEqual(run("test", self.path, "--only", "nothing")[0], 1)
        self.assertEqual(run("test", self.path, "--junit", "/nowhere/r.xml")[0], 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tocsin", required=True)
    arguments, rest = parser.parse_known_args()
    TOCSIN = os.path.abspath(arguments.tocsin)
    unittest.main(argv=[sys.argv[0], *rest])

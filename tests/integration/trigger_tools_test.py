"""`tocsin filter eval`, `tocsin explain` and the warnings of `tocsin validate`, as processes."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import unittest

TOCSIN = None

EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "/shop",
    "type": "order.paid",
    "subject": "eu/42",
    "hop": "5",
    "data": {"total": 12, "items": [{"sku": "a"}, {"sku": "b"}]},
}

CONFIG = """
sources:
  inbox: { file: { path: . } }
functions: { f: }
triggers:
  paid:
    function: f
    filters: [ { exact: { type: order.paid } } ]
    pattern: { data: { total: [ { numeric: [">", 10] } ] } }
  large:
    function: f
    pattern: { data: { total: [ { numeric: [">", 100] } ] } }
  files: { function: f, sources: [inbox] }
  region:
    function: f
    filters: [ { prefix: { type: order. } }, { exact: { region: eu } } ]
  expression:
    function: f
    filters: [ { cesql: "nothing = 2" } ]
"""


def run(*words, stdin=None):
    done = subprocess.run(
        [TOCSIN, *words], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def evaluate(*words, event=EVENT):
    code, out, err = run(
        "filter", "eval", *words, "--event", "-", "-o", "json", stdin=json.dumps(event)
    )
    return code, json.loads(out) if out else err


class FilterEvalTest(unittest.TestCase):
    def test_an_expression_has_a_value_and_errors(self):
        code, answer = evaluate("--cesql", "INT(hop) + 1")
        self.assertEqual((code, answer["value"], answer["matched"]), (0, 6, False))
        self.assertEqual(answer["errors"], [])
        _, answer = evaluate("--cesql", "hop < 10 AND subject LIKE 'eu/%'")
        self.assertEqual((answer["value"], answer["matched"]), (True, True))
        for expression, value, kind in [
            ("missing != 2", False, "missingAttribute"),
            ("1 / 0", 0, "math"),
            ("INT('x')", 0, "cast"),
            ("NOPE()", False, "missingFunction"),
            ("LEFT('abc', -1)", "abc", "functionEvaluation"),
        ]:
            _, answer = evaluate("--cesql", expression)
            self.assertEqual(answer["value"], value, expression)
            self.assertEqual([error["kind"] for error in answer["errors"]], [kind], expression)
            self.assertFalse(answer["matched"], expression)

    def test_what_is_no_condition_is_a_parse_error(self):
        for words in [
            ("--cesql", "this is wrong"),
            ("--pattern", "{}"),
            ("--filters", '{"exat": {}}'),
        ]:
            code, answer = evaluate(*words)
            self.assertEqual(code, 1, words)
            self.assertEqual([error["kind"] for error in answer["errors"]], ["parse"], words)
            self.assertFalse(answer["matched"])

    def test_patterns_and_filters_match(self):
        _, answer = evaluate("--pattern", '{"data": {"items": {"sku": ["b"]}}}')
        self.assertEqual(answer, {"value": True, "matched": True, "errors": []})
        _, answer = evaluate("--filters", '[{"exact": {"type": "x"}}]')
        self.assertEqual(answer, {"value": False, "matched": False, "errors": []})
        _, answer = evaluate("--filters", '[{"cesql": "missing = 1"}]')
        self.assertEqual([error["kind"] for error in answer["errors"]], ["missingAttribute"])

    def test_wrong_usage_and_wrong_events_are_told_apart(self):
        self.assertEqual(run("filter", "eval", "--event", "-", stdin="{}")[0], 2)
        self.assertEqual(
            run("filter", "eval", "--cesql", "TRUE", "--pattern", "{}", "--event", "-")[0], 2
        )
        code, _, err = run("filter", "eval", "--cesql", "TRUE", "--event", "-", stdin="{}")
        self.assertEqual(code, 1)
        self.assertIn("standard input", err)
        code, out, _ = run(
            "filter", "eval", "--cesql", "missing = 1", "--event", "-", stdin=json.dumps(EVENT)
        )
        self.assertEqual(code, 0)
        self.assertIn("missingAttribute", out)


class ExplainTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.config = os.path.join(self.dir.name, "tocsin.yaml")
        self.event = os.path.join(self.dir.name, "event.json")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(CONFIG)
        with open(self.event, "w", encoding="utf-8") as file:
            json.dump(EVENT, file)

    def test_every_trigger_has_a_verdict(self):
        code, out, _ = run("explain", "-c", self.config, "--event", self.event, "-o", "json")
        self.assertEqual(code, 0)
        verdicts = {verdict["trigger"]: verdict for verdict in json.loads(out)}
        self.assertEqual(list(verdicts), ["paid", "large", "files", "region", "expression"])
        for verdict in verdicts.values():
            self.assertLessEqual(
                {"trigger", "matched", "clause", "expected", "actual"}, set(verdict)
            )
        paid = verdicts["paid"]
        self.assertTrue(paid["matched"])
        self.assertEqual((paid["clause"], paid["expected"], paid["actual"]), (None, None, None))
        large = verdicts["large"]
        self.assertFalse(large["matched"])
        self.assertEqual(large["clause"], "pattern.data.total")
        self.assertEqual(large["expected"], [{"numeric": [">", 100]}])
        self.assertEqual(large["actual"], 12)
        self.assertEqual(verdicts["files"]["clause"], "sources")
        self.assertEqual(verdicts["files"]["expected"], ["inbox"])
        region = verdicts["region"]
        self.assertEqual(region["clause"], "filters[1].exact.region")
        self.assertEqual((region["expected"], region["actual"]), ("eu", None))
        expression = verdicts["expression"]
        self.assertEqual(expression["clause"], "filters[0].cesql")
        self.assertEqual(expression["errors"][0]["kind"], "missingAttribute")

    def test_the_source_and_the_trigger_can_be_named(self):
        words = ["explain", "-c", self.config, "--event", self.event, "-o", "json"]
        _, out, _ = run(*words, "--source", "inbox", "--trigger", "files")
        self.assertEqual([verdict["matched"] for verdict in json.loads(out)], [True])
        self.assertEqual(run(*words, "--source", "nope")[0], 1)
        self.assertEqual(run(*words, "--trigger", "nope")[0], 1)

    def test_people_get_a_table(self):
        code, out, _ = run("explain", "-c", self.config, "--event", self.event)
        self.assertEqual(code, 0)
        self.assertIn('it is 12', out)


class ValidateTest(unittest.TestCase):
    def test_likely_mistakes_are_warnings_with_their_place(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "t.yaml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(
                    "functions: { f: }\ntriggers:\n  a:\n    function: f\n"
                    "    filters: [ { not: { exact: { region: eu } } } ]\n"
                )
            code, out, err = run("validate", path)
            self.assertEqual(code, 0)
            self.assertIn("ok", out)
            self.assertIn(f"{path}:3:3: warning: trigger `a`: `not` holds", err)
            code, out, _ = run("validate", path, "-o", "json")
            self.assertEqual(code, 0)
            self.assertEqual(json.loads(out)["warnings"][0]["kind"], "always-true")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tocsin", required=True)
    arguments, rest = parser.parse_known_args()
    TOCSIN = os.path.abspath(arguments.tocsin)
    unittest.main(argv=[sys.argv[0], *rest])

#!/usr/bin/python3
"""Rows of bench.json: ratios, what is joined, what is refused."""

import json
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import bench_rows  # noqa: E402


class RowsTest(unittest.TestCase):
    def test_a_ratio_is_ours_over_the_peers_of_neighbours(self):
        row = bench_rows.row_of("T1", "c", "p", "events/s", [100, 300, 200], [50, 100, 100])
        self.assertEqual((row["ours"], row["peer"], row["ratio"]), (200, 100, 2))
        self.assertEqual(row["ratio_range"], [2, 3])

    def test_where_less_is_better_the_ratio_is_turned_round(self):
        row = bench_rows.row_of("T3", "c", "p", "us", [200], [100], less_is_better=True)
        self.assertEqual(row["ratio"], 0.5)

    def test_rows_of_all_benches_are_joined_in_the_order_of_targets(self):
        with tempfile.TemporaryDirectory() as where:
            bench_rows.write(where, "a", [bench_rows.absent_row("T12", "c", "p", "s", "no p")])
            bench_rows.write(where, "b", [bench_rows.row_of("T2", "c", "p", "s", [1], [1])])
            path = os.path.join(where, "out")
            bench_rows.join(where, path)
            with open(path, encoding="utf-8") as joined:
                rows = json.load(joined)
        self.assertEqual([row["row"] for row in rows], ["T2", "T12"])
        self.assertEqual((rows[1]["ours"], rows[1]["absent"]), (None, "no p"))
        self.assertIn("absent: no p", bench_rows.table(rows))

    def test_a_row_without_its_unit_is_refused(self):
        with tempfile.TemporaryDirectory() as where:
            row = bench_rows.row_of("T2", "c", "p", "s", [1], [1])
            del row["unit"]
            bench_rows.write(where, "a", [row])
            with self.assertRaisesRegex(ValueError, "a row without unit"):
                bench_rows.join(where, os.path.join(where, "out"))


if __name__ == "__main__":
    unittest.main()

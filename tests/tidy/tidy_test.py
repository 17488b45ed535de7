#!/usr/bin/python3
"""Each rule of tidy.py must report a bad tree and be silent on a good one."""

import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tidy  # noqa: E402

HEADER = "#pragma once\n"


class TidyTest(unittest.TestCase):

    def findings(self, rule, files):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                whole = os.path.join(root, path)
                os.makedirs(os.path.dirname(whole), exist_ok=True)
                with open(whole, "w", encoding="utf-8") as file:
                    file.write(text)
            tree = tidy.Tree(root)
            tidy.RULES[rule](tree)
            return tree.findings

    def assert_reports(self, rule, files, *parts):
        found = self.findings(rule, files)
        self.assertEqual(len(found), 1, found)
        self.assertIn(f"[{rule}]", found[0])
        for part in parts:
            self.assertIn(part, found[0])

    def assert_silent(self, rule, files):
        self.assertEqual(self.findings(rule, files), [])

    def test_layers_reports_an_edge_up(self):
        self.assert_reports("layers", {
            "broker/journal/a.h": '#include "dispatch/b.h"\n', "dispatch/b.h": HEADER},
            "broker/journal/a.h:1", "must not include from dispatch")

    def test_layers_tells_a_kind_of_connector_from_the_port(self):
        self.assert_reports("layers", {
            "broker/partition/a.cc": '#include "connectors/file/b.h"\n',
            "connectors/file/b.h": HEADER}, "connectors/file")

    def test_layers_allows_the_edges_that_are_drawn(self):
        self.assert_silent("layers", {
            "broker/config/a.cc": '#include "connectors/file/b.h"\n#include "broker/base/c.h"\n',
            "connectors/file/b.h": HEADER, "broker/base/c.h": HEADER,
            "tests/unit/config/d.cc": '#include "broker/config/e.h"\n#include "gtest/gtest.h"\n',
            "broker/config/e.h": HEADER})

    def test_layers_reports_an_include_that_is_not_from_the_root(self):
        self.assert_reports("layers", {
            "broker/base/a.cc": '#include "b.h"\n', "broker/base/b.h": HEADER}, "not a path from")

    def test_layers_reports_grpc_where_it_may_not_be(self):
        self.assert_reports("layers", {"broker/partition/a.cc": "#include <grpcpp/grpcpp.h>\n"},
                            "may be seen only by")
        self.assert_silent("layers", {"dispatch/grpc/a.cc": "#include <grpcpp/grpcpp.h>\n"})

    def test_layers_reports_a_folder_without_a_line(self):
        self.assert_reports("layers", {"attic/a.cc": "int x;\n"}, "no line in")

    def test_banned_reports_and_names_the_replacement(self):
        self.assert_reports("banned", {
            "broker/base/a.cc": "int x;\nauto t = std::chrono::system_clock::now();\n"},
            "a.cc:2", "Clock::Wall()")

    def test_banned_ignores_comments_strings_and_listed_files(self):
        self.assert_silent("banned", {
            "broker/base/a.cc": '// system_clock\n/* std::thread */ auto s = "rand()";\n',
            "broker/base/b.cc": "auto s = R\"(\nthrow\n)\"; char c = '\"'; int n = 1'000'000;\n",
            "broker/base/system_clock.cc": "std::chrono::system_clock::now();\n"})

    def test_banned_has_an_entry_for_each_law_of_determinism(self):
        for word in ("steady_clock", "sleep_for(x)", "std::random_device r", "std::thread t",
                     "std::ofstream f", "std::mutex m", "throw 1", "assert(x)", "GTEST_SKIP()"):
            self.assert_reports("banned", {"broker/base/a.cc": word + ";\n"})

    def test_words_reports_the_foreign_word_inside_an_identifier(self):
        self.assert_reports("words", {"dispatch/a.h": "int RunNextJob();\n"}, "say delivery")
        self.assert_reports("words", {"dispatch/a.h": "int consumers_max;\n"}, "say worker")
        self.assert_silent("words", {"dispatch/a.h": "int jobless; // the job\n#include <msg.h>\n"})

    def test_columns_reports_a_long_line(self):
        self.assert_reports("columns", {"broker/base/a.cc": "x" * 101 + "\n"}, "101 columns")
        self.assert_silent("columns", {"broker/base/a.cc": "ä" * 100 + "\n"})

    def test_lines_reports_a_long_file(self):
        self.assert_reports("lines", {"sdk/a.py": "x = 1\n" * 601}, "601 lines")
        self.assert_silent("lines", {"sdk/a.py": "x = 1\n" * 600})

    def test_headers_reports_each_sin(self):
        self.assert_reports("headers", {"broker/base/a.h": "int x;\n"}, "#pragma once")
        self.assert_reports("headers", {"broker/base/a.h": HEADER + "using namespace absl;\n"},
                            "using namespace")
        dear = HEADER + "#include <nlohmann/json.hpp>\n"
        self.assert_reports("headers", {"broker/base/a.h": dear}, "nlohmann")

    def test_unfinished_reports_the_marks(self):
        for mark in ("TO" "DO", "FIX" "ME", "XX" "X"):
            self.assert_reports("unfinished", {"docs/a.md": f"# A\n\n{mark} later\n"}, "a.md:3")
        self.assert_silent("unfinished", {"deploy/a.sh": "mktemp /tmp/aXXXXXX\n"})

    def test_machine_paths_reports_a_home(self):
        self.assert_reports("machine-paths", {"docs/a.md": "see /ho" "me/me/x\n"}, "a.md:1")
        self.assert_silent("machine-paths", {"docs/a.md": "see /srv/inbox and docs/home/x\n"})

    def test_shell_reports_what_the_shell_cannot_read(self):
        self.assert_reports("shell", {"deploy/a": "#!/bin/bash\nif true; then\n  echo 'x'\n"},
                            "deploy/a:", "syntax error")
        self.assert_silent("shell", {"deploy/a": "#!/bin/bash\nif true; then echo; fi\n"})

    def test_python_reports_the_wrong_interpreter(self):
        self.assert_reports("python", {"deploy/a.py": "#!/usr/bin/env python3\n"}, "/usr/bin/")

    def test_tests_in_build_reports_a_forgotten_test(self):
        files = {"tests/unit/base/a_test.cc": "", "tests/unit/base/b_test.py": "",
                 "tests/unit/base/CMakeLists.txt": "tocsin_test(x SOURCES aa_test.cc b_test.py)\n"}
        self.assert_reports("tests-in-build", files, "a_test.cc")

    def test_readmes_reports_a_library_without_one(self):
        library = {"broker/base/CMakeLists.txt": "tocsin_library(tocsin_base SOURCES a.cc)\n"}
        self.assert_reports("readmes", library, "broker/base")
        self.assert_silent("readmes", {**library, "broker/base/README.md": "# base\n"})

    def test_one_h1_reports_two_and_none(self):
        self.assert_reports("one-h1", {"docs/a.md": "# A\n\n# B\n"}, "2 headings")
        self.assert_reports("one-h1", {"docs/a.md": "text\n"}, "0 headings")
        self.assert_silent("one-h1", {"docs/a.md": "# A\n\n```sh\n# a comment\n```\n"})

    def test_doc_paths_reports_what_does_not_exist(self):
        self.assert_reports("doc-paths", {"docs/a.md": "# A\n\nsee `docs/b.md`\n"}, "a.md:3")
        self.assert_reports("doc-paths", {"docs/a.md": "# A\n\nsee [b](b.md#x)\n"}, "leads nowhere")
        self.assert_reports("doc-paths", {"docs/a.md": "# A\n\n`docs/{a,c}.md`\n"}, "docs/c.md")
        self.assert_reports("doc-paths", {"docs/a.md": "# A\n\nsee `clock.h:12`\n"}, "line numbers")
        self.assert_silent("doc-paths", {
            "docs/a.md": "# A\n\n`docs/`, `docs/*.md`, `text/plain`, [a](a.md), `a | b/c`\n"})

    def test_error_pages_reports_both_directions_and_the_index(self):
        code = {"broker/config/a.cc": 'auto e = "T0007";\n'}
        page = {"docs/errors/T0007.md": "# T0007\n"}
        index = {"docs/errors/README.md": "# Errors\n\nT0007\n"}
        self.assert_reports("error-pages", code, "needs docs/errors/T0007.md")
        self.assert_reports("error-pages", {**page, **index}, "no code says")
        self.assert_reports("error-pages", {**code, **page}, "not in the list")
        self.assert_silent("error-pages", {**code, **page, **index})

    def with_environment(self, **values):
        before = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(before)))
        os.environ.update(values)

    def test_format_reports_a_file_that_is_not_formatted(self):
        style = {".clang-format": "BasedOnStyle: Google\nColumnLimit: 100\n"}
        with tempfile.TemporaryDirectory() as tools:
            fake = os.path.join(tools, "clang-format")
            with open(fake, "w", encoding="utf-8") as file:
                file.write('#!/bin/sh\necho "broker/base/a.cc:1:6: error: x" >&2\nexit 1\n')
            os.chmod(fake, 0o755)
            self.with_environment(TOCSIN_CLANG_FORMAT=fake)
            self.assert_reports("format", {**style, "broker/base/a.cc": "int  x;\n"}, "make fmt")

    def test_format_is_loud_under_ci_when_the_tool_is_missing(self):
        self.with_environment(TOCSIN_CLANG_FORMAT="/nowhere/clang-format", CI="true")
        self.assert_reports("format", {"broker/base/a.cc": "int x;\n"}, "not installed")

    def test_data_of_tests_is_not_looked_at(self):
        self.assert_silent("unfinished", {"tests/fuzz/corpus/a.yaml": "# TO" "DO\n"})

    def test_the_exit_status_says_whether_something_was_found(self):
        with tempfile.TemporaryDirectory() as root:
            with open(os.path.join(root, "a.md"), "w", encoding="utf-8") as file:
                file.write("no heading\n")
            run = subprocess.run([sys.executable, tidy.__file__, "--root", root, "--only",
                                  "one-h1"], capture_output=True, text=True, check=False)
            self.assertEqual(run.returncode, 1)
            self.assertIn("1 findings", run.stdout)

    def test_every_rule_has_a_test_here(self):
        names = " ".join(name for name in dir(self) if name.startswith("test_"))
        for rule in tidy.RULES:
            self.assertIn("test_" + rule.replace("-", "_"), names)


if __name__ == "__main__":
    unittest.main()

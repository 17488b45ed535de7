#!/usr/bin/python3
"""Checks the house rules that a machine can check; prints `file:line: [rule] what to do`.

Rules are functions over a Tree; RULES lists them. The lists they use (layers.txt, banned.txt,
words.txt) lie beside this file. Exit status 0: clean, 1: findings, 2: wrong usage.
"""

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
COLUMNS_MAX = 100
LINES_MAX = 600
CODE = (".h", ".cc")
LINED = CODE + (".py", ".pyi", ".proto", ".sh", ".cmake", ".ts", ".go")
TEXT = LINED + (".md", ".txt", ".yaml", ".yml", ".json", ".toml")
TEXT_NAMES = {"Makefile", "CMakeLists.txt", "run", "install-deps", ".clang-format"}


class Tree:
    """The files of one checkout, read once; `findings` collects what the rules report."""

    def __init__(self, root, lists=HERE):
        self.root = os.path.abspath(root)
        self.lists = lists
        self.files = self._list_files()
        self.file_set = set(self.files)
        self.folders = set()
        for path in self.files:
            while "/" in path:
                path = path.rsplit("/", 1)[0]
                self.folders.add(path)
        self._texts = {}
        self._codes = {}
        self.findings = []

    def _list_files(self):
        if os.path.exists(os.path.join(self.root, ".git")):
            out = subprocess.run(["git", "-c", "safe.directory=*", "-C", self.root, "ls-files",
                                  "-co", "--exclude-standard", "-z"],
                                 check=True, capture_output=True)
            found = out.stdout.decode().split("\0")
            return sorted(f for f in set(found) if f and os.path.isfile(os.path.join(self.root, f)))
        found = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = [f for f in folders if not f.startswith("build") and f != "__pycache__"]
            found += [os.path.relpath(os.path.join(folder, n), self.root) for n in names]
        return sorted(found)

    def text(self, path):
        if path not in self._texts:
            with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as file:
                self._texts[path] = file.read()
        return self._texts[path]

    def code(self, path):
        """The C++ text with comments and the insides of strings blanked; lines stay lines."""
        if path not in self._codes:
            self._codes[path] = strip_cpp(self.text(path))
        return self._codes[path]

    def having(self, *endings):
        return [f for f in self.files if f.endswith(endings) and not is_data(f)]

    def text_files(self):
        return [f for f in self.files
                if (f.endswith(TEXT) or os.path.basename(f) in TEXT_NAMES) and not is_data(f)]

    def list_of(self, name):
        with open(os.path.join(self.lists, name), encoding="utf-8") as file:
            return [line.rstrip("\n") for line in file
                    if line.strip() and not line.startswith("#")]

    def report(self, path, line, rule, message):
        where = f"{path}:{line}" if line else path
        self.findings.append(f"{where}: [{rule}] {message}")


def is_data(path):
    """Inputs of tests and generated files are not ours to shape."""
    parts = path.split("/")
    if parts[0] == "tests" and any(p in ("golden", "corpus", "data", "vectors") for p in parts[1:]):
        return True
    return path.endswith(("_pb2.py", "_pb2_grpc.py", "_pb2.pyi", ".pb.h", ".pb.cc"))


CPP_PIECES = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<d>[^()\\\s]{0,16})\(.*?\)(?P=d)"|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'", re.S)


def strip_cpp(text):
    def blank(match):
        piece = match.group(0)
        return ('""' if piece[0] in '"R' else " ") + "\n" * piece.count("\n")
    return CPP_PIECES.sub(blank, text)


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def entries(tree, name):
    """The fields of a `pattern|instead|globs` list; a pattern may itself contain `|`."""
    for line in tree.list_of(name):
        pattern, instead, globs = line.rsplit("|", 2)
        yield pattern, instead, globs.split()


def allowed(path, globs):
    return any(fnmatch.fnmatch(path, glob) for glob in globs)


# ---- include edges

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.M)


def folder_of(path, folders):
    best = None
    for folder in folders:
        if (path == folder or path.startswith(folder + "/")) and len(folder) > len(best or ""):
            best = folder
    return best


def is_library(target, quoted, fences, tops):
    """Libraries come in angle brackets, and in quotes where that is their own custom."""
    if not quoted or target.startswith(tuple(fences)):
        return True
    return "/" in target and target.split("/")[0] not in tops and not target.endswith(".pb.h")


def rule_layers(tree):
    edges, fences = {}, {}
    tops = {f.split("/", 1)[0] for f in tree.files if "/" in f}
    for line in tree.list_of("layers.txt"):
        left, right = line.split(":", 1)
        if left.startswith("<"):
            fences[left[1:]] = right.split()
        else:
            edges[left] = right.split()
    for path in tree.having(*CODE):
        home = folder_of(path, edges)
        if home is None:
            tree.report(path, 0, "layers", "this folder has no line in tests/tidy/layers.txt")
            continue
        text = tree.text(path)
        for match in INCLUDE.finditer(text):
            line = line_of(text, match.start())
            target = match.group(1) or match.group(2)
            if is_library(target, match.group(1), fences, tops):
                for prefix, homes in fences.items():
                    if "*" in homes or folder_of(path, homes):
                        continue
                    if target.startswith(prefix):
                        tree.report(path, line, "layers",
                                    f"{target} may be seen only by: {' '.join(homes)}")
                continue
            if target.endswith(".pb.h"):
                there = "proto"
            elif target in tree.file_set:
                there = folder_of(target, edges)
            else:
                tree.report(path, line, "layers",
                            f'"{target}" is not a path from the root of the repository')
                continue
            if there != home and edges[home] != ["*"] and there not in edges[home]:
                tree.report(path, line, "layers",
                            f"{home} must not include from {there}; see tests/tidy/layers.txt")


# ---- code

def rule_banned(tree):
    bans = [(re.compile(p), instead, globs) for p, instead, globs in entries(tree, "banned.txt")]
    for path in tree.having(*CODE):
        code = tree.code(path)
        for pattern, instead, globs in bans:
            if allowed(path, globs):
                continue
            for match in pattern.finditer(code):
                tree.report(path, line_of(code, match.start()), "banned",
                            f"{match.group(0).strip()}: use {instead}")


IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def rule_words(tree):
    words = {}
    for word, instead, globs in entries(tree, "words.txt"):
        words[word] = words[word + "s"] = (instead, globs)
    for path in tree.having(*CODE):
        for number, line in enumerate(tree.code(path).split("\n"), 1):
            if line.lstrip().startswith("#"):
                continue
            for name in IDENTIFIER.findall(line):
                for word in WORD.findall(name):
                    instead, globs = words.get(word.lower(), (None, ()))
                    if instead and not allowed(path, globs):
                        tree.report(path, number, "words", f"{name}: say {instead}")


def rule_columns(tree):
    names = [f for f in tree.files if os.path.basename(f) in TEXT_NAMES]
    for path in tree.having(*LINED) + names:
        for number, line in enumerate(tree.text(path).split("\n"), 1):
            if len(line) > COLUMNS_MAX:
                tree.report(path, number, "columns", f"{len(line)} columns; at most {COLUMNS_MAX}")


def rule_lines(tree):
    for path in tree.having(*LINED):
        count = tree.text(path).count("\n")
        if count > LINES_MAX:
            tree.report(path, 0, "lines", f"{count} lines; split it, at most {LINES_MAX}")


def rule_headers(tree):
    for path in tree.having(".h"):
        if "#pragma once" not in tree.code(path):
            tree.report(path, 0, "headers", "starts with #pragma once")
        if re.search(r"^\s*using\s+namespace\b", tree.code(path), re.M):
            tree.report(path, 0, "headers", "no using namespace in a header")
        if "<nlohmann/" in tree.text(path) and not path.startswith("tests/"):
            tree.report(path, 0, "headers", "nlohmann stays in .cc files; it is dear to compile")


UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
OWN_MACHINE = re.compile(r"(?<![\w.])/(home|work|root|Users)/[\w.]")


def rule_unfinished(tree):
    for path in tree.text_files():
        for number, line in enumerate(tree.text(path).split("\n"), 1):
            match = UNFINISHED.search(line)
            if match:
                tree.report(path, number, "unfinished", f"{match.group(0)}: finish it or drop it")


def rule_machine_paths(tree):
    for path in tree.text_files():
        for number, line in enumerate(tree.text(path).split("\n"), 1):
            match = OWN_MACHINE.search(line)
            if match:
                tree.report(path, number, "machine-paths",
                            f"{match.group(0)}… is a path of somebody's machine")


def rule_python(tree):
    for path in tree.files:
        if path.endswith(".py") or os.path.basename(path) in TEXT_NAMES:
            first = tree.text(path).split("\n", 1)[0]
            if first.startswith("#!") and "env python" in first:
                tree.report(path, 1, "python", "say /usr/bin/python3: it is the one with grpc")


def rule_shell(tree):
    """What a shell script says wrong it says only when it gets there."""
    for path in tree.files:
        first = tree.text(path)[:40].split("\n", 1)[0]
        shell = re.match(r"#!\s*/bin/(bash|sh)\b", first)
        if not shell:
            continue
        out = subprocess.run([shell[1], "-n", os.path.join(tree.root, path)],
                             capture_output=True, text=True, check=False)
        if out.returncode != 0:
            line = re.search(r"(?:line )?(\d+): ", out.stderr)
            tree.report(path, int(line[1]) if line else 1, "shell",
                        (out.stderr.strip().splitlines() or ["a syntax error"])[0])


# ---- build and docs

def rule_tests_in_build(tree):
    builds = {f: tree.text(f) for f in tree.files if os.path.basename(f) == "CMakeLists.txt"}
    for path in tree.having("_test.cc", "_test.py", "_fuzz.cc", "_bench.cc"):
        name = os.path.basename(path)
        pattern = re.compile(r"(?<![\w])" + re.escape(name) + r"(?!\w)")
        if not any(pattern.search(text) for text in builds.values()):
            tree.report(path, 0, "tests-in-build", "is in no CMakeLists.txt: it never runs")


def rule_readmes(tree):
    for path in tree.files:
        if os.path.basename(path) != "CMakeLists.txt" or path.startswith("tests/"):
            continue
        folder = os.path.dirname(path)
        if "tocsin_library(" in tree.text(path) and folder + "/README.md" not in tree.file_set:
            tree.report(folder, 0, "readmes", "a library's folder has a README.md")


FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.S | re.M)


def prose(text):
    """Markdown with its fenced code blanked; lines stay lines."""
    return FENCE.sub(lambda m: "\n" * m.group(0).count("\n"), text)


def rule_one_h1(tree):
    for path in tree.having(".md"):
        count = len(re.findall(r"^# ", prose(tree.text(path)), re.M))
        if count != 1:
            tree.report(path, 0, "one-h1", f"{count} headings of the first level; exactly one")


TICKED = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
PATH_LIKE = re.compile(r"^\.?[\w-][\w.{},*-]*(/[\w.{},*-]+)*/?$")
CITED_LINE = re.compile(r"\.(h|cc|py|proto|txt|cmake):\d+")


def expand(path):
    match = re.search(r"\{([^{}]*)\}", path)
    if not match:
        return [path]
    return [p for choice in match.group(1).split(",")
            for p in expand(path[:match.start()] + choice + path[match.end():])]


def rule_doc_paths(tree):
    tops = {f.split("/", 1)[0] for f in tree.files if "/" in f}
    everything = tree.file_set | tree.folders

    def exists(path):
        path = path.rstrip("/")
        return path in everything or ("*" in path and bool(fnmatch.filter(everything, path)))

    for path in tree.having(".md"):
        text = prose(tree.text(path))
        for match in TICKED.finditer(text):
            cited = match.group(1).split("::")[0]
            if CITED_LINE.search(match.group(1)):
                tree.report(path, line_of(text, match.start()), "doc-paths",
                            f"{match.group(1)}: cite the symbol; line numbers move")
            if "/" not in cited or not PATH_LIKE.match(cited) or cited.split("/")[0] not in tops:
                continue
            for one in expand(cited):
                if not exists(one):
                    tree.report(path, line_of(text, match.start()), "doc-paths",
                                f"`{one}` does not exist")
        for match in LINK.finditer(text):
            target = match.group(1)
            if "://" in target or target.startswith("mailto:"):
                continue
            joined = os.path.normpath(os.path.join(os.path.dirname(path), target))
            if not exists(joined):
                tree.report(path, line_of(text, match.start()), "doc-paths",
                            f"the link to {target} leads nowhere")


ERROR_CODE = re.compile(r"\bT\d{4}\b")


def rule_error_pages(tree):
    said = {}
    for path in tree.having(*CODE, ".py"):
        if not path.startswith("tests/"):
            for match in ERROR_CODE.finditer(tree.text(path)):
                said.setdefault(match.group(0), (path, line_of(tree.text(path), match.start())))
    pages = {os.path.basename(f)[:-3] for f in tree.files
             if re.fullmatch(r"docs/errors/T\d{4}\.md", f)}
    index = tree.text("docs/errors/README.md") if "docs/errors/README.md" in tree.file_set else ""
    for code, (path, line) in sorted(said.items()):
        if code not in pages:
            tree.report(path, line, "error-pages", f"{code} needs docs/errors/{code}.md")
    for code in sorted(pages):
        if code not in said:
            tree.report(f"docs/errors/{code}.md", 0, "error-pages", "no code says this error")
        if code not in index:
            tree.report(f"docs/errors/{code}.md", 0, "error-pages",
                        "is not in the list of docs/errors/README.md")


def rule_format(tree):
    tool = os.environ.get("TOCSIN_CLANG_FORMAT") or shutil.which("clang-format-14")
    if not tool or not os.path.exists(tool):
        message = "clang-format-14 is not installed: run deploy/install-deps --tests"
        if os.environ.get("CI"):
            tree.report("tests/tidy/tidy.py", 0, "format", message)
        else:
            print(f"tidy: the format was not checked; {message}", file=sys.stderr)
        return
    files = tree.having(*CODE)
    for first in range(0, len(files), 50):
        out = subprocess.run([tool, "--dry-run", "-Werror", *files[first:first + 50]],
                             cwd=tree.root, capture_output=True, text=True, check=False)
        seen = set()
        for match in re.finditer(r"^(.+?):(\d+):\d+: error:", out.stderr, re.M):
            if match.group(1) not in seen:
                seen.add(match.group(1))
                tree.report(match.group(1), match.group(2), "format", "run make fmt")
        if out.returncode != 0 and not seen:
            tree.report("tests/tidy/tidy.py", 0, "format", f"{tool} failed: {out.stderr[:200]}")


RULES = {
    "layers": rule_layers, "banned": rule_banned, "words": rule_words, "columns": rule_columns,
    "lines": rule_lines, "headers": rule_headers, "unfinished": rule_unfinished,
    "machine-paths": rule_machine_paths, "python": rule_python, "shell": rule_shell,
    "tests-in-build": rule_tests_in_build, "readmes": rule_readmes, "one-h1": rule_one_h1,
    "doc-paths": rule_doc_paths, "error-pages": rule_error_pages, "format": rule_format,
}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(HERE)))
    parser.add_argument("--only", action="append", choices=sorted(RULES), help="run this rule")
    parser.add_argument("--skip", action="append", choices=sorted(RULES), default=[])
    options = parser.parse_args(arguments)
    tree = Tree(options.root)
    names = [n for n in (options.only or RULES) if n not in options.skip]
    for name in names:
        RULES[name](tree)
    for finding in tree.findings:
        print(finding)
    print(f"tidy: {len(tree.files)} files, {len(names)} rules, {len(tree.findings)} findings")
    return 1 if tree.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A source of kind file and a deep tree whose files appear while Tocsin is down, are moved,
rewritten in their place and replaced while it lists, and while it is killed.

Each written version of a file has a time of change of its own, set before it is closed, so an event
tells which version it saw; one that was not complete has a time that is no version's.
TOCSIN_FILES asks for more files (`make file-tree`).
"""

import json
import os
import random
import threading
import time

from fault_rig import eventually, fixture_make, one_trigger  # noqa: F401
from queue_rig import source_status, stored_events

FILES = int(os.environ.get("TOCSIN_FILES", "2500"))
SEED = int(os.environ.get("TOCSIN_SEED", str(random.randrange(1 << 30))))
DEPTH = 12
BASE_NS = 1_500_000_000 * 10**9


class Tree:
    """Files, and what became of them."""

    def __init__(self, root):
        self.root = str(root)
        self.random = random.Random(SEED)
        self.versions = {}  # time of change in nanoseconds: size
        self.paths = []     # of files that are there, beneath the root
        self.last = {}      # path: the version that is there
        self.made = 0       # files, each of which is `created` once
        self.directories = [""]
        while len(self.directories) < max(20, FILES // 20):
            parent = self.random.choice(self.directories[-50:])
            if parent.count("/") >= DEPTH:
                parent = ""
            name = os.path.join(parent, "d%d" % len(self.directories))
            os.mkdir(os.path.join(self.root, name))
            self.directories.append(name)

    def full(self, path):
        return os.path.join(self.root, path)

    def _write(self, full, truncate=False):
        version = BASE_NS + len(self.versions)
        size = 2 + self.random.randrange(200)
        self.versions[version] = size
        flags = os.O_WRONLY | (os.O_TRUNC if truncate else os.O_CREAT | os.O_EXCL)
        file = os.open(full, flags, 0o600)
        os.write(file, b"x" * (size // 2))
        os.write(file, b"y" * (size - size // 2))
        os.utime(file, ns=(version, version))
        os.close(file)
        return version

    def create(self):
        path = os.path.join(self.random.choice(self.directories), "f%d" % self.made)
        self.last[path] = self._write(self.full(path))
        self.made += 1
        self.paths.append(path)

    def _take(self):
        at = self.random.randrange(len(self.paths))
        return at, self.paths[at]

    def move(self):
        at, path = self._take()
        to = os.path.join(self.random.choice(self.directories), "m%d" % len(self.versions))
        if to in self.last:
            return
        os.rename(self.full(path), self.full(to))
        self.paths[at] = to
        self.last[to] = self.last.pop(path)

    def rewrite(self):
        _, path = self._take()
        self.last[path] = self._write(self.full(path), truncate=True)

    def replace(self):
        """By renaming another file onto it: the old one is gone, the new one is created."""
        _, path = self._take()
        temporary = self.root + ".new"
        version = self._write(temporary)
        os.rename(temporary, self.full(path))
        self.last[path] = version
        self.made += 1

    def move_directory(self):
        name = self.random.choice(self.directories[1:])
        to = os.path.join(os.path.dirname(name), "r%d" % len(self.versions))
        if os.path.exists(self.full(to)):
            return
        os.rename(self.full(name), self.full(to))

        def moved(path):
            return to + path[len(name):] if path == name or path.startswith(name + "/") else path
        self.directories = [moved(one) for one in self.directories]
        self.paths = [moved(one) for one in self.paths]
        self.last = {moved(path): version for path, version in self.last.items()}

    def change(self, count):
        for number in range(count):
            self.random.choice([self.create, self.move, self.rewrite, self.replace])()
            if number % 50 == 0:
                self.move_directory()


def nanoseconds(text):
    """Of an RFC 3339 time in UTC."""
    whole, _, rest = text.rstrip("Z").partition(".")
    import calendar
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * 10**9 + int((rest or "0").ljust(9, "0"))


def check(tree, broker):
    """What is wrong with the events; empty: nothing."""
    told, created = {}, 0
    for event in stored_events(broker):
        data = json.loads(event.text_data)
        version = nanoseconds(data["modified"])
        if version not in tree.versions or tree.versions[version] != data["size"]:
            return "not complete: %s" % event.text_data
        shown = (event.type, event.id, data["path"])
        if version in told:
            return "twice: %s and %s" % (told[version], shown)
        told[version] = shown
        created += event.type.endswith("created")
    missing = [path for path, version in tree.last.items() if version not in told]
    if missing:
        return "%d of %d are missing: %s" % (len(missing), len(tree.last), missing[:3])
    return "" if created <= tree.made else "%d of %d files created" % (created, tree.made)


def test_f42_every_file_of_a_changing_tree_is_one_event_across_kills(make, tmp_path):
    print("TOCSIN_SEED=%d" % SEED)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    broker = make(rest="sources:\n  in:\n    backoff_max: 300ms\n    file: { path: %s, recursive: "
                  "true, settle: 20ms, rescan: 2s, on: [created, modified] }\n" % inbox
                  + one_trigger(), shim=False).start()
    eventually(lambda: (source_status(broker, "in") or {}).get("state") == "running")
    broker.kill()
    # While it is down.
    began = time.monotonic()
    tree = Tree(inbox)
    for _ in range(FILES):
        tree.create()
    tree.change(FILES // 10)
    print("made %d files in %d directories in %.1f s" % (
        len(tree.paths), len(tree.directories), time.monotonic() - began))
    # While it lists, and across a kill in the middle of that.
    began = time.monotonic()
    broker.start()
    changing = threading.Thread(target=tree.change, args=(FILES // 5,))
    changing.start()
    eventually(lambda: broker.metric("tocsin_source_events_total") > FILES / 4, within=600)
    broker.kill()
    broker.start()
    changing.join()

    def settled():
        status = source_status(broker, "in") or {}
        return status.get("position") == "%d files seen" % len(tree.paths)
    eventually(settled, within=1200)
    print("all %d files seen after %.1f s, %d MiB" % (
        len(tree.paths), time.monotonic() - began, broker.mib()))
    # Of what is there and was written last, some may be due only after the next listing.
    try:
        eventually(lambda: not check(tree, broker), within=60)
    except AssertionError:
        raise AssertionError(check(tree, broker)) from None
    # Nothing comes again, from what is remembered.
    before = len(stored_events(broker))
    broker.kill()
    began = time.monotonic()
    broker.start()
    tree.create()
    eventually(lambda: len(stored_events(broker)) == before + 1, within=120)
    print("a restart finds one new file after %.1f s" % (time.monotonic() - began))
    assert check(tree, broker) == ""

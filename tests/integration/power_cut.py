"""Takes from a directory what was not synced when its process was killed; see power_shim.cc.

The model is that of the simulated disk (tests/sim/sim_file_system.h): each unsynced sector of 512
bytes, a file's unsynced length, and each unsynced change of a name stays or goes by a coin of its
own. How the coins fall is drawn per cut: fairly, all, none, most or few survive.
"""

import os
import shutil
import struct

SECTOR = 512
HEAD = struct.Struct("<cQQQQI")
CHANCES = {"fair": 0.5, "all": 1.0, "none": 0.0, "most": 15 / 16, "few": 1 / 16}


class Power:
    """One broker's directory over all its lives: environment() for each, cut() after each."""

    def __init__(self, directory, beside, shim, lie=False):
        self.dir, self.shim, self.lie = os.path.abspath(directory), shim, lie
        self.log = os.path.join(beside, "power.log")
        self.attic = os.path.join(beside, "attic")
        self.durable = {}  # path -> inode
        self.durable_dirs = set()
        self.cuts = self.sectors_lost = self.names_lost = 0
        self._begin()

    def environment(self):
        words = {"LD_PRELOAD": self.shim, "TOCSIN_POWER_DIR": self.dir,
                 "TOCSIN_POWER_LOG": self.log, "TOCSIN_POWER_ATTIC": self.attic,
                 "TOCSIN_POWER_SLOW": "20",
                 # A sanitized broker asks to have its runtime first; it works all the same.
                 "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "")
                                 + ":verify_asan_link_order=0"}
        if self.lie:
            words["TOCSIN_POWER_LIE"] = "1"
        return words

    def _begin(self):
        """A life begins: everything that is there is durable."""
        shutil.rmtree(self.attic, ignore_errors=True)
        os.makedirs(self.attic)
        with open(self.log, "wb"):
            pass
        self.durable, self.durable_dirs = {}, {""}
        for folder, dirs, files in os.walk(self.dir):
            beneath = os.path.relpath(folder, self.dir)
            beneath = "" if beneath == "." else beneath
            self.durable_dirs.update(os.path.join(beneath, name) for name in dirs)
            for name in files:
                path = os.path.join(beneath, name)
                self.durable[path] = os.stat(os.path.join(self.dir, path)).st_ino

    def cut(self, rng):
        """The power goes: the process must be dead."""
        chance = CHANCES[rng.choice(sorted(CHANCES))]
        writes, synced, changes = self._read()
        for change in changes:
            if rng.random() < chance:
                self._apply(change)
            else:
                self.names_lost += 1
        self.durable = {path: inode for path, inode in self.durable.items()
                        if os.path.dirname(path) in self.durable_dirs}
        for inode, notes in writes.items():
            unsynced = [note for note in notes if note[0] >= synced.get(inode, 0)]
            if unsynced and inode in self.durable.values():
                self._take_back(os.path.join(self.attic, str(inode)), unsynced, rng, chance)
        self._restore_names()
        self.cuts += 1
        self._begin()

    def _read(self):
        """Unsynced notes by inode, up to which note each inode is synced, changes of names that are
        not durable yet; the durable ones are applied."""
        writes, synced, changes = {}, {}, []
        with open(self.log, "rb") as log:
            content = log.read()
        position, number = 0, 0
        while position + HEAD.size <= len(content):
            kind, inode, a, b, size, count = HEAD.unpack_from(content, position)
            position += HEAD.size
            data = content[position:position + count]
            position += count
            if kind in b"WT":
                writes.setdefault(inode, []).append((number, kind, a, b, size, data))
            elif kind == b"S":
                synced[inode] = max(synced.get(inode, 0), a)
            elif kind == b"D":
                folder = data.decode()
                done = [c for c in changes if c[0] < a and folder in map(os.path.dirname, c[2])]
                for change in done:
                    self._apply(change)
                changes = [c for c in changes if c not in done]
            else:
                paths = [path.decode() for path in data.split(b"\0")]
                changes.append((number, kind, paths, inode))
            number += 1
        return writes, synced, changes

    def _apply(self, change):
        _, kind, paths, inode = change
        if kind == b"M":
            self.durable_dirs.add(paths[0])
        elif kind == b"C":
            self.durable[paths[0]] = inode
        elif kind == b"U":
            self.durable.pop(paths[0], None)
        elif kind == b"R":
            self.durable.pop(paths[0], None)
            self.durable[paths[1]] = inode

    def _take_back(self, path, notes, rng, chance):
        durable_size = notes[0][4]
        old = {}  # sector -> what was there when it was last synced
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            # What each touched sector was before the first unsynced note: undo from the last.
            touched = set()
            for _, kind, start, length, _, data in notes:
                end = start + length if kind == b"W" else start + len(data)
                touched.update(range(start // SECTOR, (max(end, start + 1) - 1) // SECTOR + 1))
            content = {s: bytearray(self._sector(file, s)) for s in touched}
            for _, kind, start, length, old_size, data in reversed(notes):
                # Beyond the old end there was nothing, which reads as zeros.
                span = data if kind == b"T" else data + bytes(max(0, length - len(data)))
                self._put(content, start, span)
            for sector in sorted(touched):
                old[sector] = bytes(content[sector])
            if size != durable_size and rng.random() >= chance:
                file.truncate(durable_size)
                size = durable_size
            for sector, data in old.items():
                start = sector * SECTOR
                if start >= size or rng.random() < chance:
                    continue
                file.seek(start)
                if file.read(SECTOR) != data[:min(SECTOR, size - start)]:
                    self.sectors_lost += 1
                file.seek(start)
                file.write(data[:min(SECTOR, size - start)])

    @staticmethod
    def _sector(file, number):
        file.seek(number * SECTOR)
        data = file.read(SECTOR)
        return data + bytes(SECTOR - len(data))

    @staticmethod
    def _put(content, start, span):
        position = start
        while position < start + len(span):
            sector, within = divmod(position, SECTOR)
            piece = span[position - start:position - start + SECTOR - within]
            if sector in content:
                content[sector][within:within + len(piece)] = piece
            position += len(piece)

    def _restore_names(self):
        for folder, _, files in os.walk(self.dir):
            for name in files:
                path = os.path.join(folder, name)
                if self.durable.get(os.path.relpath(path, self.dir)) != os.stat(path).st_ino:
                    os.unlink(path)
        for path, inode in self.durable.items():
            full = os.path.join(self.dir, path)
            if not os.path.exists(full):
                os.makedirs(os.path.dirname(full), exist_ok=True)
                os.link(os.path.join(self.attic, str(inode)), full)

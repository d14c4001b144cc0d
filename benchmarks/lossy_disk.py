"""A disk that drops what was not synced: what of a directory would be there after a power cut at this moment.

Legal by POSIX, and worse than most file systems: a file's bytes are on the disk once it was synced, and of what was
written after that any first part is, or its length with zeros. A name (made, renamed, removed) is on the disk once its
directory was synced, and before that it may be, each by itself; syncing a file keeps its bytes, not its name.

Watches a directory from within the process that writes, by os.fsync and os.replace and by looking. Knows nothing of
what is written.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

Names = dict[str, int]  # name → inode


class LossyDisk:
    """What is below `root`, all of which is on the disk when this is made.

    Attributes:
        calls: how many syncs and renames there were.
        before: called before each of them, with how many there were; a power cut may be there.
    """

    def __init__(self, root: Path, before: Callable[[int], None] = lambda calls: None):
        self.root, self.before, self.calls = root, before, 0
        self._held: dict[int, int] = {}  # inode → a descriptor, so that no other file gets its number
        self._directories: set[int] = set()
        self._now: dict[int, Names] = {}  # of directories, as last looked at
        self._kept: dict[int, Names] = {}  # of directories, on the disk
        self._since: dict[int, list[dict[str, int | None]]] = {}  # of directories, what changed since: None: removed
        self._bytes: dict[int, bytes] = {}  # of files, on the disk
        self._fsync, self._replace = os.fsync, os.replace
        self._look()
        for inode, names in self._now.items():
            self._kept[inode], self._since[inode] = dict(names), []
        for inode in self._held.keys() - self._directories:
            self._bytes[inode] = self._contents(inode)

    def install(self) -> None:
        """From now on this process's syncs are this disk's."""
        os.fsync, os.replace = self._synced, self._replaced

    def cut(self, into: Path, chance: random.Random, kept: float | None = None) -> dict[str, int]:
        """Write what a power cut at this moment may leave to a new directory; how many names and bytes were lost. Of
        what was not synced, about `kept` is left: 0 is nothing, 1 is all, as after a kill.
        """
        self._look()
        lost = {"names": 0, "bytes": 0}
        kept = chance.choice((0.0, 0.5, 0.5, 1.0)) if kept is None else kept
        self._write(os.stat(self.root).st_ino, into, chance, kept, lost)
        return lost

    def _write(self, inode: int, into: Path, chance: random.Random, kept: float, lost: dict[str, int]) -> None:
        into.mkdir()
        names = dict(self._kept[inode])
        for change in self._since[inode]:
            if chance.random() >= kept:
                lost["names"] += 1
                continue
            for name, to in change.items():
                if to is None:
                    names.pop(name, None)
                else:
                    names[name] = to
        for name, to in names.items():
            if to in self._directories:
                self._write(to, into / name, chance, kept, lost)
                continue
            found = self._survivor(self._bytes.get(to, b""), self._contents(to), chance, kept)
            lost["bytes"] += max(0, len(self._contents(to)) - len(found.rstrip(b"\0")))
            (into / name).write_bytes(found)

    @staticmethod
    def _survivor(synced: bytes, written: bytes, chance: random.Random, kept: float) -> bytes:
        if not written.startswith(synced):  # overwritten since
            return chance.choice((synced, written)) if kept else synced
        more = round(kept * 2 * chance.random() * (len(written) - len(synced))) if kept < 1 else len(written)
        found = written[: len(synced) + more]
        if 0 < kept < 1 and chance.random() < 0.5:  # its length was kept, its last bytes were not
            real = chance.randint(len(synced), max(len(synced), len(found)))
            found = found[:real] + bytes(len(found) - real)
        return found

    def _synced(self, descriptor: int) -> None:
        self._call()
        inode = os.fstat(descriptor).st_ino
        if inode in self._directories:
            self._kept[inode], self._since[inode] = dict(self._now[inode]), []
        elif inode in self._held:
            self._bytes[inode] = self._contents(inode)

    def _replaced(self, source: Any, target: Any, **others: Any) -> None:
        self._call()
        source, target = Path(source), Path(target)
        self._replace(source, target, **others)
        folder = os.stat(target.parent).st_ino
        if folder in self._now and source.parent == target.parent:
            moved = self._now[folder].pop(source.name)
            self._now[folder][target.name] = moved
            self._since[folder].append({source.name: None, target.name: moved})

    def _call(self) -> None:
        self._look()
        self.before(self.calls)
        self.calls += 1

    def _look(self) -> None:
        """Note what was made and removed since the last look."""
        there: dict[int, Names] = {}
        for path, _, _ in os.walk(self.root):
            inode = os.stat(path).st_ino
            there[inode] = {entry.name: self._hold(Path(entry.path)) for entry in os.scandir(path)}
            self._hold(Path(path))
        for inode in self._now.keys() | there.keys():
            before, after = self._now.get(inode, {}), there.get(inode, {})
            changes = self._since.setdefault(inode, [])
            self._kept.setdefault(inode, {})
            changes += [
                {name: after.get(name)} for name in before.keys() | after.keys() if before.get(name) != after.get(name)
            ]
            self._now[inode] = after

    def _hold(self, path: Path) -> int:
        status = os.stat(path)
        if status.st_ino not in self._held:
            self._held[status.st_ino] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if stat.S_ISDIR(status.st_mode):
                self._directories.add(status.st_ino)
        return status.st_ino

    def _contents(self, inode: int) -> bytes:
        descriptor = self._held[inode]
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

"""Receipts of downloaded models: one small JSON file for each name, written once all its files are downloaded and
checked.

Knows where the cache is and what it holds. Does not know where models come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import attrs

from bitrl.core.errors import RunFailed
from bitrl.core.files import cache_home, write_atomically

ELSEWHERE = "choose another place for the cache with XDG_CACHE_HOME"
"""What to do when the cache cannot be written."""


@attrs.frozen
class FileRecord:
    """One file as it was when it was checked."""

    path: str
    bytes: int
    sha256: str


@attrs.frozen
class Pulled:
    """The receipt of a downloaded model. `path` is what the engine reads: a file, or the directory of `files`.

    `origin` is its source, with the revision or version.
    """

    name: str
    path: str
    origin: str
    files: list[FileRecord]

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files)


def cache() -> Path:
    """The directory of downloaded models and their receipts: `$XDG_CACHE_HOME/bitrl/models`."""
    return cache_home() / "bitrl" / "models"


def read(name: str) -> Pulled | None:
    """The receipt of that name, if all its files still exist with their sizes."""
    return _read(_place(name))


def every() -> Iterator[Pulled]:
    """The receipts of all downloaded models, by name."""
    found = (_read(path) for path in sorted(cache().glob("*.json")))
    return (record for record in found if record is not None)


def write(record: Pulled) -> None:
    """Write a receipt. Raises RunFailed when the cache cannot be written."""
    make_directory(cache())
    write_atomically(_place(record.name), json.dumps(attrs.asdict(record), indent=2) + "\n", ELSEWHERE)


def verify(record: Pulled) -> None:
    """Raises RunFailed when a file has changed since it was downloaded."""
    for file in record.files:
        if sha256(Path(file.path)) != file.sha256:
            raise RunFailed(f"{file.path}: has changed since it was downloaded: remove it and pull {record.name} again")


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_directory(path: Path) -> None:
    """Make a directory of the cache. Raises RunFailed when it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFailed(f"{path}: cannot be created: {error.strerror}: {ELSEWHERE}") from None


def _place(name: str) -> Path:
    return cache() / f"{quote(name, safe='')}.json"


def _read(path: Path) -> Pulled | None:
    try:
        said = json.loads(path.read_bytes())
        record = Pulled(**(said | {"files": [FileRecord(**file) for file in said["files"]]}))
        whole = all(Path(file.path).stat().st_size == file.bytes for file in record.files)
        whole = whole and Path(record.path).exists()
    except (OSError, ValueError, TypeError, KeyError):  # no receipt, or an unreadable one
        return None
    return record if whole else None

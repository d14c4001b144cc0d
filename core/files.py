"""Writes files atomically, and explains write errors."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.wording import setting


def write_atomically(path: Path, data: bytes | str, elsewhere: str | None = None) -> None:
    """Write `data` to a temporary file beside `path`, flush it to disk and rename it: readers see the old file or
    the new one. `elsewhere`: advice on choosing another place; None: the run's `out`.

    Raises:
        RunFailed: the disk is full or the file cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error, elsewhere) from None


def remove_unfinished(directory: Path) -> None:
    """Remove what a process killed in `write_atomically` left in `directory`; no other process may be writing there."""
    for temporary in directory.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", temporary.name):
            temporary.unlink(missing_ok=True)


def cache_home() -> Path:
    """Where programs keep what they can make again: $XDG_CACHE_HOME, or ~/.cache.

    Raises:
        UsageError: this user has no home directory, as in a container whose user has no name.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path.home() / ".cache"
    except RuntimeError:
        raise UsageError("this user has no home directory: set HOME or XDG_CACHE_HOME to a folder") from None


def cannot_write(path: Path, error: OSError, elsewhere: str | None = None) -> RunFailed:
    """An `error` while writing `path`, explained."""
    elsewhere = elsewhere or f"choose another place with {setting('out')}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailed(f"{path}: no space left on the disk: free some, or {elsewhere}")
    return RunFailed(f"{path}: cannot be written: {error.strerror}: {elsewhere}")

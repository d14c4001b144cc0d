"""Writes files atomically, so that they last through a power cut, and explains write errors."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.wording import setting


def write_atomically(
    path: Path, data: bytes | str | Sequence[bytes | memoryview], elsewhere: str | None = None
) -> None:
    """Write `data`, which may be in pieces, to a temporary file beside `path`, flush it to disk and rename it: readers
    see the old file or the new one. A device or pipe is written to. `elsewhere`: advice on choosing another place;
    None: the run's `out`.

    Raises:
        RunFailed: the disk is full or the file cannot be written; nothing is left behind.
    """
    if isinstance(data, str):
        data = data.encode()
    pieces = [data] if isinstance(data, bytes) else data
    try:
        if not may_be_replaced(path):
            with open(path, "wb") as file:
                file.writelines(pieces)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.writelines(pieces)
            put_in_place(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # on a read-only file system, where this would hide the reason
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error, elsewhere) from None


def may_be_replaced(path: Path) -> bool:
    """Whether a file may take the place of `path`: of a device it would be missed by the whole system, and
    /dev/stdout is a link to whatever the output goes to.
    """
    return str(path.parent) not in ("/dev", "/dev/fd") and (path.is_file() or not path.exists())


def put_in_place(temporary: Path, path: Path) -> None:
    """Let a finished file take the place of `path`, on the same file system: who reads `path`, after a power cut too,
    finds the whole of the old file or the whole of this one, and after the return this one.

    Raises:
        OSError: the disk is full or broken, or `path` is a directory, a device or a pipe.
    """
    if not may_be_replaced(path):
        raise FileExistsError(errno.EEXIST, "not a regular file")
    sync(temporary)
    os.replace(temporary, path)
    sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory and those above it, where they are not there, so that they last through a power cut.

    Raises:
        OSError: it cannot be made, or there is a file.
    """
    made = []
    for each in (path, *path.parents):
        if each.exists():
            break
        made.append(each)
    path.mkdir(parents=True, exist_ok=True)
    for each in made:
        sync_directory(each.parent)


def sync(path: Path) -> None:
    """Flush a file that was appended to to disk, as far as its file system can.

    Raises:
        OSError: the disk is full or broken, or there is no such file.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link (never what it leads to) or a directory with all that it holds, if it exists.

    Raises:
        RunFailed: it cannot be removed; the message names what stood in the way.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RunFailed(
            f"{error.filename or path}: cannot be removed: {error.strerror}: make it removable, or choose another "
            f"place with {setting('out')}"
        ) from None


def sync_directory(path: Path) -> None:
    """Make what was made, renamed and removed in `path` last through a power cut; where directories cannot be opened or
    synced, it has to do without.
    """
    with contextlib.suppress(PermissionError):  # a directory that may be written, but not read
        sync(path)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        # File systems that cannot sync this say so: shared folders, FUSE, some network file systems.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise


def remove_unfinished(directory: Path) -> None:
    """Remove what a process killed in `write_atomically` left in `directory`; no other process may be writing there."""
    for temporary in directory.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", temporary.name):
            with contextlib.suppress(OSError):  # it is in nobody's way
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

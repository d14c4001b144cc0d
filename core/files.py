"""Writing files whole or not at all, and saying what stood in the way."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from bitrl.core.errors import RunFailed
from bitrl.core.wording import setting


def write_atomically(path: Path, data: bytes | str, elsewhere: str | None = None) -> None:
    """Write `data` to a temporary file beside `path`, make it durable and rename it: readers see the old file or
    the new. `elsewhere` says how to choose another place; None: as a run does, by `out`.

    Raises:
        RunFailed: the disk is full or the place is not writable; nothing is left behind.
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
    """Remove what a process killed in `write_atomically` left in `directory`; nobody may be writing there."""
    for temporary in directory.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", temporary.name):
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError, elsewhere: str | None = None) -> RunFailed:
    """`error`, met while writing `path`, in words."""
    elsewhere = elsewhere or f"choose another place with {setting('out')}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailed(f"{path}: no space left on the disk: free some, or {elsewhere}")
    return RunFailed(f"{path}: cannot be written: {error.strerror}: {elsewhere}")

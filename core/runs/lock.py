"""A directory held by one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from bitrl.core.errors import UsageError
from bitrl.core.files import cannot_write


def lock(directory: Path) -> IO[str]:
    """Lock a directory for this process, until the returned file is closed or the process ends, however it ends.

    Raises:
        UsageError: another process holds it. RunFailed: the lock cannot be written.
    """
    path = directory / ".lock"
    try:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held open as long as the lock)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise UsageError(f"{directory}: is in use by process {holder}: wait for it, or stop it") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file

"""A directory held by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

from bitrl.core.errors import UsageError
from bitrl.core.files import cannot_write
from bitrl.core.wording import warn

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)
"""What flock answers on file systems that have no locks: some network and FUSE mounts."""


def lock(place: Path, directory: Path) -> IO[str]:
    """Lock a directory for this process, until the returned file is closed or the process ends, however it ends.

    Args:
        place: where it is.
        directory: as messages name it.

    Raises:
        UsageError: another process holds it. RunFailed: the lock cannot be written.
    """
    path = place / ".lock"
    try:
        # Not through a link: what it leads to is somebody's file.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from None
    file = open(descriptor, "r+", encoding="utf-8", errors="replace")  # noqa: SIM115 (held open as long as the lock)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            warn(
                f"{directory}: its file system has no locks ({error.strerror}): see to it that no other process works "
                "in this directory"
            )
        else:
            holder = file.read(20).strip() if isinstance(error, BlockingIOError) else ""
            file.close()
            if not isinstance(error, BlockingIOError):
                raise cannot_write(path, error) from None
            raise UsageError(f"{directory}: is in use by process {holder}: wait for it, or stop it") from None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError as error:
        file.close()
        raise cannot_write(path, error) from None
    return file

"""A process that trains one cell: `python -m bitrl.core.studies.worker`, told which on stdin, as JSON.

Knows nothing of the study. It ends with the process that started it, however that ends: two trainings in one directory
would wait for each other.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitrl.core.config import resolve
from bitrl.core.errors import BitrlError
from bitrl.core.lingering_threads import end
from bitrl.core.runs import train
from bitrl.core.wording import command_line


def work(values: Mapping[str, Mapping[str, Any]], directory: Path) -> None:
    """Train the run of these settings in a directory, or resume it there."""
    with command_line():  # where a study's failures are read
        if (directory / "config.toml").is_file():
            train.go_on(directory)
        else:
            directory.parent.mkdir(parents=True, exist_ok=True)
            train.start(resolve(values), directory, force=True)


def die_with(parent: int) -> None:
    """End this process when its parent ends: Linux sends a signal; elsewhere the parent has to be asked to."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        sys.exit(1)


def main() -> None:
    """Train the cell that stdin describes; a failure is one line on stderr."""
    before, code = threading.enumerate(), 0
    task = json.load(sys.stdin)
    die_with(task["parent"])
    try:
        work(task["values"], Path(task["directory"]))
    except BitrlError as error:
        print(f"Error: {error}", file=sys.stderr)
        code = error.exit_code
    end(code, before)


if __name__ == "__main__":
    main()

"""From nothing to the first action, in a process of its own: seconds, page faults and memory.

The process imports what that takes, no more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitrl.core.errors import RunFailed

PROCESS = f"""
import sys
sys.path[:] = filter(None, sys.path)
from {__name__} import main
main(*sys.argv[1:])
"""
"""The process: nothing in the working directory is imported instead of what is installed; an environment's module that
lies there may be, as by this process."""


def measure(place: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Start a process that acts once: `seconds` until it has, from before the interpreter was there, and its
    `peak_rss_mb`, `minor_faults`, `major_faults`. Files are read as the system has them: cached, if it has read them.

    Raises:
        RunFailed: it ended otherwise.
    """
    safely = ["-P"] if sys.flags.safe_path else []
    command = [sys.executable, *safely, "-c", PROCESS, str(place), json.dumps(dict(options))]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        began = time.monotonic()
        # A session of its own, so that Ctrl-C is this process's alone.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as process:
            try:
                line = process.stdout.readline() if process.stdout is not None else ""
                seconds = time.monotonic() - began
            except BaseException:
                process.kill()
                raise
        errors.seek(0)
        said = errors.read()
    if not line:
        why = (said.strip().splitlines() or [f"it was ended by signal {-process.returncode}"])[-1]
        raise RunFailed(f"{place}: acting once in a process of its own failed: {why}")
    found: dict[str, Any] = json.loads(line)
    return {"seconds": seconds, **found}


def main(place: str, options: str) -> None:
    """In the process: load an agent or a run, act once, and print what that took as one JSON object."""
    import resource

    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an environment prints

    from bitrl.core import process_memory
    from bitrl.plugins.backbones.benchmark.profiled import profiled

    at_work = profiled(Path(place), json.loads(options))
    at_work.act()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "peak_rss_mb": process_memory.peak() / process_memory.MB,
        "minor_faults": usage.ru_minflt,
        "major_faults": usage.ru_majflt,
    }
    print(json.dumps(found), file=stdout, flush=True)
    at_work.close()

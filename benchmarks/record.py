"""Keeps a benchmark's figures with what made them: command, commit, versions, seeds, processor."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bitrl.core.files import write_atomically
from bitrl.core.runs.provenance import processor, versions

RESULTS = Path(__file__).parent / "results"
LIBRARIES = (
    "numpy",
    "gymnasium",
    "torch",
    "tokenizers",
    "mujoco",
    "minigrid",
    "textworld",
    "ale-py",
    "stable-baselines3",
)
"""Recorded where they are installed, also if this process did not import them: a child process may have trained."""


def save(name: str, results: Any, folder: Path = RESULTS) -> Path:
    """Write `results` to NAME.json in `folder` with the command line, commit, versions and processor; return its
    path.
    """
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULTS, check=False)
    path = folder / f"{name}.json"
    arguments = [Path(argument).name if Path(argument).is_absolute() else argument for argument in sys.argv[1:]]
    record = {
        "command": "python " + shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *arguments]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git.stdout.strip(),
        "versions": {key: value for key, value in versions(LIBRARIES).items() if key != "platform"},
        "processor": processor(),
        "results": results,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
    return path

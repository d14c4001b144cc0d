"""Which runs there are, and how each one stands."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

from bitrl.core.config import COMPONENTS, read_toml
from bitrl.core.errors import UsageError


def list_runs(directory: str | Path = "runs") -> list[dict[str, Any]]:
    """The runs directly below a directory, by name.

    Returns:
        For each: run (its directory), env, backbone, critic_backbone, serializer, algo, seed, steps (asked for), step
        (reached, by its metrics), status ("finished", "running" by some process, or "stopped") and mean_return (None
        until it is evaluated).

    Raises:
        UsageError: there is no such directory, or a run's config.toml cannot be read.
    """
    place = Path(directory)
    if not place.is_dir():
        raise UsageError(f"{place}: is not a directory: give the one that holds your runs")
    return [_described(each.parent) for each in sorted(place.glob("*/config.toml"))]


def _described(directory: Path) -> dict[str, Any]:
    run = read_toml(directory / "config.toml").get("run", {})
    summary = directory / "summary.json"
    finished = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else None
    return {
        "run": str(directory),
        **{name: None if run.get(name) == "none" else run.get(name) for name in (*COMPONENTS, "seed", "steps")},
        "step": _last_step(directory / "metrics.jsonl"),
        "status": "finished" if finished is not None else "running" if _in_use(directory / ".lock") else "stopped",
        "mean_return": finished["eval"]["mean_return"] if finished is not None else None,
    }


def _last_step(metrics: Path) -> int:
    """The step of the last whole row; 0 before the first."""
    if not metrics.is_file():
        return 0
    for line in reversed(metrics.read_bytes().splitlines()):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # the process was killed while it wrote this line
            continue
    return 0


def _in_use(lock: Path) -> bool:
    """Whether a process has the run open."""
    if not lock.is_file():
        return False
    with open(lock, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

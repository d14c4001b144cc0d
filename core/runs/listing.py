"""Which runs there are, how each one stands, and what tells them apart."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitrl.core.config import COMPONENTS, read_toml
from bitrl.core.errors import UsageError
from bitrl.core.runs.store import last_step, read_summary


def list_runs(directory: str | Path = "runs") -> list[dict[str, Any]]:
    """The runs directly below a directory, by name.

    Returns:
        For each: run (its directory), env, backbone, critic_backbone, serializer, algo, seed, steps (asked for), step
        (reached, by its metrics), status ("finished", "running" by some process, "stopped", or "damaged"), mean_return
        (None until it is evaluated), std_return, differs (the options that are not the same in all of these runs, by
        path → its value), and for a damaged one problem (a line).

    Raises:
        UsageError: there is no such directory, or it cannot be read.
    """
    place = Path(directory)
    if not place.is_dir():
        raise UsageError(f"{place}: is not a directory: give the one that holds your runs")
    try:
        found = [each for each in sorted(place.iterdir()) if (each / "config.toml").is_file()]
    except OSError as error:
        raise UsageError(f"{place}: cannot be read: {error.strerror}") from None
    configs = [_configuration(each) for each in found]
    options = [config if isinstance(config, dict) else {} for config in configs]
    differing = _differing(options)
    runs = [_described(each, config) for each, config in zip(found, configs, strict=True)]
    for run, values in zip(runs, options, strict=True):
        run["differs"] = {path: values[path] for path in differing if path in values}
    return runs


def _configuration(directory: Path) -> dict[str, Any] | str:
    """The options of a run by path, `run.env` first; or what is wrong with its config.toml."""
    try:
        values = read_toml(directory / "config.toml")
    except UsageError as error:
        return str(error)
    return {f"{part}.{name}": value for part, section in values.items() for name, value in section.items()}


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paths whose values differ among the configurations that have them, in their order there."""
    seen: dict[str, list[Any]] = {}
    for config in configs:
        for path, value in config.items():
            values = seen.setdefault(path, [])
            if value not in values:
                values.append(value)
    return [path for path, values in seen.items() if len(values) > 1]


def _described(directory: Path, config: dict[str, Any] | str) -> dict[str, Any]:
    problem, summary = config if isinstance(config, str) else None, None
    options: Mapping[str, Any] = {} if isinstance(config, str) else config
    steps, step = options.get("run.steps"), 0
    try:
        summary, step = read_summary(directory), last_step(directory)
    except (ValueError, UsageError) as error:
        problem = problem or str(error)
    whole = summary is not None and not (isinstance(steps, int) and summary["steps"] < steps)
    if _in_use(directory / ".lock"):
        status = "running"
    else:
        status = "damaged" if problem else "finished" if whole else "stopped"
    named = {name: options.get(f"run.{name}") for name in (*COMPONENTS, "seed", "steps")}
    result = summary["eval"] if summary is not None and whole else {}
    return {
        "run": str(directory),
        **{name: None if value == "none" else value for name, value in named.items()},
        "step": step,
        "status": status,
        "mean_return": result.get("mean_return"),
        "std_return": result.get("std_return"),
        **({"problem": problem} if problem else {}),
    }


def _in_use(lock: Path) -> bool:
    """Whether a process has the run open, as far as the file system tells."""
    try:
        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False

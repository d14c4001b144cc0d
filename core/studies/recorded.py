"""Results of runs in one file: what `compare`, `report` and `plot` read, without the runs themselves.

A study's directory is large (checkpoints) and stays where it was trained. This file is what is kept of it, for a
paper's supplement or a repository: settings, provenance, evaluation and curve of each run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically
from bitrl.core.studies.results import Result
from bitrl.core.studies.statistics import steps_to

FORMAT = "bitrl results"
VERSION = 1
POINTS = 200
"""Of a curve, at most, and those that steps to 90 % are read from."""


def write_recorded(results: Iterable[Result], path: Path, baseline: str | None = None) -> None:
    """Write results, and their study's baseline, to a file. A run is called by the last two names of its directory, or
    as many as tell the runs apart.

    Raises:
        RunFailed: it cannot be written.
    """
    results = list(results)
    directories, depth = {result.directory for result in results}, 2
    while len({directory.parts[-depth:] for directory in directories}) < len(directories):
        depth += 1
    groups: dict[str, dict[str, Any]] = {}
    for result in results:
        shared = {
            "label": result.label,
            "task": result.task,
            "settings": dict(result.settings),
            "provenance": dict(result.provenance),
        }
        group = groups.setdefault(json.dumps(shared, sort_keys=True), {**shared, "runs": []})
        group["runs"].append(
            {
                "run": "/".join(result.directory.parts[-depth:]),
                "seed": result.seed,
                "summary": {k: v for k, v in result.summary.items() if k != "run"} if result.summary else None,
                "curve": _thinned(result.curve),
                "evaluations": _thinned(result.evaluations),
            }
        )
    arms = ",\n".join(json.dumps(group, separators=(",", ":")) for group in groups.values())
    text = f'{{"format":"{FORMAT}","version":{VERSION},"baseline":{json.dumps(baseline)},"arms":[\n{arms}\n]}}\n'
    write_atomically(path, text, "choose another file with --out")


def read_recorded(path: Path) -> tuple[list[Result], str | None]:
    """The results in a file, and the baseline of their study.

    Raises:
        UsageError: it cannot be read, or is no file of results.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: damaged: expected JSON, as `bitrl report --results` writes it") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(f'{path}: no file of results (expected "format": "{FORMAT}")')
    if data.get("version") != VERSION:
        raise UsageError(f"{path}: of version {data.get('version')!r}, this bitrl reads {VERSION}: update bitrl")
    try:
        results = [_result(path, group, run) for group in data["arms"] for run in group["runs"]]
        return results, _text(data["baseline"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"{path}: damaged: {type(error).__name__}: {error}") from None


def _result(path: Path, group: dict[str, Any], run: dict[str, Any]) -> Result:
    summary = run["summary"]
    if summary is not None and not (isinstance(summary["eval"], dict) and isinstance(summary["steps"], int)):
        raise ValueError(f"summary of {run['run']}")
    return Result(
        directory=path / str(run["run"]),
        task=str(group["task"]),
        settings=dict(group["settings"]),
        seed=int(run["seed"]),
        summary=summary,
        curve=_points(run["curve"]),
        evaluations=_points(run["evaluations"]),
        label=_text(group["label"]),
        provenance=dict(group["provenance"]),
    )


def _text(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError(f"expected a text, got {value!r}")
    return value


def _points(rows: Sequence[Sequence[float]]) -> tuple[tuple[int, float], ...]:
    if not all(math.isfinite(value) for _, value in rows):
        raise ValueError("a curve has a value that is no number")
    return tuple((int(step), float(value)) for step, value in rows)


def _thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """`POINTS` of a curve, its first and last among them, to six digits; also its best, and the first that is 90 % of
    the way to it, so that a file's steps to 90 % are those of the runs.
    """
    last = len(curve) - 1
    kept = {round(n * last / (POINTS - 1)) for n in range(POINTS)} if last >= POINTS else {*range(last + 1)}
    if (reached := steps_to(curve)) is not None:
        kept |= {max(range(last + 1), key=lambda n: curve[n][1]), [step for step, _ in curve].index(reached)}
    return [(curve[n][0], float(f"{curve[n][1]:.6g}")) for n in sorted(kept)]


def merged(earlier: Iterable[Result], later: Iterable[Result]) -> list[Result]:
    """Results of two sources; where both have one of the same arm, task and seed, the later one."""
    found = {(each.label, each.task, each.seed): each for each in earlier}
    found |= {(each.label, each.task, each.seed): each for each in later}
    return [*found.values()]

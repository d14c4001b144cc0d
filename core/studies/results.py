"""Reads runs as results to compare: a configuration, a seed, and what came of it.

A run that has not finished is a result too: it failed, or is not done. Nothing is recomputed: returns are those of
summary.json, learning curves those of metrics.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from bitrl.core.config import read_toml
from bitrl.core.errors import UsageError
from bitrl.core.options import as_dict
from bitrl.core.registry import registry
from bitrl.core.runs.store import read_provenance

IGNORED = ("run.seed", "run.env", "run.loggers", "run.checkpoint_every", "backbone.threads", "critic_backbone.threads")
"""Settings that make no other arm: the seed, the environment (a task), and what does not change results."""


@attrs.frozen
class Result:
    """A run, as it is compared.

    Attributes:
        directory: the run's.
        task: the environment, with those of its options that are not the defaults.
        settings: option paths → values, without the environment's and those that do not change results.
        seed: the random seed.
        summary: summary.json, or None if the run has not finished.
        curve: (step, mean return of the rollout's episodes), sampled actions, in order.
        evaluations: (step, mean return) of the evaluations while training, greedy actions; () without.
        label: what its study calls its arm; None outside a study.
        provenance: what made it: versions, commit (the section of config.toml).
    """

    directory: Path
    task: str
    settings: Mapping[str, Any]
    seed: int
    summary: Mapping[str, Any] | None
    curve: tuple[tuple[int, float], ...]
    label: str | None = None
    provenance: Mapping[str, Any] = attrs.field(factory=dict)
    evaluations: tuple[tuple[int, float], ...] = ()

    def value(self, metric: str) -> float | None:
        """Its evaluation's `metric`, one of its own or of the environment's; None if it has not finished.

        Raises:
            UsageError: the evaluation has no such number.
        """
        if self.summary is None:
            return None
        evaluation = self.summary.get("eval", {})
        numbers = {**evaluation.get("metrics", {}), **evaluation}
        found = numbers.get(metric)
        if not isinstance(found, (int, float)) or isinstance(found, bool):
            known = [name for name, each in numbers.items() if isinstance(each, (int, float))]
            raise UsageError(
                f"{self.directory}: its evaluation has no {metric}; it has {', '.join(known) or 'nothing'}"
            )
        return float(found)


def read_result(directory: Path, label: str | None = None) -> Result:
    """A run's result.

    Raises:
        UsageError: no run there, or one of its files is damaged, named.
    """
    if not (directory / "config.toml").is_file():
        raise UsageError(f"{directory}: not a run (no config.toml): give directories of runs, or of a study")
    config = read_toml(directory / "config.toml")
    flat = {f"{part}.{name}": value for part, section in config.items() for name, value in section.items()}
    run = config.get("run", {})
    settings = {path: value for path, value in flat.items() if path not in IGNORED and not path.startswith("env.")}
    return Result(
        directory=directory,
        task=_task(str(run.get("env", "?")), config.get("env", {})),
        settings=settings,
        seed=int(run.get("seed", 0)),
        summary=_summary(directory / "summary.json"),
        curve=tuple(_curve(directory / "metrics.jsonl", "episode_return")),
        evaluations=tuple(_curve(directory / "evaluations.jsonl", "mean_return")),
        label=label,
        provenance=read_provenance(directory),
    )


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The results in directories of runs, or of runs one level below (as in `runs/`).

    Raises:
        UsageError: there is none in one of them, or a file is damaged.
    """
    found: dict[Path, Result] = {}
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path}: no such directory: give directories of runs, or of a study")
        if (path / "config.toml").is_file():
            found[path.resolve()] = read_result(path)
            continue
        below = sorted(each.parent for each in path.glob("*/config.toml"))
        if not below:
            raise UsageError(f"{path}: holds no run: give directories of runs, or of a study")
        found |= {each.resolve(): read_result(each) for each in below}
    return [*found.values()]


def _task(env: str, options: Mapping[str, Any]) -> str:
    records = [entry.record for entry in registry().entries["environment"]]
    defaults = next((as_dict(record.options()) for record in records if record.name == env and record.options), {})
    own = [f"{name}={value}" for name, value in options.items() if defaults.get(name) != value]
    return f"{env} ({', '.join(own)})" if own else env


def _summary(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # text that is no UTF-8, too
        raise UsageError(f"{path}: damaged: remove it, and let the run evaluate again by resuming it") from None
    return summary


def _curve(path: Path, name: str) -> list[tuple[int, float]]:
    """The number `name` by steps in a file of rows, up to a last line that a killed process left unfinished."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    curve = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            step, value = int(row["step"]), row.get(name)
        except (ValueError, KeyError, TypeError, AttributeError):
            if number == len(lines):
                break
            raise UsageError(f"{path}: line {number} is damaged: leave the run out, or train it again") from None
        if value is not None:
            curve.append((step, float(value)))
    return curve

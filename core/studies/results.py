"""Reads runs as results to compare: a configuration, a seed, and what came of it.

A run that has not finished is a result too: it failed, or is not done. Nothing is recomputed: returns are those of
summary.json, learning curves those of metrics.jsonl.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from bitrl.core.config import ANY_GYMNASIUM_ID, read_toml
from bitrl.core.errors import UsageError
from bitrl.core.options import as_dict
from bitrl.core.registry import registry
from bitrl.core.runs.store import read_provenance, read_summary

IGNORED = (
    "run.seed", "run.env", "run.loggers", "run.checkpoint_every", "run.eval_every", "run.eval_every_episodes",
    "run.memory_limit", "backbone.threads", "critic_backbone.threads",
)  # fmt: skip
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
            if numbers.get("episodes") == 0:
                raise UsageError(
                    f"{self.directory}: was not evaluated (run.eval_episodes is 0): train with an evaluation, or leave "
                    "the run out"
                )
            known = [name for name, each in numbers.items() if isinstance(each, (int, float))]
            raise UsageError(
                f"{self.directory}: its evaluation has no {metric}; it has {', '.join(known) or 'nothing'}"
            )
        if not math.isfinite(found):
            raise UsageError(
                f"{self.directory}: its evaluation's {metric} is {found}: leave the run out, or train it again"
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
    if "env" not in config.get("run", {}):
        raise UsageError(
            f"{directory / 'config.toml'}: is damaged, it names no environment: leave the run out, or train it again"
        )
    result, provenance = result_of(directory, config, label), read_provenance(directory)
    # A run that learned on from an agent is no other seed of one that began with nothing.
    agent = provenance.get("agent")
    begun = f"agent of {agent.get('step')} steps" if isinstance(agent, Mapping) else "none"
    return attrs.evolve(
        result,
        settings={**result.settings, "run.resume": begun},
        summary=_summary(directory),
        curve=tuple(_curve(directory / "metrics.jsonl", "episode_return")),
        evaluations=tuple(_curve(directory / "evaluations.jsonl", "mean_return")),
        provenance=provenance,
    )


def result_of(directory: Path, config: Mapping[str, Mapping[str, Any]], label: str | None = None) -> Result:
    """The result of a run with this configuration, by part, that has not come to anything yet.

    Raises:
        UsageError: its seed is no integer.
    """
    flat = {f"{part}.{name}": value for part, section in config.items() for name, value in section.items()}
    run = config.get("run", {})
    seed = run.get("seed", 0)
    if type(seed) is not int:
        raise UsageError(f"{directory / 'config.toml'}: run.seed: expected an integer, got {seed!r}")
    settings = {path: value for path, value in flat.items() if path not in IGNORED and not path.startswith("env.")}
    task = _task(str(run.get("env", "?")), config.get("env", {}))
    return Result(directory=directory, task=task, settings=settings, seed=seed, summary=None, curve=(), label=label)


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
    records = {entry.record.name: entry.record for entry in registry().entries["environment"]}
    record = records.get(env) or records.get(ANY_GYMNASIUM_ID)
    defaults = {} if record is None else as_dict(record.options())
    own = [f"{name}={value}" for name, value in options.items() if defaults.get(name) != value]
    return f"{env} ({', '.join(own)})" if own else env


def _summary(directory: Path) -> dict[str, Any] | None:
    try:
        return read_summary(directory)
    except ValueError as error:
        raise UsageError(f"{error}: remove it, and let the run evaluate again by resuming it") from None


def _curve(path: Path, name: str) -> list[tuple[int, float]]:
    """The number `name` by steps in a file of rows, up to a last line that a killed process left unfinished."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    curve = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            step, value = int(row["step"]), row.get(name)
            if value is not None and not math.isfinite(value):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            if number == len(lines):
                break
            raise UsageError(f"{path}: line {number} is damaged: leave the run out, or train it again") from None
        if value is not None:
            curve.append((step, float(value)))
    return curve

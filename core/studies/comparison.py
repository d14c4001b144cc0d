"""Compares arms in each task and over tasks: the numbers of a paper's table, with the intervals a reviewer expects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bitrl.core.errors import UsageError, unknown
from bitrl.core.studies.curves import evaluated
from bitrl.core.studies.results import Result
from bitrl.core.studies.statistics import (
    Equivalence,
    Interval,
    bootstrap_intervals,
    bootstrap_mean_interval,
    equivalence,
    geometric_mean,
    interquartile_mean,
    probability_of_improvement,
    ratio_interval,
    ratio_of_means,
    steps_to,
    t_interval,
    variance_ratio,
)
from bitrl.core.wording import elided


@attrs.frozen
class Row:
    """An arm in a task.

    Attributes:
        task, arm: which.
        seeds: of the finished runs, in order; `unfinished` is how many others there are.
        values: the metric of each seed.
        mean, median, interquartile_mean: of those.
        t_interval, bootstrap_interval: of the mean, 95 %; None with one seed.
        failure_rate: share of runs that did not finish, or ended no better than their first rollout.
        ratio: to the baseline's mean, above 1 is better; with its 95 % interval. None for the baseline itself, and
            where the means differ in sign.
        improvement: the probability that a run of this arm is better than one of the baseline.
        variance_ratio: to the baseline's, over seeds, with its 95 % interval.
        steps_to_90: median over seeds of the first step from which 90 % of the way from a run's first to its best
            rollout is reached; of evaluations while training where all finished runs of the task have them. None where
            half of them never rise.
        equivalence: to the baseline, if asked for.
    """

    task: str
    arm: str
    seeds: tuple[int, ...]
    unfinished: int
    values: tuple[float, ...]
    mean: float | None
    median: float | None
    interquartile_mean: float | None
    t_interval: Interval | None
    bootstrap_interval: Interval | None
    failure_rate: float
    steps: int | None
    steps_to_90: float | None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    improvement: float | None = None
    variance_ratio: tuple[float, Interval] | None = None
    equivalence: Equivalence | None = None


@attrs.frozen
class Overall:
    """An arm over all tasks that it and the baseline have results in.

    Attributes:
        ratio: geometric mean over tasks of the ratios to the baseline, with its 95 % interval (bootstrap stratified by
            task and arm).
        interquartile_mean: of all runs and tasks, each run as a ratio to the baseline's mean in its task.
        baseline_interquartile_mean: the same of the baseline's own runs in these tasks: 1 only where their distribution
            is symmetric, so that an arm is beside this, not beside 1.
        improvement: mean over tasks of the probabilities of improvement.
    """

    arm: str
    tasks: int
    ratio: float | None
    ratio_interval: Interval | None
    interquartile_mean: float | None
    interquartile_mean_interval: Interval | None
    baseline_interquartile_mean: float | None
    improvement: float | None


@attrs.frozen
class Comparison:
    """Rows by task and arm, what is over all tasks, and what differs between the arms.

    `differences` has a row for each arm: its settings that differ between arms of one task. `warnings` are sentences.
    """

    metric: str
    baseline: str
    rows: tuple[Row, ...]
    overall: tuple[Overall, ...]
    differences: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return attrs.asdict(self)


def compare(
    results: Sequence[Result],
    *,
    metric: str = "mean_return",
    baseline: str | None = None,
    margin: tuple[float, bool] | None = None,
) -> Comparison:
    """Compare results.

    Args:
        results: of any number of tasks, arms and seeds.
        metric: a number of the evaluation; higher is better.
        baseline: an arm's label; None: the first arm.
        margin: of equivalence, and whether it is relative (`equivalence`); None: not tested.

    Raises:
        UsageError: nothing to compare, no such arm or metric, or two runs of one arm, task and seed.
    """
    if not results:
        raise UsageError("there is no run to compare")
    labels = label_runs(results)
    differences = _differences(results, labels)
    arms = list(dict.fromkeys(labels[result.directory] for result in results))
    if baseline is None:
        baseline = arms[0]
    rows = compare_rows(results, metric, baseline, margin)
    by_place = {(row.task, row.arm): row for row in rows}
    return Comparison(
        metric=metric,
        baseline=baseline,
        rows=rows,
        overall=tuple(_overall(arm, baseline, by_place) for arm in arms if arm != baseline),
        differences=differences,
        warnings=(*_warnings(rows), *_without_curves(results, labels), *_mixed(results, labels)),
    )


def compare_rows(
    results: Sequence[Result], metric: str, baseline: str, margin: tuple[float, bool] | None = None
) -> tuple[Row, ...]:
    """The rows of `compare`: each task and arm, beside the baseline in that task.

    Raises:
        UsageError: no such arm or metric, or two runs of one arm, task and seed.
    """
    labels = label_runs(results)
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, labels[result.directory]), []).append(result)
    refuse_repeated_seeds(groups)
    arms = list(dict.fromkeys(arm for _, arm in groups))
    if baseline not in arms:
        raise unknown("arm", baseline, arms)
    # Greedy evaluations and sampled rollouts reach a return at other steps: all runs of a task by the same ones.
    greedy = {task: evaluated([each for each in results if each.task == task]) for task, _ in groups}
    rows = [_row(task, arm, group, metric, greedy[task]) for (task, arm), group in groups.items()]
    by_place = {(row.task, row.arm): row for row in rows}
    return tuple(_beside(row, by_place.get((row.task, baseline)), baseline, margin) for row in rows)


def begun_baseline(results: Sequence[Result], baseline: str | None) -> str | None:
    """The baseline that a study names, None while no run of it has begun."""
    return baseline if any(result.label == baseline for result in results) else None


def refuse_repeated_seeds(groups: Mapping[tuple[str, str], Sequence[Result]]) -> None:
    """Raise UsageError where two runs of a task and arm have one seed: they are one run, not two."""
    for (task, arm), group in groups.items():
        seeds = [result.seed for result in group]
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            same = [str(result.directory) for result in group if result.seed == twice[0]]
            raise UsageError(f"{task}, {arm}: seed {twice[0]} is there twice ({same[0]} and {same[1]}): leave one out")


def label_runs(results: Sequence[Result]) -> dict[Path, str]:
    """What each run's arm is called, by its directory.

    A study has given its arms names. Others are named for what differs between the runs of one task: by as few settings
    as tell them apart, those of the run itself first.
    """
    varied = _varied(results)
    shown = [path for path in varied if path.startswith("run.")]
    unnamed = [result for result in results if result.label is None]
    while same := _told_apart_by(unnamed, shown, varied):
        shown.append(same)
    labels = {}
    for result in results:
        values = {path.removeprefix("run."): result.settings[path] for path in shown if path in result.settings}
        named = " ".join(f"{name}={elided(value)}" for name, value in values.items())
        labels[result.directory] = result.label or named or "base"
    return labels


def _told_apart_by(results: Sequence[Result], shown: Sequence[str], varied: Sequence[str]) -> str | None:
    """The first setting not yet shown that differs between two runs of a task which look the same so far."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(str([result.task, *(result.settings.get(path) for path in shown)]), []).append(result)
    for group in groups.values():
        for path in varied:
            if path not in shown and len({str(result.settings.get(path)) for result in group}) > 1:
                return path
    return None


def _varied(results: Sequence[Result]) -> list[str]:
    """The settings that differ between runs of one task which have them, and the same component: that another component
    (or an earlier version) has no such option says nothing more.
    """
    varied: list[str] = []
    for task in dict.fromkeys(result.task for result in results):
        here = [result.settings for result in results if result.task == task]
        for path in dict.fromkeys(path for settings in here for path in settings):
            values: dict[str, set[str]] = {}
            for settings in here:
                if path in settings:
                    component = str(settings.get(f"run.{path.partition('.')[0]}"))
                    values.setdefault(component, set()).add(str(settings[path]))
            if path not in varied and any(len(each) > 1 for each in values.values()):
                varied.append(path)
    return varied


def _differences(results: Sequence[Result], labels: Mapping[Path, str]) -> dict[str, dict[str, Any]]:
    """The settings of each arm that differ between the arms of one task. One that is another in another task, as tuned
    for its environment, is said with all its values: "0.05 or 0.01".
    """
    varied = _varied(results)
    found: dict[str, dict[str, list[Any]]] = {}
    for result in results:
        own = found.setdefault(labels[result.directory], {})
        for path in varied:
            if path in result.settings and result.settings[path] not in own.setdefault(path, []):
                own[path].append(result.settings[path])
    return {
        arm: {path: values[0] if len(values) == 1 else " or ".join(map(elided, values)) for path, values in own.items()}
        for arm, own in found.items()
    }


def _row(task: str, arm: str, group: Sequence[Result], metric: str, greedy: bool) -> Row:
    done = sorted((result for result in group if result.summary is not None), key=lambda result: result.seed)
    values = np.array([result.value(metric) for result in done], np.float64)
    failed = len(group) - len(done)
    if metric == "mean_return":
        failed += sum(
            bool(result.curve) and value <= result.curve[0][1] for result, value in zip(done, values, strict=True)
        )
    curves = [result.evaluations if greedy else result.curve for result in done]
    # A run that never rose has not got there at any step: left out, it would make an arm look fast.
    reached = [math.inf if (step := steps_to(curve)) is None else step for curve in curves if curve]
    steps_to_90 = float(np.median(reached)) if reached else math.inf
    return Row(
        task=task,
        arm=arm,
        seeds=tuple(result.seed for result in done),
        unfinished=len(group) - len(done),
        values=tuple(values.tolist()),
        mean=float(values.mean()) if len(values) else None,
        median=float(np.median(values)) if len(values) else None,
        interquartile_mean=interquartile_mean(values) if len(values) else None,
        t_interval=t_interval(values),
        bootstrap_interval=bootstrap_mean_interval(values),
        failure_rate=failed / len(group),
        steps=max((int(result.summary["steps"]) for result in done if result.summary), default=None),
        steps_to_90=steps_to_90 if math.isfinite(steps_to_90) else None,
    )


def _beside(row: Row, baseline: Row | None, name: str, margin: tuple[float, bool] | None) -> Row:
    """A row with its comparison to the baseline's in the same task."""
    if row.arm == name or baseline is None or not row.values or not baseline.values:
        return row
    values, others = np.array(row.values), np.array(baseline.values)
    ratio = ratio_of_means(values, others)
    return attrs.evolve(
        row,
        ratio=None if math.isnan(ratio) else ratio,
        ratio_interval=ratio_interval(values, others),
        improvement=probability_of_improvement(values, others),
        variance_ratio=variance_ratio(values, others),
        equivalence=None if margin is None else equivalence(values, others, *margin),
    )


def _overall(arm: str, baseline: str, rows: Mapping[tuple[str, str], Row]) -> Overall:
    tasks = [
        task
        for task, name in rows
        if name == arm and rows[task, arm].values and (task, baseline) in rows and rows[task, baseline].values
    ]
    pairs = [(np.array(rows[task, arm].values), np.array(rows[task, baseline].values)) for task in tasks]
    samples = [sample for pair in pairs for sample in pair]

    def ratio(*each: np.ndarray) -> float:
        return geometric_mean([ratio_of_means(a, b) for a, b in zip(each[::2], each[1::2], strict=True)])

    def middle(*each: np.ndarray) -> float:
        scores = [_scores(a, b) for a, b in zip(each[::2], each[1::2], strict=True)]
        return interquartile_mean(np.concatenate(scores))

    found, mean = (ratio(*samples), middle(*samples)) if samples else (math.nan, math.nan)
    own = middle(*(sample for _, others in pairs for sample in (others, others))) if samples else math.nan
    intervals = bootstrap_intervals(samples, [ratio, middle]) if samples else [None, None]
    return Overall(
        arm=arm,
        tasks=len(tasks),
        ratio=None if math.isnan(found) else found,
        ratio_interval=intervals[0] if not math.isnan(found) else None,
        interquartile_mean=None if math.isnan(mean) else mean,
        interquartile_mean_interval=intervals[1] if not math.isnan(mean) else None,
        baseline_interquartile_mean=None if math.isnan(own) else own,
        improvement=float(np.mean([probability_of_improvement(a, b) for a, b in pairs])) if pairs else None,
    )


def _scores(values: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Each run's result as a ratio to the baseline's mean, above 1 being better; NaN where there is none."""
    mean = float(baseline.mean())
    if mean > 0:
        return values / mean
    scores: np.ndarray = np.full(len(values), np.nan)
    np.divide(mean, values, out=scores, where=values < 0)
    return scores


def _warnings(rows: Sequence[Row]) -> list[str]:
    warnings = []
    for row in rows:
        place = f"{row.task}, {row.arm}"
        if row.unfinished:
            warnings.append(f"{place}: {row.unfinished} of {row.unfinished + len(row.seeds)} runs have not finished")
        if len(row.seeds) == 1:
            warnings.append(f"{place}: one seed has no interval: a difference from another arm may be chance")
        elif 0 < len(row.seeds) < 3:
            warnings.append(f"{place}: {len(row.seeds)} seeds are too few to compare: use 5 or more")
    return warnings


def _without_curves(results: Sequence[Result], labels: Mapping[Path, str]) -> Iterator[str]:
    """Of finished runs without a learning curve in a task where others have one: their file was lost."""
    done = [result for result in results if result.summary is not None]
    curved = {result.task for result in done if result.curve}
    for result in done:
        if result.task in curved and not result.curve:
            yield (
                f"{result.task}, {labels[result.directory]}: seed {result.seed} has no learning curve "
                f"({result.directory / 'metrics.jsonl'}): steps to 90 % and failures are those of the others"
            )


def _mixed(results: Sequence[Result], labels: Mapping[Path, str]) -> Iterator[str]:
    """Of arms that two studies call the same, that were trained on with other defaults, or whose model's file was
    replaced between runs.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, labels[result.directory]), []).append(result)
    for (task, arm), group in groups.items():
        if paths := _varied(group):
            yield f"{task}, {arm}: its runs are not of one kind: they differ in {', '.join(paths)}"
            continue
        for part in ("features", "critic_features"):
            models: dict[str, list[int]] = {}
            for result in sorted(group, key=lambda each: each.seed):
                if digest := _model(result.provenance.get(part)):
                    models.setdefault(digest, []).append(result.seed)
            if len(models) > 1:
                read = (f"{digest[:12]} (seed {', '.join(map(str, seeds))})" for digest, seeds in models.items())
                yield f"{task}, {arm}: its runs read different models by one name: {', '.join(read)}"


def _model(features: Any) -> str | None:
    """The digest of the model that a run read; its seal, where it has one, as all runs of 0.1 have it."""
    if not isinstance(features, Mapping):
        return None
    digest = features.get("model_seal") or features.get("model_sha256")
    return digest if isinstance(digest, str) else None

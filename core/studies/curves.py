"""Learning curves of several seeds as one: the mean over seeds and its interval, at the same steps."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from bitrl.core.studies.results import Result
from bitrl.core.studies.statistics import t_interval

POINTS = 120
"""Of a curve, at most: more than a page shows."""


@attrs.frozen
class Curve:
    """The mean over seeds at each step, with its 95 % interval (Student's t; None with one seed)."""

    label: str
    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None


def evaluated(results: Sequence[Result]) -> bool:
    """Whether all of these runs were evaluated while they trained, so that curves show evaluations, not rollouts. Where
    some have finished, these say it: one that failed has perhaps come to no evaluation.
    """
    finished = [result for result in results if result.summary is not None]
    return bool(results) and all(result.evaluations for result in finished or results)


def mean_curve(label: str, results: Sequence[Result], evaluations: bool = False, points: int = POINTS) -> Curve | None:
    """The curve of an arm in a task, of rollouts or of evaluations while training, at as many `points` as that at most;
    None if no run has one.

    Runs are read at the steps of the shortest, interpolated: rollouts without a finished episode have no return.
    """
    rows = [result.evaluations if evaluations else result.curve for result in results]
    curves = [np.array(each, np.float64) for each in rows if len(each)]
    if not curves:
        return None
    first, last = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
    base = max(curves, key=len)[:, 0]
    steps = base[(base >= first) & (base <= last)]
    if not len(steps):
        return None
    if len(steps) > points:
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, points).astype(int))]
    values = np.stack([np.interp(steps, curve[:, 0], curve[:, 1]) for curve in curves])
    bands = [t_interval(column) for column in values.T]
    known = [band for band in bands if band is not None]
    banded = len(known) == len(bands)
    return Curve(
        label=label,
        steps=tuple(int(step) for step in steps),
        mean=tuple(values.mean(axis=0).tolist()),
        low=tuple(band[0] for band in known) if banded else None,
        high=tuple(band[1] for band in known) if banded else None,
    )

"""Estimators for returns over seeds (Agarwal et al. 2021, arXiv 2108.13264; equivalence: Schuirmann 1987).

Everything is a pure function of arrays of results, one number per seed: higher is better. Intervals are 95 % unless
they say otherwise. Knows nothing of runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import attrs
import numpy as np

RESAMPLES = 2_000
FEW = 10
"""Below this many seeds percentile bootstraps cover too little, so intervals of means are Student's t."""

Interval = tuple[float, float]
Verdict = Literal["yes", "no", "undecided"]


def interquartile_mean(values: np.ndarray) -> float:
    """The mean of the middle half, float64 [n] → its value: as rliable's aggregate_iqm. NaN if one of them is.

    scipy's trim_mean is the same; but a bootstrap asks thousands of times, and a call of it costs half a millisecond.
    """
    ordered = np.sort(values)
    if np.isnan(ordered[-1]):  # sorted to the upper end, it would be cut off as the best
        return math.nan
    return float(ordered[len(values) // 4 : len(values) - len(values) // 4].mean())


def variance(values: np.ndarray) -> float:
    """The unbiased variance of values [n], n > 1: zero if all are equal, also where the rounding of their mean says
    1e-34.
    """
    return float(values.var(ddof=1)) if np.ptp(values) else 0.0


def t_interval(values: np.ndarray, level: float = 0.95) -> Interval | None:
    """Student's t interval of the mean of values [n]; None for a single one."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def bootstrap_interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., float], level: float = 0.95
) -> Interval | None:
    """The percentile interval of `statistic(*samples)`, resampling the seeds of each sample independently (stratified
    by task and arm); None if a sample has fewer than two values, or if too many resamples have no statistic. The same
    samples give the same interval.
    """
    return bootstrap_intervals(samples, [statistic], level)[0]


def bootstrap_intervals(
    samples: Sequence[np.ndarray], statistics: Sequence[Callable[..., float]], level: float = 0.95
) -> list[Interval | None]:
    """The `bootstrap_interval` of each statistic, of the same resamples, which take time to draw."""
    if min(map(len, samples)) < 2:
        return [None] * len(statistics)
    from arch.bootstrap import IndependentSamplesBootstrap

    bootstrap = IndependentSamplesBootstrap(*samples, seed=np.random.RandomState(0))
    drawn = bootstrap.apply(lambda *each: np.array([statistic(*each) for statistic in statistics]), RESAMPLES)
    return [_percentiles(found, level) for found in drawn.T]


def _percentiles(found: np.ndarray, level: float) -> Interval | None:
    known = found[np.isfinite(found)]
    # Resamples without a value (a ratio to a mean of the other sign) would lie beyond one of the ends: if they are more
    # than there are to be beyond it, that end is not known.
    if len(known) < (0.5 + level / 2) * len(found):
        return None
    low, high = np.quantile(known, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def bootstrap_mean_interval(values: np.ndarray, level: float = 0.95) -> Interval | None:
    """The percentile interval of the mean of values [n], as `bootstrap_interval` has it, in a fraction of the time."""
    if len(values) < 2:
        return None
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def probability_of_improvement(better: np.ndarray, other: np.ndarray) -> float:
    """P(X > Y) + P(X = Y) / 2 for values [n] and [k]: Mann and Whitney's U over n·k."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(better, other).statistic) / (len(better) * len(other))


def proportion_interval(count: int, of: int, level: float = 0.95) -> Interval:
    """The exact interval (Clopper and Pearson) of a proportion of which `count` of `of` were seen."""
    from scipy.stats import binomtest

    found = binomtest(count, of).proportion_ci(level)
    return float(found.low), float(found.high)


def oriented(values: np.ndarray, baseline: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Numerator and denominator of the ratio that says how good `values` [n] are beside `baseline` [k], above 1 being
    better: values / baseline of rewards; baseline / values of costs (both means below zero), with their signs changed.
    None where the means differ in sign, or the denominator's is zero: there is no ratio then.
    """
    ours, theirs = values.mean(), baseline.mean()
    if ours >= 0 and theirs > 0:
        return values, baseline
    if ours < 0 and theirs <= 0:
        return -baseline, -values
    return None


def ratio_of_means(values: np.ndarray, baseline: np.ndarray) -> float:
    """mean(values) / mean(baseline), or the other way round for costs (`oriented`); NaN where there is no ratio."""
    ours, theirs = float(values.mean()), float(baseline.mean())
    if ours >= 0 and theirs > 0:
        return ours / theirs
    return theirs / ours if ours < 0 and theirs <= 0 else math.nan


def ratio_interval(values: np.ndarray, baseline: np.ndarray, level: float = 0.95) -> Interval | None:
    """The interval of `ratio_of_means`: Fieller's with Welch's degrees of freedom below `FEW` seeds, a bootstrap from
    there on. None where a sample has one value, or the interval is not bounded.
    """
    parts = oriented(values, baseline)
    if parts is None or min(len(values), len(baseline)) < 2:
        return None
    if min(len(values), len(baseline)) >= FEW:
        return bootstrap_interval([values, baseline], ratio_of_means, level)
    over, under = parts
    a, b = over.mean(), under.mean()
    u, v = variance(over) / len(over), variance(under) / len(under)
    ratio = a / b
    if u + ratio**2 * v == 0:
        return float(ratio), float(ratio)
    from scipy.stats import t

    freedom = (u + ratio**2 * v) ** 2 / (u**2 / (len(over) - 1) + (ratio**2 * v) ** 2 / (len(under) - 1))
    quantile = float(t.ppf(0.5 + level / 2, freedom))
    # The ratios r for which mean(over) − r·mean(under) is not significantly other than zero: a quadratic inequality.
    square, linear, constant = b**2 - quantile**2 * v, -2 * a * b, a**2 - quantile**2 * u
    inside = linear**2 - 4 * square * constant
    if square <= 0 or inside < 0:
        return None
    root = math.sqrt(inside)
    return (-linear - root) / (2 * square), (-linear + root) / (2 * square)


def geometric_mean(values: Sequence[float]) -> float:
    """Of ratios, zero if one of them is; NaN if one is negative or NaN, or there are none."""
    if not values or not all(value >= 0 for value in values):
        return math.nan
    if 0 in values:
        return 0.0
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def variance_ratio(values: np.ndarray, baseline: np.ndarray) -> tuple[float, Interval] | None:
    """The ratio of the variances over seeds with Fisher's interval; None with a single value, or where the baseline's
    is zero.
    """
    if min(len(values), len(baseline)) < 2 or variance(baseline) == 0:
        return None
    from scipy.stats import f

    ratio = variance(values) / variance(baseline)
    low, high = (float(f.ppf(share, len(values) - 1, len(baseline) - 1)) for share in (0.025, 0.975))
    return ratio, (ratio / high, ratio / low)


@attrs.frozen
class Equivalence:
    """Whether two arms are equivalent within a margin.

    Attributes:
        verdict: "yes" or "no" where a test at 5 % says so, else "undecided".
        more_seeds: how many more seeds for each arm would likely decide, if means and variances stay as they are; None
            where it is decided, or no number up to `MOST_SEEDS` would.
        reason: why it cannot be tested, or "".
    """

    verdict: Verdict
    more_seeds: int | None = None
    reason: str = ""

    @property
    def more(self) -> str:
        """About how many more seeds would decide, in words; empty where that is not known."""
        return f"about {self.more_seeds} more seed{'s' * (self.more_seeds != 1)}" if self.more_seeds else ""


MOST_SEEDS = 1_000


def equivalence(values: np.ndarray, baseline: np.ndarray, margin: float, relative: bool = True) -> Equivalence:
    """Two one-sided tests (each at 5 %, Welch's t) of whether mean(values) is within a margin of mean(baseline).

    Args:
        values, baseline: [n] and [k].
        margin: with `relative` a share of the baseline (0.05: the ratio is within 0.95 and 1.05), else in units of the
            result.

    "no" means that it was shown to be outside: "not yet shown to be equivalent" is "undecided".
    """
    parts = oriented(values, baseline) if relative else (values, baseline)
    if parts is None:
        return Equivalence(
            "undecided", reason="the means differ in sign or are zero, so there is no ratio: give an absolute margin"
        )
    if min(len(values), len(baseline)) < 2:
        return Equivalence("undecided", reason="one seed has no variance: train more")
    over, under = parts
    bounds = ((1 - margin, 0.0), (1 + margin, 0.0)) if relative else ((1.0, -margin), (1.0, margin))

    def decided(n: int, k: int) -> Verdict:
        below_low, below_high = (_p_below(over, under, n, k, *bound) for bound in bounds)
        if 1 - below_low < 0.05 and below_high < 0.05:
            return "yes"
        return "no" if below_low < 0.05 or 1 - below_high < 0.05 else "undecided"

    found = decided(len(over), len(under))
    if found != "undecided":
        return Equivalence(found)
    for more in range(1, MOST_SEEDS):
        if decided(len(over) + more, len(under) + more) != "undecided":
            return Equivalence("undecided", more)
    return Equivalence("undecided")


def _p_below(over: np.ndarray, under: np.ndarray, n: int, k: int, factor: float, offset: float) -> float:
    """Welch's one-sided p-value for mean(over) < factor·mean(under) + offset, had there been n and k values of the same
    means and variances: small where it is clearly below, near 1 where it is clearly above.
    """
    from scipy.stats import t

    difference = over.mean() - factor * under.mean() - offset
    u, v = variance(over) / n, factor**2 * variance(under) / k
    if u + v == 0:
        return 0.0 if difference < 0 else 1.0
    freedom = (u + v) ** 2 / (u**2 / (n - 1) + v**2 / (k - 1))
    return float(t.cdf(difference / math.sqrt(u + v), freedom))


def steps_to(curve: Sequence[tuple[int, float]], share: float = 0.9) -> int | None:
    """The first step of a learning curve, (step, return) in order, from which `share` of the way from its first to its
    highest value is reached; None for an empty curve, or one that never rises.
    """
    if not curve:
        return None
    first, best = curve[0][1], max(value for _, value in curve)
    if best <= first:
        return None
    goal = first + share * (best - first)
    return next(step for step, value in curve if value >= goal)

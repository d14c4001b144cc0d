"""Estimators against hand-worked cases, scipy's own tests, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy  # of which stats, which takes a second, is imported when it is used

from bitrl.core.studies import statistics


def test_the_interquartile_mean_drops_a_quarter_at_each_end() -> None:
    assert statistics.interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, 6, -50])) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert statistics.interquartile_mean(np.array([7.0])) == 7.0


def test_the_t_interval_is_scipys() -> None:
    values = np.array([495.8, 499.0, 478.8, 500.0, 497.1])
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert statistics.t_interval(values) == pytest.approx((expected.low, expected.high))
    assert statistics.t_interval(values[:1]) is None


def test_the_bootstrap_resamples_each_sample_by_itself_and_repeats() -> None:
    """The interval of a difference of means, against scipy's own bootstrap of the same samples."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(10, 2, 30), generator.normal(7, 1, 20)

    def difference(x: np.ndarray, y: np.ndarray) -> float:
        return float(x.mean() - y.mean())

    found = statistics.bootstrap_interval([a, b], difference)
    assert found == statistics.bootstrap_interval([a, b], difference)
    other = scipy.stats.bootstrap(
        (a, b), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), method="percentile", rng=1
    ).confidence_interval
    assert found == pytest.approx((other.low, other.high), abs=0.06)
    assert statistics.bootstrap_interval([a, b[:1]], difference) is None


def test_the_aggregates_and_their_intervals_are_rliables() -> None:
    """What rliable 1.2.0 (Agarwal et al., 2021, whose metrics these are) says about 5 seeds x 3 tasks: its last release
    works with no current release of arch, so its answers stand here. 50,000 resamples with RandomState(5).
    """
    rows = "228.2 113.2 71.7, 25.0 56.2 102.9, 78.8 49.9 116.7, 145.6 92.8 120.3, 83.2 219.0 80.5"
    other_rows = "36.6 109.6 70.5, 34.7 78.6 50.1, 67.7 142.1 74.9, 58.6 93.5 58.3, 76.5 99.0 19.6"
    ours, others = (np.array([row.split() for row in text.split(",")], float) for text in (rows, other_rows))

    def middle(*tasks: np.ndarray) -> float:
        return statistics.interquartile_mean(np.concatenate(tasks))

    def mean(*tasks: np.ndarray) -> float:
        return float(np.mean(tasks))

    for statistic, value, (low, high) in (
        (middle, 95.56666667, (75.77777778, 128.61111111)),
        (mean, 105.6, (79.55316667, 134.4335)),
    ):
        assert statistic(*ours.T) == pytest.approx(value)
        # Two bootstraps of one sample differ by chance: with 2,000 resamples by a few per cent of the width.
        assert statistics.bootstrap_interval([*ours.T], statistic) == pytest.approx(
            (low, high), abs=0.05 * (high - low)
        )
    pairs = zip(ours.T, others.T, strict=True)
    assert np.mean([statistics.probability_of_improvement(a, b) for a, b in pairs]) == pytest.approx(0.72)


def test_the_quick_bootstrap_of_a_mean_is_that_of_any_statistic() -> None:
    values = np.random.default_rng(4).normal(100, 30, 20)
    low, high = statistics.bootstrap_mean_interval(values) or (0.0, 0.0)
    other = statistics.bootstrap_interval([values], lambda each: float(each.mean()))
    assert other == pytest.approx((low, high), abs=0.05 * (high - low))
    assert statistics.bootstrap_mean_interval(values[:1]) is None
    assert statistics.bootstrap_mean_interval(np.array([3.0, 3.0])) == (3.0, 3.0)


def test_the_probability_of_improvement_counts_pairs() -> None:
    x, y = np.array([1.0, 2, 3]), np.array([2.0, 2, 0])
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y]
    assert statistics.probability_of_improvement(x, y) == pytest.approx(np.mean(pairs))
    assert statistics.probability_of_improvement(x, x) == 0.5


@pytest.mark.parametrize(
    ("values", "baseline", "ratio"),
    [([90.0, 110], [50.0, 50], 2.0), ([-100.0, -100], [-200.0, -200], 2.0), ([1.0, 1], [-1.0, -1], math.nan)],
)
def test_a_ratio_above_one_is_better_for_rewards_and_for_costs(
    values: list[float], baseline: list[float], ratio: float
) -> None:
    assert statistics.ratio_of_means(np.array(values), np.array(baseline)) == pytest.approx(ratio, nan_ok=True)


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says() -> None:
    """Fieller's interval at five seeds, in simulation: 95 % ± three standard errors."""
    generator, hits, trials = np.random.default_rng(1), 0, 600
    for _ in range(trials):
        low, high = statistics.ratio_interval(generator.normal(90, 9, 5), generator.normal(100, 5, 5)) or (9, 0)
        hits += low <= 0.9 <= high
    assert abs(hits / trials - 0.95) < 3 * math.sqrt(0.95 * 0.05 / trials)


def test_equivalence_agrees_with_two_one_sided_tests_of_scipy() -> None:
    """With an absolute margin they are Welch's tests against shifted means; "no" is one of them the other way round."""
    generator = np.random.default_rng(2)
    seen = set()
    for shift in np.linspace(0, 8, 40):
        x, y = generator.normal(100 + shift, 2, 5), generator.normal(100, 3, 6)
        above = scipy.stats.ttest_ind(x + 4, y, equal_var=False, alternative="greater").pvalue
        below = scipy.stats.ttest_ind(x - 4, y, equal_var=False, alternative="less").pvalue
        outside = scipy.stats.ttest_ind(x - 4, y, equal_var=False, alternative="greater").pvalue
        expected = "yes" if max(above, below) < 0.05 else "no" if outside < 0.05 else "undecided"
        assert statistics.equivalence(x, y, 4.0, relative=False).verdict == expected
        seen.add(expected)
    assert seen == {"yes", "no", "undecided"}


def test_relative_equivalence_is_that_of_the_ratios_interval() -> None:
    """It holds where the 90 % interval of the ratio lies in [1 − m, 1 + m]: two ways to say the same."""
    generator = np.random.default_rng(3)
    for mean in (93, 97, 100, 103, 110):
        x, y = generator.normal(mean, 2, 9), generator.normal(100, 2, 9)
        low, high = statistics.ratio_interval(x, y, level=0.9) or (0, 9)
        inside = low > 0.95 and high < 1.05
        assert (statistics.equivalence(x, y, 0.05).verdict == "yes") == inside


def test_the_number_of_further_seeds_would_decide() -> None:
    """Repeating the same values until there are so many more decides, and one fewer does not."""
    x, y = np.array([97.0, 103.0, 101.0]), np.array([100.0, 104.0, 96.0])
    found = statistics.equivalence(x, y, 0.05)
    assert found.verdict == "undecided"
    assert found.more_seeds is not None
    n = 3 + found.more_seeds

    # n values of the same mean and variance: halves above and below.
    def like(values: np.ndarray, n: int) -> np.ndarray:
        shape = np.resize([1.0, -1.0], n) if n % 2 == 0 else np.concatenate([[0.0], np.resize([1.0, -1.0], n - 1)])
        return values.mean() + shape * values.std(ddof=1) / shape.std(ddof=1)

    assert statistics.equivalence(like(x, n), like(y, n), 0.05).verdict == "yes"
    assert statistics.equivalence(like(x, n - 1), like(y, n - 1), 0.05).verdict == "undecided"


def test_arms_that_are_the_same_and_do_not_vary_are_equivalent() -> None:
    assert statistics.equivalence(np.full(3, 500.0), np.full(3, 500.0), 0.05).verdict == "yes"
    assert statistics.equivalence(np.full(3, 400.0), np.full(3, 500.0), 0.05).verdict == "no"


@pytest.mark.parametrize(("values", "baseline"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [-1.0, -2.0])])
def test_what_cannot_be_tested_is_undecided_with_a_reason(values: list[float], baseline: list[float]) -> None:
    found = statistics.equivalence(np.array(values), np.array(baseline), 0.05)
    assert (found.verdict, bool(found.reason)) == ("undecided", True)


def test_the_ratio_of_variances_has_fishers_interval() -> None:
    x, y = np.array([1.0, 5, 9, 4]), np.array([2.0, 3, 4, 5, 6])
    ratio, (low, high) = statistics.variance_ratio(x, y) or (0, (0, 0))
    assert ratio == pytest.approx(x.var(ddof=1) / y.var(ddof=1))
    assert scipy.stats.f.cdf(ratio / low, 3, 4) == pytest.approx(0.975)
    assert scipy.stats.f.cdf(ratio / high, 3, 4) == pytest.approx(0.025)
    assert statistics.variance_ratio(x, np.full(3, 2.0)) is None


def test_steps_to_90_percent_of_the_way() -> None:
    assert statistics.steps_to([(10, 0.0), (20, 50.0), (30, 91.0), (40, 100.0)]) == 30
    assert statistics.steps_to([(10, -200.0), (20, -110.0), (30, -100.0)]) == 20
    assert statistics.steps_to([(10, 5.0), (20, 5.0)]) is None
    assert statistics.steps_to([]) is None


def test_a_geometric_mean_is_of_positive_numbers() -> None:
    assert statistics.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert math.isnan(statistics.geometric_mean([0.5, -1.0]))
    assert statistics.geometric_mean([0.5, 0.0]) == 0.0


def test_a_value_that_is_no_number_is_not_cut_off_as_the_best() -> None:
    """NaN sorts to the upper end, where the interquartile mean cuts."""
    assert math.isnan(statistics.interquartile_mean(np.array([1.0, 2, 3, 4, math.nan])))


def test_equal_values_have_no_variance_whatever_their_mean_rounds_to() -> None:
    same = np.full(3, 0.1)
    assert same.var(ddof=1) > 0, "which is why it is asked"
    assert statistics.variance_ratio(np.array([0.1, 0.2, 0.3]), same) is None
    assert statistics.variance_ratio(same, np.array([0.1, 0.2, 0.3])) == (0.0, (0.0, 0.0))
    assert statistics.ratio_interval(same, same) == (1.0, 1.0)


def test_the_interval_of_a_ratio_reaches_zero_where_resamples_are_all_zero() -> None:
    """Eight of ten runs have no success: a resample has none with probability 0.8¹⁰ = 11 %, and then its ratio is 0."""
    values = np.array([0.0] * 8 + [0.9, 0.8])
    low, _ = statistics.ratio_interval(values, np.full(10, 0.9)) or (1.0, 1.0)
    assert low == 0.0


def test_a_ratio_to_a_mean_that_may_be_of_either_sign_has_no_interval() -> None:
    """The resamples without a ratio are no reason to give the interval of the others; Fieller's has no bounds here."""
    values, baseline = np.arange(12.0), np.arange(12.0) - 5
    assert statistics.ratio_of_means(values, baseline) == 11.0
    assert scipy.stats.ttest_1samp(baseline, 0).pvalue > 0.5
    assert statistics.ratio_interval(values, baseline) is None


def test_an_arm_without_any_success_is_at_nothing_of_the_baseline() -> None:
    none, some = np.zeros(3), np.array([0.5, 0.6, 0.7])
    assert statistics.ratio_of_means(none, some) == 0.0
    assert statistics.ratio_of_means(-some, none) == 0.0, "a cost, where the baseline has none"
    assert math.isnan(statistics.ratio_of_means(some, none))
    assert math.isnan(statistics.ratio_of_means(none, none))
    assert statistics.ratio_interval(none, some) == (0.0, 0.0)
    assert statistics.equivalence(none, some, 0.05).verdict == "no"

"""Histograms against sorted lists, and slices of time."""

from __future__ import annotations

import math
import random

import pytest

from bitrl.plugins.backbones.benchmark.latencies import MOST_SLICES, Latencies, Slices, slope


def test_quantiles_are_those_of_the_sorted_list_within_half_a_per_cent():
    numbers = random.Random(0)
    for count in (1, 7, 1000):
        values = [math.exp(numbers.gauss(-7, 2)) for _ in range(count)]
        found = Latencies()
        for value in values:
            found.add(value)
        for share in (0.5, 0.9, 0.99, 1.0):
            exact = sorted(values)[math.ceil(share * count) - 1]
            assert found.quantile(share) == pytest.approx(exact, rel=0.00501)
        assert found.most == max(values)
        assert found.mean == pytest.approx(sum(values) / count)


def test_a_quantile_is_never_beyond_the_largest_and_of_nothing_it_is_zero():
    found = Latencies()
    assert (found.quantile(0.99), found.mean, found.most) == (0.0, 0.0, 0.0)
    found.add(0.0)
    assert found.quantile(0.5) == 0.0


def test_what_two_counted_is_what_one_would_have():
    one, two, both = Latencies(), Latencies(), Latencies()
    for index in range(100):
        (one if index % 3 else two).add(0.001 * index)
        both.add(0.001 * index)
    one.merge(two)
    assert [one.quantile(share / 10) for share in range(11)] == [both.quantile(share / 10) for share in range(11)]
    assert (one.count, one.most) == (both.count, both.most)


def test_a_day_is_cut_into_as_many_slices_as_a_minute_and_nothing_is_lost():
    slices = Slices()
    for second in range(0, 86_400, 10):
        slices.at(second).latencies.add(0.001)
        slices.at(second).rss = second
    found = slices.all()
    assert MOST_SLICES / 2 <= len(found) <= MOST_SLICES
    assert sum(each.latencies.count for _, each in found) == 8640
    assert found[-1][1].rss == 86_390
    assert all(when == (index + 0.5) * slices.seconds for index, (when, _) in enumerate(found))
    assert slices.seconds * MOST_SLICES >= 86_400


def test_drift_is_of_the_first_quarter_and_the_last():
    slices = Slices()
    for index in range(32):
        now = slices.at(index * slices.seconds)
        now.rss = 1000 + 50 * index
        for _ in range(100):
            now.latencies.add(0.001 if index < 8 else 0.004 if index < 24 else 0.002)
    found = slices.drift()
    assert found["p99_first"] == pytest.approx(0.001, rel=0.006)
    assert found["p99_last"] == pytest.approx(0.002, rel=0.006)
    assert found["rss_per_second"] == pytest.approx(50 / slices.seconds)


def test_too_few_slices_have_no_drift_and_a_point_no_slope():
    slices = Slices()
    slices.at(0.0).latencies.add(1.0)
    assert slices.drift() is None
    assert slope([(3.0, 5)]) == 0.0
    assert slope([(0.0, 1), (1.0, 3), (2.0, 2)]) == pytest.approx(0.5)

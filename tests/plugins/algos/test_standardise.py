"""Standardisation by one rollout, and by all so far."""

import numpy as np
import pytest

from bitrl.plugins.algos.standardise import Standardisation

ROLLOUTS = [
    np.random.default_rng(seed).normal([seed, 100, 0], [1, 0.1 + seed, 0], (33, 4, 3)).astype(np.float32)
    for seed in range(5)
]


def test_rollout_by_rollout_it_comes_to_the_moments_of_all():
    scale = Standardisation(3)
    scale.fit(ROLLOUTS[0])
    for before, rollout in enumerate(ROLLOUTS[1:], start=1):
        scale.update(rollout, before)
    together = np.concatenate(ROLLOUTS).reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(scale.mean, together.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale.std, together.std(axis=0), rtol=1e-4, atol=2e-6)
    assert scale.mean.dtype == scale.std.dtype == np.float32
    standard = scale(together.astype(np.float32))
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(standard.std(axis=0)[:2], 1, rtol=2e-3)


def test_what_is_not_to_be_standardised_is_left_alone():
    scale = Standardisation(3, active=False)
    scale.fit(ROLLOUTS[0])
    np.testing.assert_array_equal(scale(ROLLOUTS[1]), ROLLOUTS[1])


def test_the_gradient_goes_back_through_it_but_where_it_is_clipped():
    scale = Standardisation(2)
    scale.mean, scale.std = np.float32([1, 0]), np.float32([2, 0.5])
    features = np.float32([[1, 0], [3, 5.1], [-20, -5.1]])  # −10.5 and ±10.2 deviations
    by_features = scale.backward(np.ones((3, 2), np.float32), features)
    np.testing.assert_array_equal(by_features, [[0.5, 2], [0.5, 0], [0, 0]])
    assert Standardisation(2, active=False).backward(features, features) is features


@pytest.mark.parametrize("active", [False, True])
def test_features_of_any_order_in_memory_are_taken(active):
    scale, features = Standardisation(3, active), np.asfortranarray(ROLLOUTS[0][0])
    assert not features.flags.c_contiguous
    assert scale(features).flags.c_contiguous
    np.testing.assert_array_equal(scale(features), scale(np.ascontiguousarray(features)))


def test_many_features_are_taken_in_parts_with_the_same_bits():
    features = np.random.default_rng(0).normal(3, 2, (60, 2, 1000)).astype(np.float32)
    scale, flat = Standardisation(1000), features.reshape(-1, 1000)
    scale.fit(features)
    np.testing.assert_array_equal(scale.mean, flat.mean(axis=0))
    np.testing.assert_array_equal(scale.std, flat.std(axis=0) + 1e-6)

"""Reward scaling: a hand-worked case, Gymnasium's own wrapper, and that only learning sees it."""

import attrs
import gymnasium
import numpy as np
import pytest

from bitrl.core.environments.collector import Rollout
from bitrl.plugins.algos.reward_scale import RewardScale


def rollout(rewards, terminated=(), truncated=(), resetting=()):
    """Steps [T, n] with these rewards; the others are the (t, i) where it holds."""
    rewards = np.array(rewards, np.float32)
    flags = {}
    for name, where in {"terminated": terminated, "truncated": truncated, "resetting": resetting}.items():
        flags[name] = np.zeros(rewards.shape, bool)
        for step in where:
            flags[name][step] = True
    nothing = np.zeros(0)
    return Rollout(
        **{field.name: nothing for field in attrs.fields(Rollout)}
        | {"rewards": rewards, "terminated": flags["terminated"], "truncated": flags["truncated"]}
        | {"valid": ~flags["resetting"]}
    )


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_a_hand_worked_case(end):
    """γ = ½, rewards of 1, an episode that ends with its third: the sums are 1, 1½, 1¾, then 1 again.

    Their mean is 21/16 and their variance 27/256.
    """
    scale = RewardScale(1, 0.5)
    scaled = scale(rollout([[1], [1], [1], [1]], **{end: [(2, 0)]}))
    count, mean, variance = scale.moments
    assert count == pytest.approx(4.0001, rel=1e-9)
    assert (mean, variance) == pytest.approx((21 / 16, 27 / 256), rel=1e-3)  # up to what they begin with
    np.testing.assert_allclose(scaled.rewards, np.sqrt(256 / 27), rtol=1e-3)
    assert scaled.rewards.dtype == np.float32
    assert scale.returns.tolist() == [1]


def test_a_step_that_only_resets_counts_for_nothing():
    steps = [[1], [2], [0], [1]]
    with_reset, without = RewardScale(1, 0.9), RewardScale(1, 0.9)
    with_reset(rollout(steps, terminated=[(1, 0)], resetting=[(2, 0)]))
    without(rollout(steps[:2] + steps[3:], terminated=[(1, 0)]))
    np.testing.assert_array_equal(with_reset.moments, without.moments)
    np.testing.assert_array_equal(with_reset.returns, without.returns)
    with_reset(rollout([[0]], resetting=[(0, 0)]))  # nothing else in a rollout
    np.testing.assert_array_equal(with_reset.moments, without.moments)


def test_rewards_far_out_are_cut():
    scale = RewardScale(1, 0.0)
    rewards = np.zeros((400, 1))
    rewards[100], rewards[200] = 1, -1  # the deviation is √(1/200)
    scaled = scale(rollout(rewards)).rewards
    assert (scaled[100], scaled[200]) == (10, -10)
    assert scaled.sum() == 0


def test_step_by_step_it_is_gymnasiums_wrapper():
    """Where no episode ends: there, Gymnasium forgets the past one step early, or not at all."""
    env = gymnasium.make("Pendulum-v1")
    wrapped = gymnasium.wrappers.NormalizeReward(env, gamma=0.97)
    scale = RewardScale(1, 0.97)
    wrapped.reset(seed=0)
    generator = np.random.default_rng(0)
    raw, theirs, mine = [], [], []
    step = env.step
    env.step = lambda action: raw.append(step(action)) or raw[-1]
    for _ in range(150):
        theirs.append(wrapped.step(generator.uniform(-2, 2, 1).astype(np.float32))[1])
        mine.append(scale(rollout([[raw[-1][1]]])).rewards[0, 0])
    assert np.abs(theirs).max() > 10  # so that the cut shows
    np.testing.assert_allclose(mine, np.clip(theirs, -10, 10), rtol=1e-6)
    rms = wrapped.return_rms
    np.testing.assert_allclose(scale.moments, [rms.count, rms.mean, rms.var], rtol=1e-6)


def test_pieces_of_a_rollout_have_the_moments_of_the_whole():
    generator = np.random.default_rng(0)
    rewards = generator.normal(3, 2, (60, 4)).astype(np.float32)
    ends = [(t, i) for t in range(60) for i in range(4) if generator.random() < 0.1]
    whole, pieces = RewardScale(4, 0.99), RewardScale(4, 0.99)
    whole(rollout(rewards, terminated=ends))
    for start in range(0, 60, 15):
        of_piece = [(t - start, i) for t, i in ends if start <= t < start + 15]
        pieces(rollout(rewards[start : start + 15], terminated=of_piece))
    np.testing.assert_allclose(pieces.moments, whole.moments, rtol=1e-12)
    np.testing.assert_array_equal(pieces.returns, whole.returns)
    # And they are, but for what they begin with, those of the sums by their definition.
    sums, total = [], np.zeros(4)
    for t in range(60):
        total = 0.99 * total + rewards[t]
        sums.append(total.copy())
        total[[i for step, i in ends if step == t]] = 0
    np.testing.assert_allclose(whole.moments[1:], [np.mean(sums), np.var(sums)], rtol=1e-4)

"""Rewards on one scale: divided by the running deviation of the discounted return. Shapes: T steps, n environments.

Knows nothing of policies or values. Evaluation never sees it: returns stay in the environment's own rewards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import numpy as np

from bitrl.core.environments.collector import Rollout

REWARD_LIMIT = 10.0
"""Scaled rewards are cut at plus and minus this."""


class RewardScale:
    """What every step's reward is divided by, as OpenAI Baselines' VecNormalize and Gymnasium's NormalizeReward have
    it: the deviation, over all steps so far, of the discounted sum of an episode's rewards up to a step.

    The steps of a rollout count before its own rewards are divided, all by the same deviation.

    Attributes:
        returns: the discounted sums of the episodes under way, float64 [n].
        moments: how many sums there were, their mean and their variance, float64 [3]. As in Baselines they begin as
            those of a ten-thousandth of a sum with variance 1, so that there is something to divide by.
    """

    def __init__(self, num_envs: int, gamma: float):
        self.gamma = gamma
        self.returns = np.zeros(num_envs)
        self.moments = np.array([1e-4, 0.0, 1.0])

    def __call__(self, rollout: Rollout) -> Rollout:
        """The next rollout → the same with its rewards divided and cut, float32 [T, n]."""
        sums = np.zeros(rollout.rewards.shape)
        over = rollout.terminated | rollout.truncated
        for t, rewards in enumerate(rollout.rewards):
            sums[t] = self.gamma * self.returns + rewards
            self.returns = np.where(over[t], 0.0, sums[t])
        self.add(sums[rollout.valid])
        deviation = math.sqrt(self.moments[2] + 1e-8)
        rewards = (rollout.rewards.astype(np.float64) / deviation).clip(-REWARD_LIMIT, REWARD_LIMIT)
        return attrs.evolve(rollout, rewards=rewards.astype(np.float32))

    def add(self, sums: np.ndarray) -> None:
        """Merge the moments of `sums` [k] into the running ones (Chan et al. 1979)."""
        if not len(sums):
            return
        count, mean, variance = self.moments
        total = count + len(sums)
        shift, share = sums.mean() - mean, len(sums) / total
        variance = (1 - share) * variance + share * sums.var() + share * (1 - share) * shift**2
        self.moments = np.array([total, mean + share * shift, variance])

    def state(self) -> dict[str, np.ndarray]:
        """All that the next call depends on."""
        return {"rewards.returns": self.returns.copy(), "rewards.moments": self.moments.copy()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go back to a `state()`."""
        self.returns, self.moments = state["rewards.returns"].copy(), state["rewards.moments"].copy()

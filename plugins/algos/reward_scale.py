"""Rewards on one scale: divided by the running standard deviation of the discounted return. Shapes: T steps, n
environments.

Knows nothing of policies or values. Evaluation never sees it: returns stay in the environment's own rewards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import numpy as np

from bitrl.core.environments.collector import Rollout

REWARD_LIMIT = 10.0
"""Scaled rewards are clipped at plus and minus this."""


class RewardScale:
    """The divisor of rewards, as in OpenAI Baselines' VecNormalize and Gymnasium's NormalizeReward: the standard
    deviation, over all steps so far, of the discounted sum of an episode's rewards up to a step.

    A rollout's steps are counted first; then all its rewards are divided by the same standard deviation.

    Attributes:
        returns: the discounted sums of the episodes under way, float64 [n].
        moments: count, mean and variance of the sums, float64 [3]. As in Baselines they start at count 1e-4, mean 0 and
            variance 1, so that the divisor is never zero.
    """

    def __init__(self, num_envs: int, gamma: float):
        self.gamma = gamma
        self.returns = np.zeros(num_envs)
        self.moments = np.array([1e-4, 0.0, 1.0])

    def __call__(self, rollout: Rollout) -> Rollout:
        """The next rollout → the same with its rewards divided and clipped, float32 [T, n]."""
        sums = np.zeros(rollout.rewards.shape)
        over = rollout.terminated | rollout.truncated
        for t, rewards in enumerate(rollout.rewards):
            sums[t] = self.gamma * self.returns + rewards
            self.returns = np.where(over[t], 0.0, sums[t])
        self.add(sums[rollout.valid])
        rewards = (rollout.rewards.astype(np.float64) / self.std).clip(-REWARD_LIMIT, REWARD_LIMIT)
        return attrs.evolve(rollout, rewards=rewards.astype(np.float32))

    @property
    def std(self) -> float:
        """What rewards are divided by."""
        return math.sqrt(self.moments[2] + 1e-8)

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
        """Restore a `state()`, or one without the returns of running episodes, which then begin at zero.

        Raises:
            KeyError: the moments are not in `state`.
            ValueError: it is of another number of environments.
        """
        state = {"rewards.returns": np.zeros_like(self.returns), **state}
        for name, own in self.state().items():
            if state[name].shape != own.shape:
                raise ValueError(f"{name}: expected shape {list(own.shape)}, got {list(state[name].shape)}")
        self.returns, self.moments = state["rewards.returns"].copy(), state["rewards.moments"].copy()

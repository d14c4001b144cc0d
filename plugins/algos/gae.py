"""Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16)."""

from __future__ import annotations

import numpy as np

from bitrl.core.environments.collector import Rollout


def next_values(rollout: Rollout, values: np.ndarray, final_values: np.ndarray) -> np.ndarray:
    """The value of the state that each step led to, before any reset: float32 [T, n].

    Args:
        rollout: the steps.
        values: of `rollout.states`, [T + 1, n].
        final_values: of `rollout.final_states`, [m].
    """
    after = values[1:].copy()
    after[rollout.terminated] = 0.0
    after[rollout.final_steps[:, 0], rollout.final_steps[:, 1]] = final_values
    return after


def gae(rollout: Rollout, values: np.ndarray, after: np.ndarray, gamma: float, gae_lambda: float) -> np.ndarray:
    """Advantages float32 [T, n]: A_t = δ_t + γλ·A_{t+1}, δ_t = r_t + γ·V(s'_t) − V(s_t), the sum stopping where an
    episode ends.

    Args:
        rollout: the steps.
        values: V(s_t), [T + 1, n] (the last row is not used).
        after: V(s'_t), [T, n], from `next_values`.
        gamma: discount factor.
        gae_lambda: λ.
    """
    deltas = rollout.rewards + gamma * after - values[:-1]
    continues = ~(rollout.terminated | rollout.truncated)
    advantages: np.ndarray = np.zeros_like(deltas)
    following = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = deltas[t] + gamma * gae_lambda * continues[t] * following
        advantages[t] = following
    return advantages

"""Environments that draw from another generator than `np_random` get a seed for each episode.

`reset()` without a seed shall go on drawing from `np_random`. Many an environment draws from the operating system there
instead (`rng = np.random.default_rng(seed)`), so that its runs can be neither repeated nor resumed.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

EPISODES = 1
"""What the generator of episodes' seeds is seeded with, beside the seed: its numbers are its own."""
LARGEST_SEED = 2**32
"""What every generator takes, NumPy's old one and Python's too; exclusive."""


class SeededEpisodes(gymnasium.Wrapper):
    """Resets with seeds that are drawn from `np_random`, which thus determines each episode."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        episodes = self.unwrapped.np_random if seed is None else np.random.default_rng([seed, EPISODES])
        started = self.env.reset(seed=int(episodes.integers(LARGEST_SEED)) if seed is None else seed, options=options)
        # Not what the environment has made of a seed, if it has: seeds drawn from seeds would soon go round in circles.
        self.unwrapped.np_random = episodes
        return started

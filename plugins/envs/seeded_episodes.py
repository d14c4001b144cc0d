"""Environments that draw from another generator than `np_random` get a seed for each episode.

`reset()` without a seed shall go on drawing from `np_random`. Many an environment draws from the operating system there
instead (`rng = np.random.default_rng(seed)`), so that its runs can be neither repeated nor resumed.
"""

from __future__ import annotations

from typing import Any

import gymnasium

LARGEST_SEED = 2**32
"""What every generator takes, NumPy's old one and Python's too; exclusive."""


class SeededEpisodes(gymnasium.Wrapper):
    """Resets with seeds that are drawn from `np_random`, which thus determines each episode."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        if seed is not None:
            return self.env.reset(seed=seed, options=options)
        generator = self.unwrapped.np_random
        started = self.env.reset(seed=int(generator.integers(LARGEST_SEED)), options=options)
        self.unwrapped.np_random = generator  # seeds that are drawn from seeds would soon go round in circles
        return started

"""Exceptions inside an environment, told in one line: which environment it was, and how to meet it again.

Knows nothing of how environments are stepped or put back; whoever makes some wraps what makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import gymnasium

from bitrl.core.errors import BitrlError, RunFailed


class CrashReporter(gymnasium.Wrapper):
    """Turns whatever `reset` and `step` raise into a RunFailed with the environment's name and number, the seed of the
    last reset that had one, and how many steps the episode had.
    """

    def __init__(self, env: gymnasium.Env, id: str, number: int):
        super().__init__(env)
        self._id, self._number, self._steps = id, number, 0
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            RunFailed: the environment crashed.
        """
        if seed is not None:
            self._seed = seed
        self._steps = 0
        try:
            return self.env.reset(seed=seed, options=options)
        except BitrlError:  # which says by itself what is wrong
            raise
        except Exception as error:
            raise self._crash("in reset()", error) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step.

        Raises:
            RunFailed: the environment crashed.
        """
        self._steps += 1
        try:
            return self.env.step(action)
        except BitrlError:
            raise
        except Exception as error:
            raise self._crash(f"in step {self._steps} of an episode", error) from error

    def _crash(self, where: str, error: Exception) -> RunFailed:
        cause = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        return RunFailed(
            f"environment {self._id} crashed {where}: {cause} (number {self._number} of those side by side, "
            f"seeded with {self._seed}; BITRL_DEBUG=1 shows where)"
        )


def reporting(make: Callable[[], gymnasium.Env], id: str) -> Callable[[], gymnasium.Env]:
    """`make`, for environments that tell of their crashes as the environment `id`, numbered from 0 as they are made."""
    numbers = count()
    return lambda: CrashReporter(make(), id, next(numbers))

"""Exceptions inside an environment, reported in one line: which environment crashed, and how to reproduce it.

Knows nothing of how environments are stepped or restored; whoever makes environments wraps the function.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import gymnasium

from bitrl.core.errors import BitrlError, RunFailed


class CrashReporter(gymnasium.Wrapper):
    """Turns whatever `reset` and `step` raise into a RunFailed with the environment's name and number, the seed of the
    last seeded reset, and the step of the episode.
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
        except BitrlError:  # which already explains itself
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
            f"environment {self._id} crashed {where}: {cause} (parallel environment {self._number}, "
            f"seed {self._seed}; BITRL_DEBUG=1 shows the traceback)"
        )


def reporting(make: Callable[[], gymnasium.Env], id: str) -> Callable[[], gymnasium.Env]:
    """`make` with crash reports that name the environment `id` and its number, counted from 0 in order of creation."""
    numbers = count()
    return lambda: CrashReporter(make(), id, next(numbers))

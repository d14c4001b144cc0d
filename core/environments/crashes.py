"""Exceptions and faults of an environment, reported in one line: which environment it was, and how to reproduce it.

Knows nothing of how environments are stepped or restored; whoever makes environments wraps the function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from bitrl.core.environments import forks
from bitrl.core.errors import BitrlError, RunFailed, cause


class EnvironmentFault(RunFailed):
    """An environment did not keep its contract; the message says what came and what was expected."""


class CrashReporter(gymnasium.Wrapper):
    """Turns whatever `reset` and `step` raise, faults (checked.py) too, into a RunFailed with the environment's name
    and number, the seed of the last seeded reset, and the step of the episode.
    """

    def __init__(self, env: gymnasium.Env, id: str, which: str):
        """`which` says which of the environments of this name it is."""
        super().__init__(env)
        self._id, self._which, self._steps = id, which, 0
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            RunFailed: the environment crashed, or did not keep its contract.
        """
        if seed is not None:
            self._seed = seed
        self._steps = 0
        try:
            with forks.in_one_process(self._id, "in reset()"):
                return self.env.reset(seed=seed, options=options)
        except EnvironmentFault as fault:
            raise self._fault("in reset()", fault) from fault
        except (BitrlError, KeyboardInterrupt):  # which already explains itself; Ctrl-C
            raise
        except BaseException as error:  # sys.exit() too: it would end the run without a word
            raise self._crash("in reset()", error) from error

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step.

        Raises:
            RunFailed: as `reset`.
        """
        self._steps += 1
        before = forks.generation
        try:
            return self.env.step(action)
        except EnvironmentFault as fault:
            raise self._fault(f"in step {self._steps} of an episode", fault) from fault
        except (BitrlError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise self._crash(f"in step {self._steps} of an episode", error) from error
        finally:
            if forks.generation != before:
                forks.end_child(self._id, "in step()")

    def close(self) -> None:
        """Close the environment."""
        with forks.in_one_process(self._id, "in close()"):
            self.env.close()

    def _fault(self, where: str, fault: EnvironmentFault) -> RunFailed:
        return RunFailed(f"environment {self._id}, {where}: {fault} ({self._which}, seed {self._seed})")

    def _crash(self, where: str, error: BaseException) -> RunFailed:
        return RunFailed(
            f"environment {self._id} crashed {where}: {cause(error)} ({self._which}, seed {self._seed}; BITRL_DEBUG=1 "
            "shows the traceback)"
        )


def close_quietly(env: gymnasium.Env | VectorEnv) -> None:
    """Close an environment that was made to be looked at alone, or where something else has failed: a run's own says
    why closing fails.
    """
    try:
        env.close()
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass


def reporting(make: Callable[[], gymnasium.Env], id: str, which: str | None = None) -> Callable[[], gymnasium.Env]:
    """`make` with crash reports that name the environment `id` and say which one it is: by default its number, counted
    from 0 in order of creation.
    """
    numbers = count()

    def reported() -> CrashReporter:
        with making(id):
            env = make()
            return CrashReporter(env, id, which or f"parallel environment {next(numbers)}")

    return reported


@contextmanager
def making(id: str) -> Iterator[None]:
    """Within, what the environment `id` raises while it is made becomes a RunFailed that names it."""
    try:
        with forks.in_one_process(id, "when it was made"):
            yield
    except EnvironmentFault as fault:  # seen before its first reset
        raise RunFailed(f"environment {id}: {fault}") from fault
    except (
        BitrlError,
        KeyboardInterrupt,
        ModuleNotFoundError,
        MemoryError,
    ):  # of which the cause and a remedy are said
        raise
    except BaseException as error:
        raise RunFailed(
            f"environment {id} cannot be made: {cause(error)} (BITRL_DEBUG=1 shows the traceback)"
        ) from error

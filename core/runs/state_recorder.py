"""States that an agent visited, saved to a file: to fit a codebook or a probe on.

The file is safetensors with one array, "states": float64 [n, k], the numbers of n observations in the order of the
environment's fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import gymnasium
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bitrl.core.acting.admissible import OBSERVATION, splits
from bitrl.core.acting.history import COUNT
from bitrl.core.acting.nested import Path as PartPath
from bitrl.core.acting.nested import flat_one
from bitrl.core.environments.wrapped_environment import WrappedEnvironment
from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically
from bitrl.core.runs.parts import Parts
from bitrl.core.wording import program, setting


class Recorder(gymnasium.Wrapper):
    """Adds the numbers of every observation to a list."""

    def __init__(self, env: gymnasium.Env, visited: list[np.ndarray], parts: Sequence[PartPath]):
        """`parts` are those of the environment's ObservationSpec."""
        super().__init__(env)
        self._visited, self._parts = visited, parts

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._visited.append(numbers_of(observation, self._parts))
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        observation, *rest = self.env.step(action)
        self._visited.append(numbers_of(observation, self._parts))
        return observation, *rest


def numbers_of(observation: Any, parts: Sequence[PartPath] = ()) -> np.ndarray:
    """The numbers of one observation, float64 [k]: of its newest state, without texts and admissible actions."""
    if isinstance(observation, Mapping) and splits(tuple(observation)):
        observation = observation[OBSERVATION]
    if isinstance(observation, Mapping) and COUNT in observation and str(len(observation) - 2) in observation:
        observation = observation[str(len(observation) - 2)]
    if parts:
        observation = flat_one(observation, parts)
    if isinstance(observation, Mapping):
        observation = observation["numbers"]
    return np.array(observation, np.float64).reshape(-1)


def record(parts: Parts, path: Path) -> tuple[Parts, list[np.ndarray]]:
    """The same parts with an environment that is recorded, and the list of states to write to `path`.

    Raises:
        UsageError: its observations contain no numbers, or the file could not be written.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{setting('states')} {path}: is a folder, or its folder does not exist: name another file")
    spec = parts.environment.observation_spec()
    if not spec.fields:
        raise UsageError(f"{setting('states')}: the observations of {parts.environment.id} contain no numbers to save")
    visited: list[np.ndarray] = []
    return attrs.evolve(
        parts, environment=WrappedEnvironment(parts.environment, lambda env: Recorder(env, visited, spec.parts))
    ), visited


def write_states(path: Path, visited: list[np.ndarray]) -> None:
    """Write states, each [k], to a file. Raises RunFailed if it cannot be written."""
    write_atomically(path, save({"states": np.stack(visited)}), f"name another file with {setting('states')}")


def read_states(path: Path) -> np.ndarray:
    """States float64 [n, k] from a file.

    Raises:
        UsageError: no such file, or not a file of states.
    """
    try:
        states = load(path.read_bytes())["states"]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (SafetensorError, KeyError, ValueError):
        raise UsageError(f"{path}: not a file of states: make one with {program()} eval RUN --states FILE") from None
    if states.ndim != 2 or states.dtype.kind != "f" or not states.size or not np.isfinite(states).all():
        raise UsageError(
            f"{path}: expected a table of finite numbers: make the file again with {program()} eval RUN --states FILE"
        )
    return states.astype(np.float64)

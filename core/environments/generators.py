"""An environment's random generator as plain data, and back: what replaying an episode starts from (replay.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.environments.crashes import EnvironmentFault

BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
"""NumPy's own, by the names that their states give."""


def generator_state(env: gymnasium.Env) -> dict[str, Any]:
    """The state of an environment's `np_random`, as plain data.

    Raises:
        EnvironmentFault: it is none of NumPy's own generators.
    """
    generator: Any = env.np_random
    if not isinstance(generator, np.random.Generator) or type(generator.bit_generator).__name__ not in BIT_GENERATORS:
        kind = type(getattr(generator, "bit_generator", generator))
        raise EnvironmentFault(
            f"its np_random is a {kind.__module__}.{kind.__qualname__}, whose state cannot be saved for resuming: "
            "expected a numpy.random.Generator, as super().reset(seed=seed) makes it"
        )
    plain: dict[str, Any] = _plain(generator.bit_generator.state)
    return plain


def generator_of(state: Mapping[str, Any]) -> np.random.Generator:
    """The generator of a `generator_state`."""
    bit_generator = getattr(np.random, state["bit_generator"])()
    bit_generator.state = _like(bit_generator.state, state)
    return np.random.Generator(bit_generator)


def _plain(state: Any) -> Any:
    """A generator's state with lists for its arrays."""
    if isinstance(state, Mapping):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def _like(example: Any, state: Any) -> Any:
    """A `_plain` state with the arrays of `example`, which is one of the same generator."""
    if isinstance(example, Mapping):
        return {name: _like(value, state[name]) for name, value in example.items()}
    return np.array(state, example.dtype) if isinstance(example, np.ndarray) else state

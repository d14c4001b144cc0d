"""Action spaces of several factors as arrays (acting/factors.py)."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from bitrl.core.acting.factors import KINDS, FactoredActions
from bitrl.core.environments.crashes import EnvironmentFault
from bitrl.core.environments.observations import as_array
from bitrl.core.environments.spaces import check_parts, parts_of, place_of

FACTORED = (MultiDiscrete, MultiBinary, Dict, Tuple)
"""The spaces whose actions have several factors; those of Discrete and Box have one."""


def factored_actions(space: gymnasium.Space[Any]) -> FactoredActions:
    """A space of actions of one or several factors, as arrays.

    Raises:
        EnvironmentFault: it is or holds something else than numbers to choose (a Text), or nothing.
    """
    check_parts(space, "action_space")
    kinds: list[int] = []
    low, high = _bounds(space, "action_space", kinds)
    return FactoredActions(as_array(space, low)[None], as_array(space, high)[None], np.array(kinds, np.int8))


def _bounds(space: gymnasium.Space[Any], place: str, kinds: list[int]) -> tuple[Any, Any]:
    """The action with the smallest and the one with the largest numbers; adds the kinds of the factors to `kinds`."""
    parts = parts_of(space)
    if parts is not None:
        bounds = [_bounds(part, place_of(space, place, name), kinds) for name, part in parts]
        lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
        if isinstance(space, Dict):
            names = [name for name, _ in parts]
            return dict(zip(names, lows, strict=True)), dict(zip(names, highs, strict=True))
        return tuple(lows), tuple(highs)
    kind = next((each for each in KINDS if isinstance(space, getattr(gymnasium.spaces, each))), None)
    low: Any
    high: Any
    if isinstance(space, Box):
        low, high = space.low, space.high
    elif isinstance(space, Discrete):
        low, high = space.start, space.start + space.n - 1
    elif isinstance(space, MultiDiscrete):
        low, high = space.start, (space.start + space.nvec - 1).astype(space.dtype)
    elif isinstance(space, MultiBinary):
        low, high = np.zeros(space.shape, space.dtype), np.ones(space.shape, space.dtype)
    else:
        alone = ": a text stands alone" if isinstance(space, Text) else ""
        raise EnvironmentFault(
            f"its {place} is a {type(space).__name__} space: actions of several parts are made of {', '.join(KINDS)}, "
            f"Dict and Tuple{alone}"
        )
    if not np.size(low):
        raise EnvironmentFault(f"its {place} is {space}, which holds no numbers: there is nothing to learn")
    assert kind is not None
    kinds.append(KINDS.index(kind))
    return low, high

"""An algorithm's actions, checked before they reach an environment, so that the algorithm is blamed and not the
environment that crashes on them. Shapes: n environments.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Text

from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.environments.checked import briefly
from bitrl.core.errors import RunFailed


def checked_actions(who: str, space: gymnasium.Space[Any], actions: Any, count: int) -> Any:
    """The actions of n = `count` environments, as these are stepped with: numbers as [n, ...] of the space's dtype.

    Args:
        who: names the algorithm.
        space: that of one action: Discrete, Box or Text; actions of others are returned unchanged.
        actions: [n, ...].
        count: n.

    Raises:
        RunFailed: one is not in the space; what came and what was expected.
    """
    if isinstance(space, Text):
        texts = np.asarray(actions, object)
        if texts.shape != (count,) or not all(isinstance(text, str) for text in texts):
            raise RunFailed(f"{who} chose {briefly(actions)}: expected {count} strings")
        return actions
    if not isinstance(space, (Discrete, Box)):
        return actions
    found, shape = np.asarray(actions), (count, *(space.shape or ()))
    kinds = {"f": "fiu", "b": "b"}.get(np.dtype(space.dtype).kind, "iu")
    if found.shape != shape or found.dtype.kind not in kinds:
        words = {"f": "numbers", "b": "booleans"}.get(np.dtype(space.dtype).kind, "integers")
        raise RunFailed(
            f"{who} chose actions of shape {found.shape} and dtype {found.dtype}: expected {words} of shape {shape}, "
            f"for {count} environments with {briefly(space)}"
        )
    if isinstance(space, Discrete):
        low, high = space.start, space.start + space.n - 1
        if found.min() >= low and found.max() <= high:
            return found
    else:
        low, high = space.low, space.high
        if (found >= low).all() and (found <= high).all():
            with np.errstate(over="ignore"):
                sent = found.astype(space.dtype, copy=False)
            if np.isfinite(sent).all():
                return sent
            raise RunFailed(f"{who} chose {briefly(found)} as actions of {briefly(space)}: expected finite numbers")
    where = int(np.argmax(~((found >= low) & (found <= high)).reshape(count, -1).all(axis=1)))
    raise RunFailed(f"{who} chose the action {briefly(found[where])}, which is not in {briefly(space)}")


def check_admissible(
    who: str, space: gymnasium.Space[Any], actions: np.ndarray, admissible: AdmissibleActions | None
) -> None:
    """Raise RunFailed if one of the actions [n] of a Discrete space is not among the admissible ones of its state."""
    if admissible is None or not isinstance(space, Discrete):
        return
    places = actions - space.start
    inside = places < admissible.mask.shape[1]
    allowed = admissible.mask[np.arange(len(places)), np.where(inside, places, 0)] & inside
    if not allowed.all():
        where = int(np.argmin(allowed))
        raise RunFailed(
            f"{who} chose the action {actions[where]}, which its state does not admit: choose by states.admissible"
        )

"""An algorithm's actions, checked before they reach an environment, so that the algorithm is blamed and not the
environment that crashes on them. Shapes: n environments.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.acting.plain_observations import as_plain
from bitrl.core.environments.action_spaces import FACTORED, factored_actions
from bitrl.core.environments.checked import briefly
from bitrl.core.environments.observations import dtype_of
from bitrl.core.environments.spaces import parts_of, values_in
from bitrl.core.errors import RunFailed


def checked_actions(who: str, space: gymnasium.Space[Any], actions: Any, count: int) -> Any:
    """The actions of n = `count` environments, as these are stepped with: numbers as [n, ...] of the space's dtype.

    Args:
        who: names the algorithm.
        space: that of one action; actions of spaces that bitrl does not know are returned unchanged.
        actions: [n, ...]; where they have several parts, records [n] (acting/nested.py), or each as the space has it.
        count: n.

    Raises:
        RunFailed: one is not in the space; what came and what was expected.
    """
    if isinstance(space, Text):
        texts = np.asarray(actions, object)
        if texts.shape != (count,) or not all(isinstance(text, str) for text in texts):
            raise RunFailed(f"{who} chose {briefly(actions)}: expected {count} strings")
        return actions
    if isinstance(space, (Dict, Tuple)):
        return _checked_records(who, space, actions, count)
    if not isinstance(space, (Discrete, Box, MultiDiscrete, MultiBinary)):
        return actions
    found, shape = np.asarray(actions), (count, *(space.shape or ()))
    kinds = "biu" if isinstance(space, MultiBinary) else {"f": "fiu", "b": "b"}.get(np.dtype(space.dtype).kind, "iu")
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
    elif isinstance(space, (MultiDiscrete, MultiBinary)):
        low, high = (space.start, space.start + space.nvec - 1) if isinstance(space, MultiDiscrete) else (0, 1)
        if (found >= low).all() and (found <= high).all():
            return found.astype(space.dtype, copy=False)
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


def _checked_records(who: str, space: gymnasium.Space[Any], actions: Any, count: int) -> np.ndarray:
    """Actions of several parts as records [n] of the space's dtypes, each part checked as an action of its own."""
    parts, sent = parts_of(space) or [], np.empty(count, dtype_of(space))
    columns: list[Any] = []
    try:
        if isinstance(actions, np.ndarray) and actions.dtype.names is not None:
            columns = [actions[name] for name, _ in parts]
        else:
            columns = [*zip(*(values_in(space, each) for each in actions), strict=True)]
    except (KeyError, ValueError, TypeError, IndexError):
        pass
    if len(columns) != len(parts):
        raise RunFailed(
            f"{who} chose {briefly(actions)}: expected {count} actions of {briefly(space)}, as records or one by one"
        )
    for (name, part), column in zip(parts, columns, strict=True):
        sent[name] = checked_actions(f'{who.removesuffix(",")}, in the part "{name}",', part, column, count)
    return sent


def check_admissible(
    who: str, space: gymnasium.Space[Any], actions: np.ndarray, admissible: AdmissibleActions | None
) -> None:
    """Raise RunFailed if one of the actions [n] is not among the admissible ones of its state."""
    if admissible is None or not isinstance(space, (Discrete, *FACTORED)):
        return
    found = admitted(space, actions, admissible.mask)
    if not found.all():
        which = briefly(as_plain(actions[int(np.argmin(found))]))
        raise RunFailed(f"{who} chose the action {which}, which its state does not admit: choose by states.admissible")


def admitted(space: gymnasium.Space[Any], actions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Which of the actions [n, ...] a mask [n, k] admits (acting/admissible.py), bool [n]."""
    if not isinstance(space, Discrete):
        return factored_actions(space).admitted(actions, mask)
    places = actions - space.start
    inside = (places >= 0) & (places < mask.shape[1])
    found: np.ndarray = mask[np.arange(len(places)), np.where(inside, places, 0)] & inside
    return found

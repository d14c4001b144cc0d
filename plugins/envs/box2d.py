"""Box2D's worlds are made anew for each episode, so that an episode does not depend on those before it.

Gymnasium's BipedalWalker keeps one world, which remembers in what order bodies came and went: an episode that is
replayed in a new environment then takes another course. LunarLander makes a new world itself (Gymnasium's issue 728).
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium

KEEPS_ITS_WORLD = ("gymnasium.envs.box2d.bipedal_walker", "BipedalWalker")


def keeps_its_world(env: gymnasium.Env) -> bool:
    """Whether the environment resets within one world."""
    module, name = KEEPS_ITS_WORLD
    kind: Any = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(env.unwrapped, kind)


class NewWorlds(gymnasium.Wrapper):
    """An environment that `keeps_its_world`, whose episodes each begin in a world of their own."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in a new world."""
        walker: Any = self.unwrapped
        walker._destroy()
        walker.world = type(walker.world)(gravity=walker.world.gravity)
        return self.env.reset(seed=seed, options=options)

"""MiniGrid environments, BabyAI among them, with observations made of arrays and a mission in words.

Knows what must be adapted in MiniGrid: missions that are not in a `Text` space, success reported only through the
reward, notices printed on stdout. How an observation is written down is the serializer's (`grid`) to know.
"""

from __future__ import annotations

import contextlib
import io
import string
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.wording import pip

LONGEST_MISSION = 400
"""In characters; a mission of four clauses (BabyAI-BossLevel) has about 200."""


class BabyAI(gymnasium.Wrapper):
    """A MiniGrid environment.

    Its observation is the parts "image" (uint8 [7, 7, 3]: object, colour and state of each cell in view, by column and
    row; the agent stands in column 3 of the last row, whose cell shows what it carries), "direction" (0 east, 1 south,
    2 west, 3 north) and "mission" (a string). The `info` of an episode's last step has "success".
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        parts = env.observation_space
        assert isinstance(parts, gymnasium.spaces.Dict)
        mission = gymnasium.spaces.Text(LONGEST_MISSION, charset=string.ascii_lowercase + string.digits + " ,.'")
        self.observation_space = gymnasium.spaces.Dict(
            {"image": parts["image"], "direction": parts["direction"], "mission": mission}
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; what MiniGrid prints while it looks for a solvable layout is dropped."""
        with contextlib.redirect_stdout(io.StringIO()):
            observation, info = self.env.reset(seed=seed, options=options)
        return self._parts(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step. An episode that terminates with a reward is a success."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info["success"] = bool(terminated and float(reward) > 0)
        return self._parts(observation), float(reward), terminated, truncated, info

    @staticmethod
    def _parts(observation: dict[str, Any]) -> dict[str, Any]:
        direction = np.int64(observation["direction"])
        return {"image": observation["image"], "direction": direction, "mission": observation["mission"].lower()}


def is_minigrid(id: str) -> bool:
    """Whether a Gymnasium id is one of MiniGrid's."""
    return id.rpartition(":")[2].startswith(("BabyAI-", "MiniGrid-"))


def spec(id: str) -> ObservationSpec:
    """The observation spec that the serializer `grid` reads."""
    return ObservationSpec(id, texts=("mission",), grid=True)


def make(id: str, render_mode: str | None = None) -> gymnasium.Env:
    """A BabyAI or MiniGrid environment by its Gymnasium id.

    Raises:
        UsageError: MiniGrid is not installed, or has no such id.
    """
    try:
        import minigrid  # noqa: F401 (registers its ids)
    except ImportError as error:
        raise UsageError(f"environment {id} needs MiniGrid: " + pip("install 'bitrl[babyai]'")) from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return BabyAI(gymnasium.make(id, render_mode=render_mode))
    except gymnasium.error.Error as error:
        raise UsageError(f"environment {id} cannot be made: {' '.join(str(error).split())}") from error

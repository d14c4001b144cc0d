"""Three held-out environments: no training text holds their states, the words of their fields or their units.

They stand for what users bring. A model's card says how well it reads them.
"""

from __future__ import annotations

import gymnasium
import numpy as np

from bitrl.core.environments.environment import Environment
from bitrl.core.interfaces import Field, ObservationSpec

DEGREES = 57.29578

_FIELDS: dict[str, tuple[tuple[Field, float], ...]] = {
    # Field and factor: a turn in degrees, a way in centimetres.
    "Pendulum-v1": (
        (Field("bob_across", -1.0, 1.0), 1.0),
        (Field("bob_above", -1.0, 1.0), 1.0),
        (Field("whirl", -460.0, 460.0, "degrees/s"), DEGREES),
    ),
    "Swimmer-v5": (
        (Field("snout_swing", -120.0, 120.0, "degrees"), DEGREES),
        (Field("neck_bend", -110.0, 110.0, "degrees"), DEGREES),
        (Field("tail_bend", -110.0, 110.0, "degrees"), DEGREES),
        (Field("drift_ahead", -250.0, 250.0, "cm/s"), 100.0),
        (Field("drift_aside", -300.0, 300.0, "cm/s"), 100.0),
        (Field("snout_turning", -4.0, 4.0, "rad/s"), 1.0),
        (Field("neck_turning", -6.0, 6.0, "rad/s"), 1.0),
        (Field("tail_turning", -6.0, 6.0, "rad/s"), 1.0),
    ),
    "InvertedDoublePendulum-v5": (
        (Field("trolley_place", -1.0, 1.0, "m"), 1.0),
        (Field("sine_first", -1.0, 1.0), 1.0),
        (Field("sine_second", -1.0, 1.0), 1.0),
        (Field("cosine_first", -1.0, 1.0), 1.0),
        (Field("cosine_second", -1.0, 1.0), 1.0),
        (Field("trolley_run", -6.0, 6.0, "m/s"), 1.0),
        (Field("swing_first", -10.0, 10.0, "rad/s"), 1.0),
        (Field("swing_second", -10.0, 10.0, "rad/s"), 1.0),
        (Field("thrust", -1.0, 1.0, "N"), 1.0),
    ),
}

UNSEEN = tuple(_FIELDS)


class Unseen(Environment):
    """A Gymnasium environment of UNSEEN whose numbers have names and units of our own."""

    def __init__(self, id: str):
        super().__init__(None, id)

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """The environment, its observations in the units of `observation_spec`."""
        factors = np.array([factor for _, factor in _FIELDS[self.id]])
        env = gymnasium.make(self.id, render_mode=render_mode)
        return gymnasium.wrappers.TransformObservation(env, lambda observation: observation * factors, None)

    def observation_spec(self) -> ObservationSpec:
        """Names, bounds and units."""
        return ObservationSpec(f"{self.id} in other words", tuple(field for field, _ in _FIELDS[self.id]))

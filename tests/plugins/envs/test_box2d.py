"""Gymnasium's Box2D tasks run as any id does (extra box2d)."""

import numpy as np
import pytest

from bitrl.core.config import resolve
from bitrl.core.environments.random_play import observations_of
from bitrl.core.runs.parts import build

pytest.importorskip("Box2D")


@pytest.mark.parametrize(
    ("env", "numbers"), [("LunarLander-v3", 8), ("LunarLanderContinuous-v3", 8), ("BipedalWalker-v3", 24)]
)
def test_states_are_written_and_read(env, numbers):
    parts = build(resolve({"run": {"env": env}, "backbone": {"layers": 1, "pooling": "field", "projection": 64}}))
    states = parts.reader(observations_of(parts.environment, 30))
    assert {len(text.split()) for text in states.texts} == {numbers}
    assert states.features.shape == (30, 64)
    assert len(np.unique(states.features, axis=0)) == 30

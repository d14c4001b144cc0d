"""What actions are called is what they do."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from bitrl.core.environments.loading import load_environment
from bitrl.plugins.envs.smarthome import ROOMS


@pytest.mark.parametrize(
    ("id", "moved", "ways"),
    [
        ("CartPole-v1", 1, {"push left": -1, "push right": 1}),
        ("MountainCar-v0", 1, {"push left": -1, "no push": 0, "push right": 1}),
        ("Acrobot-v1", 5, {"torque -1": -1, "no torque": 0, "torque +1": 1}),
    ],
)
def test_in_classic_control_they_say_which_way_it_moves(id, moved, ways):
    """The velocity after a step at rest, beside the others'."""
    after = []
    for action in range(len(ways)):
        env = gymnasium.make(id).unwrapped
        env.reset(seed=0)
        env.state = np.zeros(env.observation_space.shape[0] if id != "Acrobot-v1" else 4)
        after.append(float(env.step(action)[0][moved]))
    names = load_environment(id).action_names()
    assert sorted(names, key=lambda name: after[names.index(name)]) == sorted(ways, key=ways.__getitem__)


def test_in_minigrid_they_are_its_own():
    actions = pytest.importorskip("minigrid.core.actions").Actions
    names = load_environment("BabyAI-GoToRedBall-v0").action_names()
    ours = {"left": "turn left", "right": "turn right", "forward": "go forward", "pickup": "pick up"}
    assert names == tuple(ours.get(action.name, action.name) for action in actions)


def test_on_the_joystick_they_are_the_emulators():
    pytest.importorskip("ale_py")
    names = load_environment("MontezumaRevenge").action_names()
    env = load_environment("MontezumaRevenge").make()
    for name, action in zip(names, env.unwrapped.joystick, strict=True):
        parts = {"nothing": ["noop"]}.get(name, name.replace("jump", "fire").split())
        assert sorted("".join(parts)) == sorted(action.name.lower())


def test_in_the_home_they_say_which_lamp():
    environment = load_environment("SmartHome-Light")
    env = environment.make().unwrapped
    for action, name in enumerate(environment.action_names()):
        env.reset(seed=action)
        env.levels[:] = 2
        env.step(action)
        room, _, way = name.partition(" ")
        expected = [2 + {"up": 1, "down": -1}[way] * (each == room) if room in ROOMS else 2 for each in ROOMS]
        assert env.levels.tolist() == expected

"""The environment of an agent in a process of its own: steps, pictures and failures as lines of JSON."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from bitrl.core.acting.plain_observations import plain_action
from bitrl.core.environments.demonstration_process import LARGEST, action_of, png

SPACES = gymnasium.spaces


def answers(*requests: Any) -> tuple[list[Any], int]:
    """What the process answers, and its exit code."""
    command = [sys.executable, "-P", "-m", "bitrl.core.environments.demonstration_process"]
    given = "".join(json.dumps(each) + "\n" for each in requests)
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode


def test_an_episode_is_stepped_and_drawn() -> None:
    actions = [None, *[1] * 30, None]
    found, code = answers({"env": "CartPole-v1", "options": {}}, *({"action": action} for action in actions))
    assert (found[0], code) == ({"ready": True, "actions": ["push left", "push right"]}, 0)
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    expected, _ = env.reset(seed=0)
    over = False
    for action, step in zip(actions[1:], found[1:-1], strict=False):
        assert step["observation"] == pytest.approx(expected.tolist())
        kind, _, data = step["picture"].partition(",")
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert kind == "data:image/png;base64"
        assert np.array_equal(picture, env.render())
        assert step["over"] is over
        if over:
            break
        expected, _, over, _, _ = env.step(action)
    assert over
    assert not found[-1]["over"]


@pytest.mark.parametrize(
    ("first", "error"),
    [
        ({"env": "Nowhere-v1", "options": {}}, "Nowhere"),
        ({"env": "CartPole-v1", "options": {"wind": 3}}, "wind"),
        ({"env": None, "options": {}}, ""),
    ],
)
def test_an_environment_that_cannot_be_made_is_a_line(first: Any, error: str) -> None:
    [found], code = answers(first, {"action": None})
    assert (list(found), error in found["failed"], "\n" in found["failed"], code) == (["failed"], True, False, 0)


def test_an_action_that_is_none_ends_it_with_a_line() -> None:
    found, code = answers({"env": "CartPole-v1", "options": {}}, {"action": None}, {"action": [1, 2]}, {"action": 0})
    assert (len(found), list(found[2]), code) == (3, ["failed"], 0)


@pytest.mark.parametrize(
    "space",
    [
        SPACES.Discrete(3, start=2),
        SPACES.Box(-1, 1, (2, 3), np.float32),
        SPACES.Box(0, 9, (), np.int16),
        SPACES.MultiDiscrete([2, 3]),
        SPACES.MultiBinary((2, 2)),
        SPACES.Tuple([SPACES.Discrete(2), SPACES.Dict({"a": SPACES.MultiBinary(2), "b": SPACES.Box(0, 1, (1,))})]),
        SPACES.Dict({"gear": SPACES.Discrete(3), "arm": SPACES.Tuple([SPACES.Box(0, 1, (2,)), SPACES.Discrete(2)])}),
    ],
    ids=str,
)
def test_actions_come_back_from_json(space: gymnasium.Space[Any]) -> None:
    space.seed(0)
    for _ in range(10):
        action = space.sample()
        back = action_of(space, json.loads(json.dumps(plain_action(action))))
        assert space.contains(back)
        assert plain_action(back) == plain_action(action)


def size(shape: Sequence[int]) -> list[int]:
    step = -(-max(shape[:2]) // LARGEST)
    return [len(range(0, each, step)) for each in shape[:2]]


@given(arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))))
def test_a_picture_is_the_frame(frame: np.ndarray) -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(frame)))), frame)


@pytest.mark.parametrize("shape", [(801, 10, 3), (10, 2500, 3), (1600, 1600, 3)])
def test_large_frames_are_thinned_out(shape: tuple[int, int, int]) -> None:
    assert [*Image.open(io.BytesIO(png(np.zeros(shape, np.uint8)))).size][::-1] == size(shape)
    assert max(size(shape)) <= LARGEST

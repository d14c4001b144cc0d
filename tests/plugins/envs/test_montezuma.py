"""Montezuma's Revenge: what the numbers say is what happens in the game."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

import bitrl
from bitrl.plugins.envs import montezuma
from bitrl.testing import check_environment

pytest.importorskip("ale_py", reason="needs the extra bitrl[atari]")

NOTHING, JUMP, RIGHT, LEFT = 0, 1, 3, 4
NAMES = [field.name for field in montezuma.FIELDS]


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch) -> montezuma.Montezuma:
    """A game whose player stands on the first room's ladder; no action is ever repeated."""
    monkeypatch.setattr(montezuma, "REPEAT_PROBABILITY", 0.0)
    env = montezuma.Montezuma(max_steps=1000)
    env.reset(seed=0)
    for _ in range(10):
        env.step(NOTHING)
    return env


def put(game: montezuma.Montezuma, **bytes: int) -> None:
    """Set bytes of the game's memory."""
    for name, value in bytes.items():
        game.ale.setRAM(getattr(montezuma, name), value)


def play(game: montezuma.Montezuma, action: int, steps: int) -> tuple[dict[str, int], float]:
    """The numbers after so many steps, by name, and the points that were won."""
    points = 0.0
    for _ in range(steps):
        observation, reward, *_ = game.step(action)
        points += reward
    return dict(zip(NAMES, observation.astype(int).tolist(), strict=True)), points


def test_it_conforms() -> None:
    check_environment("MontezumaRevenge", max_steps=20)


def test_the_first_room(game: montezuma.Montezuma) -> None:
    seen, _ = play(game, NOTHING, 1)
    expected: dict[str, Any] = dict.fromkeys(NAMES, 0) | {
        "room": 1, "x": 77, "y": 235, "facing_left": 1, "left_door_locked": 1, "right_door_locked": 1, "skull": 1,
        "thing": 1, "lives": 5,
    }  # fmt: skip
    places = {name: seen[name] for name in ("skull_x", "skull_y", "thing_x", "thing_y")}
    assert seen == expected | places
    screen = game.ale.getScreenRGB().astype(int)
    white = np.argwhere(screen[100:180].min(axis=2) > 200)  # the skull alone is white
    assert abs(white[:, 1].mean() - places["skull_x"]) < 6
    key = np.argwhere((screen[96:115, 10:40] != 0).any(axis=2))[:, 1] + 10
    assert abs(key.mean() - places["thing_x"]) < 6


def test_a_key_is_taken_and_opens_a_door(game: montezuma.Montezuma) -> None:
    put(game, PLAYER_X=14, PLAYER_Y=192)  # below the key
    seen, points = play(game, JUMP, 4)
    assert (seen["jumping"], points) == (1, 100)
    assert (seen["keys"], seen["thing"], seen["thing_x"], seen["thing_y"]) == (1, 0, 0, 0)

    play(game, NOTHING, 10)  # until it has landed
    put(game, PLAYER_X=125, PLAYER_Y=235)  # on the platform before the right door
    seen, points = play(game, RIGHT, 15)
    assert (seen["room"], seen["keys"], points, seen["facing_left"]) == (2, 0, 300, 0)
    assert (seen["left_door_locked"], seen["right_door_locked"], seen["skull"]) == (0, 0, 0)  # it has none
    seen, _ = play(game, LEFT, 20)
    assert (seen["room"], seen["left_door_locked"], seen["right_door_locked"]) == (1, 1, 0)
    assert seen["facing_left"] == 1


def test_without_a_key_a_door_stays_shut(game: montezuma.Montezuma) -> None:
    put(game, PLAYER_X=125, PLAYER_Y=235)
    seen, points = play(game, RIGHT, 15)
    assert (seen["room"], seen["x"], points) == (1, 130, 0)


def test_a_skull_kills_and_is_gone(game: montezuma.Montezuma) -> None:
    put(game, PLAYER_X=77, PLAYER_Y=148)
    seen, _ = play(game, NOTHING, 30)
    assert (seen["lives"], seen["skull"], seen["skull_x"], seen["skull_y"]) == (4, 0, 0, 0)


def test_what_is_carried(game: montezuma.Montezuma) -> None:
    """Each bit of the inventory is one thing that the screen then shows, in one of four shapes."""
    shapes: dict[bytes, set[str]] = {}
    carried = ("keys", "swords", "torch", "hammer")
    for bit in range(8):
        put(game, INVENTORY=1 << bit)
        seen, _ = play(game, NOTHING, 2)
        [name] = [name for name in carried if seen[name]]
        assert seen[name] == 1
        shapes.setdefault(game.ale.getScreenRGB()[25:44, 54:64].tobytes(), set()).add(name)
    assert sorted(map(tuple, shapes.values())) == sorted((name,) for name in carried)
    put(game, INVENTORY=0b0111_1110)
    seen, _ = play(game, NOTHING, 1)
    assert [seen[name] for name in carried] == [4, 2, 0, 0]


def test_random_play_stays_in_the_fields_bounds() -> None:
    env = montezuma.Montezuma(max_steps=400)
    env.action_space.seed(1)
    rows = [env.reset(seed=1)[0]]
    while True:
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        rows.append(observation)
        if terminated or truncated:
            break
    assert (terminated, truncated, len(rows)) in [(True, False, len(rows)), (False, True, 401)]
    for field, numbers in zip(montezuma.FIELDS, np.stack(rows).T, strict=True):
        assert field.low is not None
        assert field.high is not None
        assert field.low <= numbers.min() <= numbers.max() <= field.high, field.name


def test_it_is_the_game_of_gymnasiums_id(game: montezuma.Montezuma) -> None:
    """With no action repeated at random, memory and rewards are those of ALE/MontezumaRevenge-v5."""
    import ale_py

    gymnasium.register_envs(ale_py)
    theirs = gymnasium.make("ALE/MontezumaRevenge-v5", obs_type="ram", repeat_action_probability=0.0)
    assert theirs.action_space == game.action_space
    np.testing.assert_array_equal(montezuma.read(theirs.reset(seed=0)[0]), game.reset(seed=0)[0])
    game.action_space.seed(2)
    for _ in range(150):
        action = game.action_space.sample()
        mine, other = game.step(action), theirs.step(action)
        np.testing.assert_array_equal(mine[0], montezuma.read(other[0]))
        assert mine[1:4] == other[1:4]


def test_an_action_that_is_always_repeated_never_begins(game: montezuma.Montezuma, monkeypatch) -> None:
    monkeypatch.setattr(montezuma, "REPEAT_PROBABILITY", 1.0)
    game.reset(seed=0)
    moved, _ = play(game, LEFT, 12)
    game.reset(seed=0)
    stood, _ = play(game, NOTHING, 12)
    assert moved == stood
    monkeypatch.setattr(montezuma, "REPEAT_PROBABILITY", 0.25)
    walked, _ = play(game, LEFT, 2)
    assert walked["x"] < stood["x"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(bitrl.UsageError, match=r"MontezumaRevenge needs ale-py: pip install 'bitrl\[atari\]'"):
        bitrl.load_environment("MontezumaRevenge").make()

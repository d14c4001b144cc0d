"""The built-in environments: their records. Any other Gymnasium id goes through the record `gymnasium`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from bitrl.core.hookspecs import hookimpl
from bitrl.core.options import above, between, option, options
from bitrl.core.records import EnvironmentRecord

TARGET = "bitrl.plugins.envs.gymnasium:GymnasiumEnvironment"

LONGER_LEARNING = {"algo.clip_coef": 0.2, "algo.epochs": 10}
"""A wider clip and more passes over each rollout than in the BitRL recipe: fewer steps to the same return."""


@options
class CookingOptions:
    """Options of TextWorld's cooking games. The defaults are the difficulty that results are given for."""

    recipe: int = option(2, "ingredients in the recipe", between(1, 5))
    take: int = option(2, "how many of them must be found; the others are carried from the start", between(0, 5))
    cook: bool = option(True, "ingredients must be fried, roasted or grilled")
    cut: bool = option(True, "ingredients must be chopped, sliced or diced")
    open: bool = option(True, "the fridge and doors are closed at first")
    go: Literal[1, 6, 9, 12] = option(1, "rooms")
    drop: bool = option(False, "no more can be carried than the recipe needs")
    max_steps: int = option(50, "commands in an episode, at most", above(0))
    games: int = option(40, "games to learn in; making one takes about 5 s, once", above(0))
    eval_games: int = option(20, "other games, to be judged by", above(0))
    eval_foods: Literal["train", "valid", "test"] = option(
        "train", "what those ask for: train: the same foods and ways to prepare them, valid and test: others"
    )


@hookimpl
def bitrl_environments() -> Iterator[EnvironmentRecord]:
    """Classic control, BabyAI, cooking, a home, and every other Gymnasium id."""
    yield EnvironmentRecord(
        name="CartPole-v1",
        summary="keep a pole upright on a cart (return up to 500)",
        target=TARGET,
    )
    yield EnvironmentRecord(
        name="Acrobot-v1",
        summary="swing a two-link arm above a line (return about -80 at best)",
        target=TARGET,
        defaults=LONGER_LEARNING,
    )
    yield EnvironmentRecord(
        name="MountainCar-v0",
        summary="rock a weak car out of a valley (return about -105 at best)",
        target=TARGET,
        # The reward is the same until the goal is met, which takes dozens of pushes in one direction.
        defaults={"run.steps": 150_000, **LONGER_LEARNING, "algo.noise_hold": 20.0},
    )
    yield EnvironmentRecord(
        name="BabyAI-GoToRedBall-v0",
        summary="find the red ball in a room, as the mission says (extra babyai; other BabyAI and MiniGrid ids alike)",
        target=TARGET,
        defaults={"run.serializer": "grid", "run.steps": 1_000_000},
    )
    yield EnvironmentRecord(
        name="TextWorld-Cooking",
        summary="read a recipe, find, prepare and eat it, by commands in English (extra textworld)",
        target="bitrl.plugins.envs.cooking:TextWorldCooking",
        options=CookingOptions,
        defaults={"run.serializer": "compact", "run.steps": 100_000, "algo.clip_coef": 0.2, "algo.epochs": 10},
    )
    yield EnvironmentRecord(
        name="SmartHome-Light",
        summary="a home's lamps, by a request in plain English (return about 31 at best)",
        target="bitrl.plugins.envs.smarthome:SmartHome",
        defaults={"run.serializer": "compact", "run.steps": 1_000_000},
    )
    yield EnvironmentRecord(
        name="gymnasium",
        summary="any Gymnasium id with Box or Discrete observations and Discrete or Box actions",
        target=TARGET,
    )

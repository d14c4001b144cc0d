"""The built-in environments: their records. Any other Gymnasium id goes through the record `gymnasium`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from bitrl.core.hookspecs import hookimpl
from bitrl.core.options import above, between, option, options
from bitrl.core.records import EnvironmentRecord

TARGET = "bitrl.plugins.envs.gymnasium:GymnasiumEnvironment"

SETTLING = {"algo.clip_coef": 0.2, "algo.epochs": 10, "algo.ent_coef": 0.01, "algo.anneal": True}
"""A wider clip and more passes over each rollout than in the BitRL recipe: fewer steps to the same return. And in the
end a policy that has made up its mind: what is judged is its most probable action.
"""

NEAR = {"algo.gamma": 0.9, "algo.gae_lambda": 0.9}
"""Where what a step is worth shows soon, to look far ahead only adds noise to its advantage."""

MINIGRID = {"run.serializer": "grid", "run.steps": 1_000_000}

MUJOCO = {"run.steps": 1_000_000, "backbone.layers": 2}

TUNED_MUJOCO = {
    "algo.epochs": 10,
    "algo.clip_coef": 0.2,
    "algo.ent_coef": 0.0,
    "algo.anneal": True,
    "algo.log_std_init": -0.7,
    "algo.learning_rate": 1e-4,
    "algo.minibatch_size": 256,
    "algo.normalise_rewards": True,
    "algo.running_standardisation": True,
}
"""PPO's usual settings for MuJoCo's locomotion tasks (Huang et al. 2022, "The 37 Implementation Details of Proximal
Policy Optimization"), with a deviation of 0.5 at the start (Andrychowicz et al. 2021, arXiv 2006.05990). But with
smaller steps on larger minibatches: hundreds of features move a policy farther than a state's few numbers would. With
the usual 3e-4 and 64, an update in HalfCheetah went as far as a KL divergence of 0.1 to 0.8; so it is 0.01 to 0.02.
Numbers come through two blocks nearly as well as through four, at half the price.
"""


@options
class CookingOptions:
    """Options of TextWorld's cooking games. The defaults are the difficulty that results are given for: one ingredient,
    to be cut and cooked in one room, the second of the four levels of Adhikari et al. (2020, arXiv:2002.09127).
    """

    recipe: int = option(1, "ingredients in the recipe", between(1, 5))
    take: int = option(1, "how many of them must be found; the others are carried from the start", between(0, 5))
    cook: bool = option(True, "ingredients must be fried, roasted or grilled")
    cut: bool = option(True, "ingredients must be chopped, sliced or diced")
    open: bool = option(True, "the fridge and doors are closed at first")
    go: Literal[1, 6, 9, 12] = option(1, "rooms")
    drop: bool = option(False, "no more can be carried than the recipe needs")
    max_steps: int = option(50, "commands in an episode, at most", above(0))
    games: int = option(400, "games to learn in; making one takes about a second, once", above(0))
    eval_games: int = option(50, "other games, to be judged by", above(0))
    eval_foods: Literal["train", "valid", "test"] = option(
        "train", "what those ask for: train: the same foods and ways to prepare them, valid and test: others"
    )


@options
class MontezumaOptions:
    """Options of Montezuma's Revenge."""

    max_steps: int = option(
        4500, "steps of four frames in an episode, at most: five minutes of play; the v5 id has 27000", above(0)
    )


@hookimpl
def bitrl_environments() -> Iterator[EnvironmentRecord]:
    """Classic control, locomotion, BabyAI and MiniGrid, cooking, a home, an Atari game, and any other Gymnasium id."""
    yield EnvironmentRecord(
        name="CartPole-v1",
        summary="keep a pole upright on a cart (return up to 500)",
        target=TARGET,
    )
    yield EnvironmentRecord(
        name="Acrobot-v1",
        summary="swing a two-link arm above a line (return about -80 at best)",
        target=TARGET,
        defaults={"run.steps": 200_000},
        tuned={"ppo": SETTLING},
    )
    yield EnvironmentRecord(
        name="MountainCar-v0",
        summary="rock a weak car out of a valley (return about -105 at best)",
        target=TARGET,
        # The reward is the same until the goal is met, which takes dozens of pushes in one direction.
        defaults={"run.steps": 150_000},
        tuned={"ppo": {**SETTLING, "algo.noise_hold": 20.0}},
    )
    for version in ("v5", "v4"):
        for task, summary in (
            ("HalfCheetah", "run forward on two legs; episodes last 1,000 steps"),
            ("Hopper", "hop forward on one leg without falling"),
            ("Walker2d", "walk forward on two legs without falling"),
        ):
            yield EnvironmentRecord(
                name=f"{task}-{version}",
                summary=f"{summary} (extra mujoco)",
                target=TARGET,
                defaults=MUJOCO,
                tuned={"ppo": TUNED_MUJOCO},
            )
    yield EnvironmentRecord(
        name="BabyAI-GoToRedBall-v0",
        summary="find the red ball in a room, as the mission says (extra babyai; other BabyAI and MiniGrid ids alike)",
        target=TARGET,
        defaults={**MINIGRID, "run.steps": 300_000},
        tuned={"ppo": {**SETTLING, **NEAR}},
    )
    yield EnvironmentRecord(
        name="TextWorld-Cooking",
        summary="read a recipe, find, prepare and eat it, by commands in English (extra textworld)",
        target="bitrl.plugins.envs.cooking:TextWorldCooking",
        options=CookingOptions,
        defaults={"run.serializer": "compact", "run.steps": 250_000},
        tuned={"ppo": {**NEAR, **SETTLING}},
    )
    yield EnvironmentRecord(
        name="MiniGrid-DoorKey-8x8-v0",
        summary="find a key, open its door, reach the goal (extra babyai; other sizes: --serializer grid)",
        target=TARGET,
        defaults=MINIGRID,
        tuned={"ppo": SETTLING},
    )
    yield EnvironmentRecord(
        name="MiniGrid-KeyCorridorS3R1-v0",
        summary="find a key, unlock a room, take its ball (extra babyai; harder ids: --serializer grid)",
        target=TARGET,
        defaults=MINIGRID,
        tuned={"ppo": SETTLING},
    )
    yield EnvironmentRecord(
        name="MontezumaRevenge",
        summary="Atari's Montezuma's Revenge by its memory: keys, doors, 24 rooms, few rewards (extra atari)",
        target="bitrl.plugins.envs.montezuma:MontezumaRevenge",
        options=MontezumaOptions,
        # Nothing ends an evaluation's episode early but the player's death, and a good player does not die.
        defaults={"run.serializer": "compact", "run.steps": 1_000_000, "run.eval_episodes": 10},
    )
    yield EnvironmentRecord(
        name="SmartHome-Light",
        summary="a home's lamps, by a request in plain English (return about 31 at best)",
        target="bitrl.plugins.envs.smarthome:SmartHome",
        defaults={"run.serializer": "compact", "run.steps": 300_000},
        tuned={"ppo": {**NEAR, **SETTLING}},
    )
    yield EnvironmentRecord(
        name="gymnasium",
        summary="any Gymnasium id with Box or Discrete observations and Discrete or Box actions",
        target=TARGET,
    )

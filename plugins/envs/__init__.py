"""The built-in environments: their records. Any other Gymnasium id goes through the record `gymnasium`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from bitrl.core.hookspecs import hookimpl
from bitrl.core.options import above, between, option, options
from bitrl.core.records import EnvironmentRecord

TARGET = "bitrl.plugins.envs.gymnasium:GymnasiumEnvironment"

SETTLING = {"algo.clip_coef": 0.2, "algo.epochs": 10, "algo.ent_coef": 0.01, "algo.anneal": True}
"""A wider clip range and more epochs per rollout than in the BitRL recipe: fewer steps to the same return. Annealing
lets the policy settle at the end, since evaluation takes its greedy actions.
"""

SHORT_HORIZON = {"algo.gamma": 0.9, "algo.gae_lambda": 0.9}
"""Short horizons: where an action's effect shows soon, a larger discount only adds noise to the advantages."""

TASKS = {
    "addition": "bitrl.plugins.envs.arithmetic:Addition",
    "sort-digits": "bitrl.plugins.envs.words:SortDigits",
    "reverse-word": "bitrl.plugins.envs.words:ReverseWord",
    "countdown": "bitrl.plugins.envs.countdown:Countdown",
}

PROMPTS = {
    "run.serializer": "prompt",
    "run.backbone": "fp32",
    "run.steps": 20_000,
    "run.num_envs": 64,
    "run.eval_episodes": 200,
}
"""Of tasks for language models, whose steps are completions."""

MINIGRID = {"run.serializer": "grid", "run.steps": 1_000_000}

CLASSIC = {"backbone.layers": 1}
"""The first block holds a state of few numbers as well as all four, at less than half the cost (docs/starter.md)."""

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
Policy Optimization"), with an initial standard deviation of 0.5 (Andrychowicz et al. 2021, arXiv 2006.05990). The
learning rate is lower and minibatches are larger, since hundreds of features move a policy farther than a few state
variables would: with the usual 3e-4 and 64, the KL divergence of an update in HalfCheetah was 0.1 to 0.8; with these it
is 0.01 to 0.02. State variables can be linearly decoded after two blocks nearly as well as after four, at half the
cost.
"""


@options
class GymnasiumOptions:
    """Options of environments with a Gymnasium id that no record knows."""

    seed_episodes: bool | None = option(
        None,
        "reset each episode with a seed of its own, which makes runs exact where reset() without one does not follow "
        "np_random; unset: found out by random play",
    )


@options
class CookingOptions:
    """Options of TextWorld's cooking games. The defaults are the difficulty of the reported results: one ingredient, to
    be cut and cooked in one room, the second of the four levels of Adhikari et al. (2020, arXiv:2002.09127).
    """

    recipe: int = option(1, "ingredients in the recipe", between(1, 5))
    take: int = option(1, "ingredients to find; the others start in the inventory", between(0, 5))
    cook: bool = option(True, "ingredients must be fried, roasted or grilled")
    cut: bool = option(True, "ingredients must be chopped, sliced or diced")
    open: bool = option(True, "the fridge and doors start closed")
    go: Literal[1, 6, 9, 12] = option(1, "rooms")
    drop: bool = option(False, "limit the inventory to what the recipe needs")
    max_steps: int = option(50, "maximum commands per episode", above(0))
    games: int = option(400, "training games; each takes about a second to generate, once", above(0))
    eval_games: int = option(50, "evaluation games, different from the training games", above(0))
    eval_foods: Literal["train", "valid", "test"] = option(
        "train",
        "foods and preparations in evaluation games; train: as in training; valid, test: held out",
    )


@options
class MontezumaOptions:
    """Options of Montezuma's Revenge."""

    max_steps: int = option(
        4500,
        "maximum steps of four frames per episode; 4500: five minutes of play (the v5 id: 27000)",
        above(0),
    )


PARTIAL = "whether an answer that is partly right gets a part of the reward; false: 1 or 0"


@options
class AdditionOptions:
    """Options of addition."""

    digits: int = option(2, "most digits of a number", between(1, 18))
    partial: bool = option(True, PARTIAL)


@options
class SortDigitsOptions:
    """Options of sorting digits."""

    length: int = option(10, "digits to sort", between(2, 100))
    partial: bool = option(True, PARTIAL)


@options
class ReverseWordOptions:
    """Options of writing a word backwards."""

    length: int = option(6, "letters of the word", between(2, 100))
    partial: bool = option(True, PARTIAL)


@options
class CountdownOptions:
    """Options of countdown."""

    numbers: int = option(3, "how many numbers to use", between(2, 6))
    largest: int = option(9, "largest number to use", between(1, 100))
    partial: bool = option(True, PARTIAL)


@options
class QuestionOptions:
    """Options of files of questions."""

    file: str | None = option(
        None,
        'jsonl file, a line {"question": …, "answer": "… #### 42"} for each question; must be set',
        free=True,  # the identity tells one file from another
    )
    eval_file: str | None = option(
        None,
        "jsonl file of questions to evaluate by; unset: a tenth of the file, on which is not trained",
        free=True,
    )


@options
class ReasoningGymOptions:
    """Options of the tasks of reasoning-gym."""

    task: str | None = option(None, "name of the task, such as leg_counting; must be set")
    settings: str = option("{}", 'settings of the task, as JSON: {"max_animals": 5}')
    time_limit: float = option(5.0, "seconds that scoring a completion may take; after that its reward is 0", above(0))


@hookimpl
def bitrl_environments() -> Iterator[EnvironmentRecord]:
    """Classic control, locomotion, BabyAI and MiniGrid, cooking, a home, an Atari game, and any other Gymnasium id."""
    yield EnvironmentRecord(
        name="CartPole-v1",
        summary="keep a pole upright on a cart (return up to 500)",
        target=TARGET,
        defaults=CLASSIC,
    )
    yield EnvironmentRecord(
        name="Acrobot-v1",
        summary="swing a two-link arm above a line (return about -80 at best)",
        target=TARGET,
        defaults={**CLASSIC, "run.steps": 200_000},
        tuned={"ppo": SETTLING},
    )
    yield EnvironmentRecord(
        name="MountainCar-v0",
        summary="rock a weak car out of a valley (return about -105 at best)",
        target=TARGET,
        # The reward is constant until the goal is reached, which takes dozens of pushes in one direction.
        defaults={**CLASSIC, "run.steps": 150_000},
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
        summary="go to the red ball in a room, as the mission says (extra babyai; also other BabyAI, MiniGrid ids)",
        target=TARGET,
        defaults={**MINIGRID, "run.steps": 300_000},
        tuned={"ppo": {**SETTLING, **SHORT_HORIZON}},
    )
    yield EnvironmentRecord(
        name="TextWorld-Cooking",
        summary="find, prepare and eat a recipe's ingredients, by commands in English (extra textworld)",
        target="bitrl.plugins.envs.cooking:TextWorldCooking",
        options=CookingOptions,
        defaults={"run.serializer": "compact", "run.steps": 250_000},
        tuned={"ppo": {**SHORT_HORIZON, **SETTLING}},
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
        summary="Atari's Montezuma's Revenge from RAM state: keys, doors, 24 rooms, sparse rewards (extra atari)",
        target="bitrl.plugins.envs.montezuma:MontezumaRevenge",
        options=MontezumaOptions,
        # Evaluation episodes end early only when the player dies, and a good player does not.
        defaults={"run.serializer": "compact", "run.steps": 1_000_000, "run.eval_episodes": 10},
    )
    yield EnvironmentRecord(
        name="SmartHome-Light",
        summary="control a home's lamps to satisfy a request in plain English (return about 31 at best)",
        target="bitrl.plugins.envs.smarthome:SmartHome",
        defaults={"run.serializer": "compact", "run.steps": 300_000},
        tuned={"ppo": {**SHORT_HORIZON, **SETTLING}},
    )
    for task, summary, own, most_tokens in (
        ("addition", "add two numbers", AdditionOptions, 8),
        ("sort-digits", "sort digits", SortDigitsOptions, 16),
        ("reverse-word", "write a word backwards", ReverseWordOptions, 16),
        ("countdown", "reach a number by arithmetic with given ones", CountdownOptions, 24),
    ):
        yield EnvironmentRecord(
            name=task,
            summary=f"{summary} (prompts for a language model)",
            target=TASKS[task],
            options=own,
            defaults={**PROMPTS, "backbone.model": "starter-tasks-fp16"},
            # For the small model: a large one would forget what it knows.
            tuned={
                algorithm: {"algo.max_tokens": most_tokens, "algo.learning_rate": 3e-4}
                for algorithm in ("grpo", "ppo-lm")
            },
        )
    yield EnvironmentRecord(
        name="questions",
        summary="questions with final answers from a jsonl file such as GSM8K's (prompts for a language model)",
        target="bitrl.plugins.envs.question_files:QuestionFile",
        options=QuestionOptions,
        defaults=PROMPTS,
        tuned={algorithm: {"algo.max_tokens": 256} for algorithm in ("grpo", "ppo-lm")},
    )
    yield EnvironmentRecord(
        name="reasoning-gym",
        summary="a task of reasoning-gym by its name (prompts for a language model; extra tasks)",
        target="bitrl.plugins.envs.reasoning_gym:ReasoningGym",
        options=ReasoningGymOptions,
        defaults=PROMPTS,
        tuned={algorithm: {"algo.max_tokens": 256} for algorithm in ("grpo", "ppo-lm")},
    )
    yield EnvironmentRecord(
        name="gymnasium",
        summary="any Gymnasium id whose states and actions are numbers, choices or texts, also in parts",
        target="bitrl.plugins.envs.gymnasium:AnyGymnasiumEnvironment",
        options=GymnasiumOptions,
        chooser="bitrl.plugins.envs.randomness:choose",
        # Their numbers are called x0, x1 …, or by the keys of a Dict.
        defaults={"backbone.readout": "auto", "run.serializer": "values"},
    )

"""States of the text environments as text, with the facts they hold: to train and to test models that read them.

Every function is deterministic in its `seed`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from bitrl.core.files import write_atomically
from bitrl.plugins.serializers.grid import Grid, blocked, meant, mentions, sightings

BABYAI_IDS = (
    "BabyAI-GoToRedBall-v0",
    "BabyAI-GoToLocal-v0",
    "BabyAI-GoToObj-v0",
    "BabyAI-GoToDoor-v0",
    "BabyAI-PickupDist-v0",
    "BabyAI-OpenDoor-v0",
    "BabyAI-GoTo-v0",
    "BabyAI-Pickup-v0",
    "BabyAI-Open-v0",
    "BabyAI-PutNextLocal-v0",
    "BabyAI-UnlockPickup-v0",
    "BabyAI-GoToSeq-v0",
)
"""Missions of every kind, with one room and with many."""


@attrs.frozen
class BabyAISample:
    """A state of a BabyAI environment as the serializer `grid` writes it.

    Attributes:
        id: of the environment.
        text: the whole text.
        mission: the part of it that is the mission.
        colour, kind: of the first object that the mission names, as "red" and "ball"; None where it says neither
            ("the door", "a red object" has kind None).
        visible: whether an object of that colour and kind is in view.
        ahead, right: steps to the nearest such object (right < 0: to the left); None if there is none.
        blocked: whether the cell straight ahead holds a wall or an object, be it an open door.
    """

    id: str
    text: str
    mission: str
    colour: str | None
    kind: str | None
    visible: bool
    ahead: int | None
    right: int | None
    blocked: bool


def babyai_samples(ids: Sequence[str], count: int, seed: int) -> list[BabyAISample]:
    """`count` states, as evenly over the environments `ids` as can be, visited by a wandering policy.

    Raises:
        UsageError: MiniGrid is not installed, or has no such id.
    """
    from bitrl.plugins.envs.babyai import make, spec

    samples: list[BabyAISample] = []
    for index, id in enumerate(ids):
        rng = np.random.default_rng([seed, index])
        write = Grid(None, spec(id))
        wanted = count // len(ids) + (index < count % len(ids))
        env = make(id)
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        steps = 0
        while wanted > 0:
            sample = _babyai_sample(id, observation, write(observation))
            # Successive states are alike; and a wandering policy sees walls more often than its target.
            if rng.random() < (0.5 if sample.visible else 0.2):
                samples.append(sample)
                wanted -= 1
            # Turn left, turn right, forward, pick up, drop, toggle: mostly forward, to get about.
            action = int(rng.choice(6, p=[0.17, 0.17, 0.42, 0.1, 0.04, 0.1]))
            observation, _, terminated, truncated, _ = env.step(action)
            steps += 1
            if terminated or truncated or steps == 40:  # a new mission now and then
                observation, _ = env.reset()
                steps = 0
        env.close()
    return samples


def _babyai_sample(id: str, observation: dict[str, Any], text: str) -> BabyAISample:
    first = mentions(observation["mission"])[:1]
    colour, kind = first[0] if first else (None, None)
    matching = [seen for seen in sightings(observation["image"]) if meant(seen, first)]
    ahead, right = (matching[0].ahead, matching[0].right) if matching else (None, None)
    way = blocked(observation["image"])
    return BabyAISample(id, text, observation["mission"], colour, kind, bool(matching), ahead, right, way)


@attrs.frozen
class TextWorldSample:
    """A state of a TextWorld cooking game.

    Attributes:
        game: its name, which says its split and seed.
        text: the state.
        admissible: the admissible commands, sorted.
        commands: all commands that were admissible somewhere in this game, as far as was visited; sorted. Those not
            among `admissible` are not admissible here.
    """

    game: str
    text: str
    admissible: tuple[str, ...]
    commands: tuple[str, ...]


def textworld_samples(games: Sequence[int], per_game: int, seed: int, split: str = "train") -> list[TextWorldSample]:
    """`per_game` states of each of the games with these seeds in a split ("train", "valid" or "test": other foods).

    The policy acts at random, follows the walkthrough, or mixes both. The games (a second each) and the states
    are kept on disk, in the user's cache directory.

    Raises:
        UsageError: TextWorld is not installed. RunFailed: a game could not be made.
    """
    from bitrl.plugins.envs import textworld, textworld_games, textworld_rules, textworld_words

    settings = textworld_games.Cooking(split=split)  # type: ignore[arg-type]
    samples: list[TextWorldSample] = []
    # The code that decides which states there are and how they are worded.
    code = [inspect.getsource(part) for part in (textworld, textworld_rules, textworld_words, _wander)]
    version = hashlib.sha256("".join(code).encode()).hexdigest()[:12]
    textworld_games.games_of(settings, games)
    for index in games:
        name = textworld_games.game_name(settings, index)
        kept = textworld_games.cache_directory() / f"states-{per_game}-{seed}-{version}-{name}.json"
        if not kept.exists():
            env = textworld.CookingGame(settings, [index], max_steps=40, walkthrough=True)
            states = _wander(env, per_game, np.random.default_rng([seed, index]))
            env.close()
            write_atomically(kept, json.dumps(states))
        rows = json.loads(kept.read_text())
        commands = tuple(sorted({command for _, admissible in rows for command in admissible}))
        samples += [TextWorldSample(name, text, tuple(admissible), commands) for text, admissible in rows]
    return samples


def _wander(env: Any, count: int, rng: np.random.Generator) -> list[tuple[str, list[str]]]:
    """`count` states and their commands."""
    states: list[tuple[str, list[str]]] = []
    while len(states) < count:
        text, info = env.reset(seed=int(rng.integers(2**31)))
        skill, done = rng.choice([0.0, 0.5, 0.9]), False
        while not done and len(states) < count:
            commands = info["admissible_commands"]
            states.append((text, commands))
            command = commands[rng.integers(len(commands))]
            if rng.random() < skill:
                known = "recipe: not read" not in text or "examine cookbook" not in commands
                command = next((c for c in info["policy_commands"] if c in commands), command)
                command = command if known else "examine cookbook"
            text, _, terminated, truncated, info = env.step(commands.index(command))
            done = terminated or truncated
    return states


@attrs.frozen
class SmartHomeSample:
    """A state of SmartHome-Light.

    Attributes:
        text: request and numbers, as a built-in serializer writes them.
        request: the part of it that is the request.
        wants: for each room of `smarthome.ROOMS`, what the request wants: "bright", "dim", "dark" or "unmentioned".
        numbers: float32 [13], the numbers of the state in the order of `smarthome.FIELDS`, unrounded.
    """

    text: str
    request: str
    wants: dict[str, str]
    numbers: np.ndarray


def smarthome_samples(count: int, seed: int, serializer: str = "compact") -> list[SmartHomeSample]:
    """`count` states visited by random actions, each after its own request, written by `serializer` (json, natural,
    compact).
    """
    from bitrl.core.options import parse
    from bitrl.core.registry import registry
    from bitrl.plugins.envs.smarthome import ROOMS, SPEC, SmartHomeLight

    record = registry().find("serializer", serializer, built_in_first=True)
    write = record.load()(parse(record.options, {}, "serializer"), SPEC)
    rng = np.random.default_rng(seed)
    env = SmartHomeLight()
    samples: list[SmartHomeSample] = []
    for _ in range(count):
        observation, info = env.reset(seed=int(rng.integers(2**31)))
        for _ in range(rng.integers(4)):
            observation, _, _, _, info = env.step(rng.integers(9))
        wants = {room: info["wants"].get(room, "unmentioned") for room in ROOMS}
        samples.append(SmartHomeSample(write(observation), observation["request"], wants, observation["numbers"]))
    return samples

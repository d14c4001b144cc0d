"""The text environments as training data: their states as text, with the labels to predict.

Knows which facts of a state of BabyAI, SmartHome-Light or TextWorld are labels. Does not know tokens or losses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs
import numpy as np

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.training.pretraining.texts import MAX_NUMBERS, NAME_WORDS, Texts, name_words

COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
KINDS = ("ball", "box", "key", "door")
ROOMS = ("study", "kitchen", "bedroom", "hall")
WANTS = ("bright", "dim", "dark", "unmentioned")
FACTS = (
    *(f"mission {word}" for word in (*COLOURS, *KINDS)),
    "target in view",
    "way ahead blocked",
    *(f"{room} {want}" for room in ROOMS for want in WANTS),
)
"""Yes-or-no questions about a state; NaN where an environment does not have that question."""

TEXT_ENVIRONMENTS = ("BabyAI", "SmartHome-Light", "TextWorld")


@attrs.frozen
class CommandTexts:
    """States, with admissible and inadmissible commands of their games; once the recipe is known, also those that
    it asks for, and those of the same kinds that it does not.
    """

    texts: list[str]
    possible: list[tuple[str, ...]]
    impossible: list[tuple[str, ...]]
    wanted: list[tuple[str, ...]]
    unwanted: list[tuple[str, ...]]


def facts_and_numbers(env: str, count: int, seed: int) -> Texts:
    """`count` states of BabyAI or SmartHome-Light, each text with its facts [n, len(FACTS)] and its numbers."""
    return _babyai(count, seed) if env == "BabyAI" else _smarthome(count, seed)


def _babyai(count: int, seed: int) -> Texts:
    from bitrl.plugins.envs.samples import BABYAI_IDS, babyai_samples

    # Every other state is of the environment that the paper reports.
    samples = babyai_samples(BABYAI_IDS[:1], count // 2, seed) + babyai_samples(BABYAI_IDS, count - count // 2, seed)
    facts = np.full((count, len(FACTS)), np.nan)
    numbers = np.full((count, MAX_NUMBERS), np.nan)
    for row, sample in enumerate(samples):
        for words, word in ((COLOURS, sample.colour), (KINDS, sample.kind)):
            if word is not None:
                facts[row, [FACTS.index(f"mission {each}") for each in words]] = [each == word for each in words]
        if sample.colour or sample.kind:
            facts[row, FACTS.index("target in view")] = sample.visible
        facts[row, FACTS.index("way ahead blocked")] = sample.blocked
        if sample.ahead is not None and sample.right is not None:
            numbers[row, :2] = sample.ahead, sample.right
    return Texts(
        [sample.text for sample in samples],
        numbers,
        _frames(numbers, [[3.0, 3.0], [0.0, 3.0]]),
        plain=False,
        facts=facts,
        names=_names(["ahead", "right"]),
    )


def _smarthome(count: int, seed: int) -> Texts:
    from bitrl.plugins.envs.samples import smarthome_samples
    from bitrl.plugins.envs.smarthome import FIELDS

    formats = ("json", "compact", "natural")
    samples = [
        sample
        for index, format in enumerate(formats)
        for sample in smarthome_samples((count + index) // len(formats), seed + index, format)
    ]
    facts = np.full((count, len(FACTS)), np.nan)
    numbers = np.full((count, MAX_NUMBERS), np.nan)
    for row, sample in enumerate(samples):
        for room, wanted in sample.wants.items():
            facts[row, [FACTS.index(f"{room} {want}") for want in WANTS]] = [want == wanted for want in WANTS]
        numbers[row, : len(FIELDS)] = sample.numbers
    bounds = [((f.low + f.high) / 2, (f.high - f.low) / 2) for f in FIELDS if f.low is not None and f.high is not None]
    names = _names([field.name for field in FIELDS])
    frames = _frames(numbers, bounds)
    return Texts([sample.text for sample in samples], numbers, frames, facts=facts, names=names)


def _frames(numbers: np.ndarray, bounds: Sequence[Sequence[float]]) -> np.ndarray:
    """[n, MAX_NUMBERS, 2, 2] as in Texts, from a few fields' (centre, half-width) and the numbers visited."""
    frames = np.full((*numbers.shape, 2, 2), np.nan)
    for slot, (centre, half) in enumerate(bounds):
        visited = numbers[:, slot]
        frames[:, slot] = [[centre, half], [np.nanmean(visited), max(2.5 * np.nanstd(visited), 1e-3 * half)]]
    return frames


def _names(names: Sequence[str]) -> np.ndarray:
    words = np.full((1, MAX_NUMBERS, NAME_WORDS), -1)
    words[0, : len(names)] = name_words(names, "known")
    return words


def choices(games: Sequence[int], per_game: int, seed: int, split: str = "train") -> CommandTexts:
    """States of the TextWorld cooking games with these seeds."""
    from bitrl.plugins.envs.samples import textworld_samples

    samples = textworld_samples(games, per_game, seed, split)
    asked = [_asked(sample.text, sample.commands) for sample in samples]
    return CommandTexts(
        [sample.text for sample in samples],
        [sample.admissible for sample in samples],
        [tuple(sorted(set(sample.commands) - set(sample.admissible))) for sample in samples],
        [wanted for wanted, _ in asked],
        [unwanted for _, unwanted in asked],
    )


def _asked(text: str, commands: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of these commands those that the recipe in a text asks for, and those that it does not."""
    from bitrl.plugins.envs.textworld_words import asked_for

    recipe = text.partition("recipe: ")[2].partition(". ")[0]
    if recipe == "not read":
        return (), ()
    answers = {command: asked_for(command, recipe) for command in commands}
    return tuple(c for c, yes in answers.items() if yes), tuple(c for c, yes in answers.items() if yes is False)


_COMMAND = re.compile(
    r"(take|drop|eat|open|close|cook|chop|slice|dice|put|insert) (.+?)(?: (?:from|with|on|into) (.+))?"
)


def sayings(envs: Sequence[str], games: CommandTexts | None) -> list[str]:
    """Phrases that these environments always word the same way, sorted: things and where they are (` yellow bell
    pepper`, ` in open fridge`), and what a home is asked for, but for the room (`make the`, ` bright enough to read`).
    """
    found: set[str] = set()
    if "SmartHome-Light" in envs:
        from bitrl.plugins.envs.smarthome import ASKED

        for phrase in (phrase for phrases in ASKED.values() for phrase in phrases):
            before, _, after = phrase.partition(" {room}")
            found |= {before, f" {before}", after}
    for command in {command for row in (games.possible if games else ()) for command in row}:
        parts = _COMMAND.fullmatch(command)
        if parts is None:
            continue
        verb, thing, place = parts.groups()
        found.add(f" {thing}")
        if place and verb == "put":
            found.add(f" on {place}")
        if place and verb == "insert":
            found.add(f" in open {place}")
    if games:
        found.add(" in hand")
    return sorted(phrase for phrase in found if " " in phrase.strip())


def check_text_environments(envs: Sequence[str]) -> None:
    """Raises UsageError for an unknown text environment."""
    from bitrl.core.errors import unknown

    for env in envs:
        if env not in TEXT_ENVIRONMENTS:
            error: UsageError = unknown("text environment", env, TEXT_ENVIRONMENTS)
            raise error

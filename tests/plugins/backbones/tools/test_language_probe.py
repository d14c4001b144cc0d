"""The probes of words: a model whose features hold everything scores high, one whose features are noise scores at
chance.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Sequence

import numpy as np
import pytest

from bitrl.plugins.backbones.training.pretraining import environment_texts, language
from bitrl.plugins.backbones.training.pretraining.environment_texts import CommandTexts
from bitrl.plugins.envs import samples

pytest.importorskip("minigrid", reason="the states are MiniGrid's: pip install 'bitrl[babyai]'")


def words(texts: list[str], width: int = 512) -> np.ndarray:
    """Which words a text holds, hashed: float32 [n, width]."""
    found = np.zeros((len(texts), width), np.float32)
    for row, text in enumerate(texts):
        for word in text.replace(".", " ").replace(",", " ").split():
            found[row, zlib.crc32(word.encode()) % width] = 1.0
    return found


def first_object(texts: list[str]) -> np.ndarray:
    """The first thing of a colour that a text names, as one word: redball of "go to the red ball. …"."""
    found = [re.search(r"(red|green|blue|purple|yellow|grey) (ball|box|key|door)", text) for text in texts]
    return words(["".join(match.groups()) if match else "nothing" for match in found])


def nothing(texts: list[str]) -> np.ndarray:
    """Noise."""
    return np.random.default_rng(0).standard_normal((len(texts), 32)).astype(np.float32)


def test_the_object_of_a_mission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "babyai_samples", functools.cache(samples.babyai_samples))  # both read the same
    told, guessed = (language.mission_objects(encode, count=1000) for encode in (first_object, nothing))
    assert told.accuracy > 0.9
    assert guessed.accuracy < told.chance + 0.1
    assert told.chance == guessed.chance < 0.5


FOODS = ("apple", "carrot", "onion", "potato", "pepper", "banana", "lettuce", "pork")


def game(rng: np.random.Generator) -> tuple[str, *tuple[tuple[str, ...], ...]]:
    """A state of a made-up game: what is on the table can be taken, nothing else. It has no recipe."""
    there = rng.permutation(FOODS)[:4]
    possible = tuple(f"take {food}" for food in there)
    impossible = tuple(f"take {food}" for food in FOODS if food not in there)
    return f"on table: {', '.join(there)}", possible, impossible, (), ()


def test_which_commands_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "GAMES_SEEN", range(20))
    monkeypatch.setattr(language, "GAMES_KEPT_ASIDE", range(30, 35))
    monkeypatch.setattr(language, "STATES_A_GAME", 30)
    asked: list[tuple[Sequence[int], str]] = []

    def choices(games: Sequence[int], per_game: int, seed: int, split: str = "train") -> CommandTexts:
        asked.append((games, split))
        rng = np.random.default_rng([games[0], len(split)])
        states = [game(rng) for _ in range(len(games) * per_game)]
        return CommandTexts(*(list(part) for part in zip(*states, strict=True)))

    monkeypatch.setattr(environment_texts, "choices", choices)
    for told in language.possible_commands(words):
        assert told.accuracy > 0.95
        assert told.chance == pytest.approx(0.5, abs=0.01)
    # It is fitted to 20 games, and judged by 5 others and by 5 with other foods.
    assert asked == [(range(20), "train"), (range(30, 35), "train"), (range(5), "test")]
    [guessed] = language.possible_commands(nothing, splits=["train"])
    assert guessed.accuracy == pytest.approx(0.5, abs=0.1)

"""How well numbers and words can be decoded from a model, measured on its file by the engine, as an agent reads it.

Knows what a model card reports. Does not know how a model is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np

from bitrl.core.acting.loading import load_backbone
from bitrl.core.acting.states import StateReader
from bitrl.core.config import resolve
from bitrl.core.options import parse
from bitrl.core.registry import registry
from bitrl.core.runs.parts import Parts, build
from bitrl.plugins.backbones.tools.probe import STATES, Reading, probe
from bitrl.plugins.backbones.training.pretraining.language import Judged, mission_objects, possible_commands
from bitrl.plugins.backbones.training.pretraining.texts import FORMATS
from bitrl.plugins.backbones.training.pretraining.unseen import UNSEEN, Unseen

PROBED = 4000
"""States of each kind; a quarter is for testing."""

ENCODED_AT_ONCE = 1024
"""Texts between two words on how far it is; a text's features do not depend on its batch."""


def readings(
    backbone: str,
    model: Path,
    envs: Sequence[str],
    seed: int = 0,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Reading]:
    """R² of the numbers in states of `envs` and of the environments kept aside, mean-pooled, through each built-in
    serializer, for uniform states and those of a random policy.

    `tell` is called with an environment and serializer, and how many of their states are read of how many.
    """
    return [
        probe(
            parts,
            (parts.environment.id, format),
            kind,
            ["mean"],
            PROBED,
            seed,
            partial(_tell, tell, f"measuring: {parts.environment.id} {format} ({kind})"),
        )
        for format in FORMATS
        for parts in _parts(backbone, model, envs, format)
        for kind in STATES
    ]


def _tell(tell: Callable[[str, int, int], None], what: str, done: int) -> None:
    tell(what, done, PROBED)


def judged(
    backbone: str,
    model: Path,
    text_envs: Sequence[str],
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Judged]:
    """What the features keep of words, by question, for these text environments. `tell` is called as by `readings`."""
    read = load_backbone(backbone, str(model), cache_mb=0.0).encode

    def encode(texts: list[str]) -> np.ndarray:
        pieces = []
        for start in range(0, len(texts), ENCODED_AT_ONCE):
            pieces.append(read(texts[start : start + ENCODED_AT_ONCE]))
            tell("measuring: words", min(start + ENCODED_AT_ONCE, len(texts)), len(texts))
        return np.concatenate(pieces) if pieces else read(texts)

    found = {}
    if "BabyAI" in text_envs:
        found["the object (colour and kind) that a BabyAI mission names"] = mission_objects(encode)
    if "TextWorld" in text_envs:
        questions = (
            "whether a command can be given in a TextWorld state, other games",
            "the same, games with other foods",
        )
        found |= dict(zip(questions, possible_commands(encode), strict=True))
    return found


def _parts(backbone: str, model: Path, envs: Sequence[str], format: str) -> Iterator[Parts]:
    """The environments trained on, and those kept aside that can be made here, each written by `format`."""
    for env in envs:
        named = {"env": env, "backbone": backbone, "serializer": format}
        yield build(resolve({"run": named, "backbone": {"model": str(model), "cache_mb": 0}}))
    record = registry().find("serializer", format)
    for env in UNSEEN:
        environment = Unseen(env)
        try:
            environment.make().close()
        except gymnasium.error.Error:
            continue  # without MuJoCo
        serializer = record.load()(parse(record.options, {}, "serializer"), environment.observation_spec())
        yield Parts(environment, StateReader(serializer, load_backbone(backbone, str(model), cache_mb=0.0)))

"""The learned weights of a run's backbone as one bit each (acting/bitdelta.py), and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bitrl.core.acting import bitdelta
from bitrl.core.acting.states import States
from bitrl.core.config import Config
from bitrl.core.environments.action_checks import checked_actions
from bitrl.core.environments.crashes import reporting
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Algorithm, LearningBackbone
from bitrl.core.runs.episodes import play_episodes
from bitrl.core.runs.parts import EVALUATION, Parts, build, spawn_seeds
from bitrl.core.wording import setting

MOST_TEXTS = 64
"""Texts of visited states on which scales are tuned, and as many others on which the features' error is measured."""


def compressed_adapters(
    config: Config, parts: Parts, algorithm: Algorithm, directory: Path, episodes: int
) -> tuple[dict[str, np.ndarray], str, dict[str, Any]]:
    """The weights that a trained run's backbone learned, compressed; it acts by them from now on.

    Args:
        episodes: how many are played with the learned weights, and again with the compressed ones. Scales are tuned on
            states that the former visit.

    Returns:
        Signs and scales (bitdelta.compress), the checksum of the weights before training, and what it costs: bytes
        before and after, features' relative error with mean|Δ| as scales and with tuned ones, share of equal greedy
        actions in the states visited, mean returns, episodes.

    Raises:
        UsageError: the backbone did not learn, or there is no episode to measure on.
    """
    learner = parts.reader.learner
    if learner is None:
        raise UsageError(
            f"{directory}: the run has no adapters, which {setting('bitdelta')} compresses: it was trained without "
            "backbone.lora_rank"
        )
    if episodes < 1:
        raise UsageError(f"{setting('bitdelta')} needs at least one episode: {setting('episodes', 'N')}")
    untrained = build(config).reader.learner
    assert untrained is not None
    base, learned = untrained.learned(), learner.learned()
    visited: list[States] = []
    actions: list[np.ndarray] = []

    def remember(states: States, taken: np.ndarray) -> None:
        visited.append(states)
        actions.append(taken)

    before = _mean_return(config, parts, algorithm, episodes, remember)
    texts = [*dict.fromkeys(text for states in visited for text in states.texts)]
    tuning, held_out = _spread(texts[::2]), _spread(texts[1::2] or texts)
    packed = bitdelta.compress(base, learned)
    with _error(learner, held_out) as error:
        untuned = error(bitdelta.restore(base, packed))
    with _error(learner, tuning) as error:
        packed = bitdelta.tune(base, packed, error)
    with _error(learner, held_out) as error:
        tuned = error(bitdelta.restore(base, packed))
    learner.load_learned(bitdelta.restore(base, packed))
    again = [algorithm.act(parts.reader(states.observations)) for states in visited]
    same = [(one == other).reshape(len(one), -1).all(axis=1) for one, other in zip(actions, again, strict=True)]
    cost = {
        "adapter_bytes": sum(array.nbytes for array in learned.values()),
        "bytes": sum(array.nbytes for array in packed.values()),
        "feature_error_untuned": untuned,
        "feature_error": tuned,
        "equal_actions": float(np.concatenate(same).mean()),
        "mean_return_in_full": before,
        "mean_return": _mean_return(config, parts, algorithm, episodes),
        "episodes": episodes,
    }
    return packed, bitdelta.digest(base), cost


@contextmanager
def _error(learner: LearningBackbone, texts: list[str]) -> Iterator[Callable[[bitdelta.Arrays], float]]:
    """A function of weights: ‖f̂ − f‖ / ‖f‖ of the texts' features with them. Afterwards the weights are as before."""
    learned, wanted = learner.learned(), learner.encode(texts).astype(np.float64)

    def error(weights: bitdelta.Arrays) -> float:
        learner.load_learned(weights)
        return float(np.linalg.norm(learner.encode(texts) - wanted) / np.linalg.norm(wanted))

    try:
        yield error
    finally:
        learner.load_learned(learned)


def _spread(texts: list[str]) -> list[str]:
    """At most MOST_TEXTS of the texts, evenly spaced."""
    places = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), MOST_TEXTS)).round().astype(int))
    return [texts[place] for place in places]


def _mean_return(
    config: Config,
    parts: Parts,
    algorithm: Algorithm,
    episodes: int,
    remember: Callable[[States, np.ndarray], None] = lambda states, actions: None,
) -> float:
    """The mean return of greedy episodes, the first of those that `bitrl eval` plays."""
    collector = algorithm.task.collector

    def act(observations: np.ndarray) -> np.ndarray:
        states = parts.reader(observations)
        actions: np.ndarray = checked_actions(collector.who, collector.action_space, algorithm.act(states), len(states))
        remember(states, actions)
        return actions

    returns = play_episodes(
        reporting(parts.environment.make_for_evaluation, parts.environment.id),
        act,
        spawn_seeds(config.run.seed, EVALUATION, episodes),
        max_steps=config.run.eval_max_steps,
    )
    return float(np.mean(returns))

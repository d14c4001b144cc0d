"""Evaluation: whole episodes, each with its own seed, a batch of them at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

BATCH = 16
"""Episodes played side by side."""


def evaluate(
    make: Callable[[], gymnasium.Env],
    policy: Callable[[np.ndarray], np.ndarray],
    episodes: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[float]:
    """Play `episodes` episodes and return their returns in order.

    Episode i is reset with its own seed, drawn from (`seed`, i), so that its start does not depend on how many others are
    played; short episodes count as often as long ones.

    Args:
        make: makes a single environment.
        policy: observations [n, ...] → actions [n, ...].
        episodes: how many.
        seed: of the episodes.
        progress: called with the number of episodes done whenever one ends.
        interrupted: evaluation stops early once this is true.
    """
    seeds = np.random.SeedSequence(seed).generate_state(episodes).tolist() if episodes else []
    returns = [0.0] * episodes
    envs = [make() for _ in range(min(BATCH, episodes))]
    playing = dict(enumerate(envs))  # episode → its environment
    observations: dict[int, Any] = {episode: env.reset(seed=seeds[episode])[0] for episode, env in playing.items()}
    upcoming, done = len(envs), 0
    while playing and not interrupted():
        order = sorted(playing)
        actions = policy(np.stack([np.asarray(observations[episode]) for episode in order]))
        for episode, action in zip(order, actions, strict=True):
            observation, reward, terminated, truncated, _ = playing[episode].step(action)
            returns[episode] += float(reward)
            observations[episode] = observation
            if terminated or truncated:
                env = playing.pop(episode)
                done += 1
                progress(done)
                if upcoming < episodes:
                    playing[upcoming] = env
                    observations[upcoming] = env.reset(seed=seeds[upcoming])[0]
                    upcoming += 1
    for env in envs:
        env.close()
    return returns

"""Evaluation: whole episodes, each with its own seed, played in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.acting.nested import taken_apart
from bitrl.core.environments.crashes import close_quietly
from bitrl.core.environments.episode_metrics import METRICS, finite_numbers
from bitrl.core.environments.observations import as_array
from bitrl.core.errors import BitrlError

BATCH = 16
"""Episodes played in parallel."""


class Return(float):
    """The sum of an episode's rewards; `success` is whether its task was solved, where the environment reports that
    (`info["success"]` at the end), `metrics` the numbers that it reports (`info["metrics"]`), and `cut` whether the
    episode was cut off after the most steps allowed.
    """

    success: bool | float | None = None
    metrics: Mapping[str, float] = MappingProxyType({})
    cut = False


def play_episodes(
    make: Callable[[], gymnasium.Env],
    policy: Callable[[np.ndarray], np.ndarray],
    seeds: Sequence[int],
    progress: Callable[[int], None] = lambda done: None,
    interrupted: Callable[[], bool] = lambda: False,
    max_steps: int | None = None,
    stepped: Callable[[int, int], None] = lambda steps, longest: None,
    fewer: Callable[[int, BitrlError], None] = lambda count, error: None,
) -> list[Return]:
    """Play one episode for each seed and return their returns in order.

    An episode's start depends on its seed alone, not on how many others are played; and short episodes count as often
    as long ones, unlike when a fixed number of steps is played.

    Args:
        make: makes a single environment.
        policy: observations [n, ...] → actions [n, ...]; records where they have several parts.
        seeds: of the episodes.
        progress: called with the number of episodes done whenever one ends.
        interrupted: evaluation stops early once this is true; only finished episodes count.
        max_steps: an episode is cut off after so many steps, and counts with its return so far; None: never.
        stepped: called after each step of those being played, with the steps taken in all episodes so far, and in the
            longest of those being played.
        fewer: called where there are only so many environments to play in, with the error of the one after them.
    """
    envs: list[gymnasium.Env] = []
    try:
        returns = _played(make, envs, policy, seeds, progress, interrupted, max_steps, stepped, fewer)
    except BaseException:
        for env in envs:
            close_quietly(env)
        raise
    for env in envs:
        env.close()
    return returns


def _played(
    make: Callable[[], gymnasium.Env],
    envs: list[gymnasium.Env],
    policy: Callable[[np.ndarray], np.ndarray],
    seeds: Sequence[int],
    progress: Callable[[int], None],
    interrupted: Callable[[], bool],
    max_steps: int | None,
    stepped: Callable[[int, int], None],
    fewer: Callable[[int, BitrlError], None],
) -> list[Return]:
    """See `play_episodes`; what is made is added to `envs`."""
    episodes = len(seeds)
    returns = [Return()] * episodes
    while len(envs) < min(BATCH, episodes):
        try:
            envs.append(make())
        except BitrlError as error:
            if not envs:
                raise
            fewer(len(envs), error)
            break  # of a simulator with one port or licence there are as many as there can be
    playing = dict(enumerate(envs))  # episode → its environment
    observations: dict[int, Any] = {episode: env.reset(seed=seeds[episode])[0] for episode, env in playing.items()}
    lengths = [0] * episodes
    upcoming, done, steps = len(envs), 0, 0
    while playing and not interrupted():
        order = sorted(playing)
        actions = policy(np.stack([as_array(envs[0].observation_space, observations[episode]) for episode in order]))
        for episode, action in zip(order, actions, strict=True):
            given = taken_apart(action) if isinstance(action, np.void) else action
            observation, reward, terminated, truncated, info = playing[episode].step(given)
            returns[episode] = Return(returns[episode] + float(reward))
            observations[episode] = observation
            lengths[episode] += 1
            returns[episode].cut = not (terminated or truncated) and lengths[episode] == max_steps
            if terminated or truncated or returns[episode].cut:
                returns[episode].success = info.get("success")
                returns[episode].metrics = finite_numbers('the environment\'s info["metrics"]', info.get(METRICS, {}))
                env = playing.pop(episode)
                done += 1
                progress(done)
                if upcoming < episodes:
                    playing[upcoming] = env
                    observations[upcoming] = env.reset(seed=seeds[upcoming])[0]
                    upcoming += 1
        steps += len(order)
        stepped(steps, max(lengths[episode] for episode in order))
    return [value for episode, value in enumerate(returns) if episode < upcoming and episode not in playing]

"""Collecting experience from a vector environment. Shapes: T steps, n environments, d features (d' the critic's).

Knows both of Gymnasium's automatic resets (AutoresetMode) and keeps their artefacts out of the learner's sight.
Knows nothing of
policies: actions come from a function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
from gymnasium.vector import AutoresetMode

from bitrl.core.acting.choices import Choices, stack
from bitrl.core.interfaces import Task


@attrs.frozen
class Rollout:
    """T steps in n environments.

    Attributes:
        features: of the states acted in, and of the states after the last step: float32 [T + 1, n, d].
        critic_features: the critic's of the same states, float32 [T + 1, n, d']; `features` itself where the critic has
            no backbone of its own.
        choices: what could be done in the states acted in [T, n, k]; None where that is always the same.
        actions: as the policy chose them [T, n, ...].
        rewards: float32 [T, n].
        terminated: the episode ended in a terminal state, whose value is zero: bool [T, n].
        truncated: it was cut off, and the state it was cut off in still has a value: bool [T, n].
        valid: false where the environment ignored the action because it was being reset: bool [T, n].
        final_steps: the (t, i) of truncated steps whose true next state is not in `features`: int [m, 2].
        final_features: the critic's features of those next states, which only it needs: float32 [m, d'].
        returns: of the episodes that ended here, in order of time: float64 [episodes].
        lengths: their lengths in steps: int64 [episodes].
    """

    features: np.ndarray
    critic_features: np.ndarray
    choices: Choices | None
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    final_steps: np.ndarray
    final_features: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray


@attrs.define
class Episodes:
    """The episodes under way: return and length so far, and whether the next step only resets the environment.

    `features` are the policy's and the critic's of the current observations, as the last rollout left them; None before
    the first one, and after a resume, when they are computed again.
    """

    returns: np.ndarray
    lengths: np.ndarray
    resetting: np.ndarray
    features: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def start(cls, num_envs: int) -> Episodes:
        """All environments at the start of an episode."""
        return cls(np.zeros(num_envs), np.zeros(num_envs, np.int64), np.zeros(num_envs, bool))


def collect(
    task: Task,
    episodes: Episodes,
    act: Callable[[np.ndarray, Choices | None, int], np.ndarray],
    steps: int,
    taken: int = 0,
) -> Rollout:
    """Step `task.envs` `steps` times; `task.observations` and `episodes` move on with it.

    Args:
        task: the environments, their current observations, and how to see them.
        episodes: the episodes under way; kept by the caller from one rollout to the next.
        act: (features [n, d], choices in these n states, t) → actions [n, ...] as the environments take them.
        steps: T.
        taken: environment steps taken before this rollout, for the progress display.
    """
    envs, critic = task.envs, task.critic_features or task.features
    mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    if mode is AutoresetMode.DISABLED:
        raise ValueError(
            "the vector environment does not reset itself: make it with AutoresetMode.SAME_STEP or NEXT_STEP"
        )
    n = envs.num_envs
    rewards = np.zeros((steps, n), np.float32)
    terminated, truncated, valid = (np.zeros((steps, n), bool) for _ in range(3))
    features = [task.see(task.observations) if episodes.features is None else episodes.features]
    actions: list[np.ndarray] = []
    choices: list[Choices | None] = []
    final_steps: list[tuple[int, int]] = []
    final_observations: list[Any] = []
    ended_returns: list[float] = []
    ended_lengths: list[int] = []
    for t in range(steps):
        valid[t] = ~episodes.resetting
        choices.append(task.features.choices(task.observations))
        action = act(features[t][0], choices[t], t)
        observations, rewards[t], terminated[t], truncated[t], info = envs.step(action)
        actions.append(action)
        done = terminated[t] | truncated[t]
        if mode is AutoresetMode.SAME_STEP and done.any():
            # The observation is already that of a new episode; the true next one stands in the info.
            for i in np.flatnonzero(truncated[t] & ~terminated[t]):
                final_steps.append((t, int(i)))
                final_observations.append(info["final_obs"][i])
        episodes.returns += rewards[t]
        episodes.lengths += valid[t]
        for i in np.flatnonzero(done):
            ended_returns.append(float(episodes.returns[i]))
            ended_lengths.append(int(episodes.lengths[i]))
        episodes.returns[done] = 0.0
        episodes.lengths[done] = 0
        if mode is AutoresetMode.NEXT_STEP:
            # This observation is the true last one; the next step will ignore its action and reset.
            episodes.resetting = done
        features.append(task.see(observations))
        task.observations = observations
        task.progress(taken + (t + 1) * n)
    episodes.features = features[-1]
    policy_features = np.stack([each for each, _ in features])
    return Rollout(
        features=policy_features,
        critic_features=policy_features if critic is task.features else np.stack([each for _, each in features]),
        choices=stack(choices),
        actions=np.stack(actions),
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        final_steps=np.array(final_steps, np.int64).reshape(-1, 2),
        final_features=critic(np.stack(final_observations))
        if final_observations
        else np.zeros((0, *features[0][1].shape[1:]), np.float32),
        returns=np.array(ended_returns),
        lengths=np.array(ended_lengths, np.int64),
    )

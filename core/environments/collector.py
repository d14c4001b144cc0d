"""Owns the environments of a run and their current observations, and collects experience for algorithms.

Handles both of Gymnasium's automatic resets (AutoresetMode) and hides their artefacts from algorithms. Knows nothing
of policies: actions come from a function. Shapes: T steps, n environments, d features (d' the critic's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import attrs
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from bitrl.core.acting.admissible import AdmissibleActions, stack
from bitrl.core.acting.contracts import FIRST
from bitrl.core.acting.states import FeatureRows, StateReader, States
from bitrl.core.environments.action_checks import check_admissible, checked_actions
from bitrl.core.environments.episode_metrics import Means
from bitrl.core.sampled_completions import SampledCompletion


@attrs.frozen
class Transition:
    """One step in n environments; the state that it led to is the collector's current one.

    Attributes:
        rewards: float32 [n].
        terminated: the episode ended in a terminal state, whose value is zero: bool [n].
        truncated: it was cut off, and the state it was cut off in still has a value: bool [n].
        valid: false where the environment ignored the action because it was being reset: bool [n].
        final: environment → the true next observation of a truncated episode, where the current one is already that of
            a new episode.
        info: the vector environment's; of what single ones report only what bitrl uses (checked.py).
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    final: Mapping[int, Any]
    info: Mapping[str, Any]


@attrs.frozen
class Rollout:
    """T steps in n environments.

    Attributes:
        states: views of the states acted in, and of those after the last step: T + 1 of n states each.
        actions: as the environments received them [T, n, ...]; strings where they are texts.
        rewards, terminated, truncated, valid: as in Transition, [T, n].
        final_steps: the (t, i) of truncated steps whose true next state is not in `states`: int [m, 2].
        final_states: a view of those m next states; None where there are none.
        returns: of the episodes that ended here, in order of time: float64 [episodes].
        lengths: their lengths in steps: int64 [episodes].
        rows: where the features of `states` are held, by property.
    """

    states: tuple[States, ...]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    final_steps: np.ndarray
    final_states: States | None
    returns: np.ndarray
    lengths: np.ndarray
    rows: Mapping[str, FeatureRows] = attrs.field(factory=lambda: _feature_rows(), eq=False, repr=False)

    @cached_property
    def features(self) -> np.ndarray:
        """The policy's features of `states`, float32 [T + 1, n, d]."""
        return self.rows["features"].array("features", self.states)

    @cached_property
    def critic_features(self) -> np.ndarray:
        """The critic's, float32 [T + 1, n, d']; `features` itself where the critic has no backbone of its own."""
        if self.states[0].reader.critic is None:
            return self.features
        return self.rows["critic_features"].array("critic_features", self.states)

    @cached_property
    def final_critic_features(self) -> np.ndarray:
        """The critic's features of `final_states`, float32 [m, d']: they are used for values only."""
        if self.final_states is None:
            return np.zeros((0, *self.critic_features.shape[2:]), np.float32)
        return self.final_states.critic_features

    @cached_property
    def admissible(self) -> AdmissibleActions | None:
        """The admissible actions in the states acted in, [T, n, k]; None where all are, in every state."""
        return stack([each.admissible for each in self.states[:-1]])


class Collector:
    """Steps a vector environment, keeps its current observations, and counts steps and episodes.

    Attributes:
        envs: the vector environment, stepped by nobody else.
        states: a view of the current states.
        steps: environment steps taken so far, over all environments.
        progress: called with that number after every step.
        who: names the algorithm, in errors about its actions.
        episode_metrics: the metrics that the environments reported of episodes that ended, until they are taken.
        sample: of the first environment's last step, where observations and actions are texts; else None.
    """

    def __init__(
        self,
        envs: VectorEnv,
        reader: StateReader,
        observations: np.ndarray,
        progress: Callable[[int], None] = lambda step: None,
        who: str = "the algorithm",
    ):
        """`envs` was reset already, or restored, and gave `observations` [n, ...]."""
        self.envs, self.reader, self.progress, self.who = envs, reader, progress, who
        self._mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if self._mode is AutoresetMode.DISABLED:
            raise ValueError(
                "the vector environment does not reset automatically: make it with AutoresetMode.SAME_STEP or NEXT_STEP"
            )
        self.steps = 0
        self.states = reader(observations)
        self._version, self._checked = reader.version, 0
        n = envs.num_envs
        self._returns, self._lengths, self._resetting = np.zeros(n), np.zeros(n, np.int64), np.zeros(n, bool)
        self._ended: list[tuple[float, int]] = []
        self.episode_metrics = Means()
        spaces = (envs.single_observation_space, envs.single_action_space)
        self._texts = all(isinstance(space, gymnasium.spaces.Text) for space in spaces)
        self.sample: SampledCompletion | None = None

    @property
    def num_envs(self) -> int:
        """n, how many environments there are."""
        return self.envs.num_envs

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """The space of one environment's action."""
        return self.envs.single_action_space

    def step(self, actions: Any) -> Transition:
        """Take one step in every environment, with actions [n, ...] as the environments take them.

        Raises:
            RunFailed: an action is not in the action space, or an environment crashed.
        """
        actions = checked_actions(self.who, self.action_space, actions, self.num_envs)
        if self._checked < FIRST and not self._resetting.any():
            check_admissible(self.who, self.action_space, actions, self.states.admissible)
            self._checked += 1
        valid = ~self._resetting
        observations, rewards, terminated, truncated, info = self.envs.step(actions)
        rewards = rewards.astype(np.float32)
        done = terminated | truncated
        if self._texts and valid[0]:
            self.sample = SampledCompletion(
                str(self.states.observations[0]), str(actions[0]), round(float(rewards[0]), 6)
            )
        final: dict[int, Any] = {}
        if done.any():
            last = info.get("final_info", info) if self._mode is AutoresetMode.SAME_STEP else info
            self.episode_metrics.add_ended(last, np.flatnonzero(done))
        if self._mode is AutoresetMode.SAME_STEP and done.any():
            # The observation is already that of a new episode; the true next one is in the info.
            final = {int(i): info["final_obs"][i] for i in np.flatnonzero(truncated & ~terminated)}
        self._returns += rewards
        self._lengths += valid
        self._ended += [(float(self._returns[i]), int(self._lengths[i])) for i in np.flatnonzero(done)]
        self._returns[done] = 0.0
        self._lengths[done] = 0
        if self._mode is AutoresetMode.NEXT_STEP:
            # This observation is the true last one; the next step will ignore its action and reset.
            self._resetting = done
        self.states = self.reader(observations)
        self.steps += self.num_envs
        self.progress(self.steps)
        return Transition(rewards, terminated, truncated, valid, final, info)

    def rollout(self, act: Callable[[States, int], Any], steps: int) -> Rollout:
        """Take `steps` steps.

        Args:
            act: (states, t) → actions [n, ...] as the environments take them.
            steps: T.
        """
        if self._version != self.reader.version:  # the backbone has learned since these states were read
            self.states, self._version = self.reader(self.states.observations), self.reader.version
        self._ended = []
        states, actions, taken = [self.states], [], []
        rows = _feature_rows()
        for t in range(steps):
            actions.append(act(self.states, t))
            taken.append(self.step(actions[-1]))
            states.append(self.states)
            if t + 1 < steps:  # the last states' view would keep the whole array while the next rollout begins
                self.states.put = partial(_put, rows, t + 1, steps + 1)
        final = [((t, i), each) for t, step in enumerate(taken) for i, each in step.final.items()]
        return Rollout(
            states=tuple(states),
            actions=np.stack(actions),
            rewards=np.stack([each.rewards for each in taken]),
            terminated=np.stack([each.terminated for each in taken]),
            truncated=np.stack([each.truncated for each in taken]),
            valid=np.stack([each.valid for each in taken]),
            final_steps=np.array([place for place, _ in final], np.int64).reshape(-1, 2),
            final_states=self.reader(np.stack([each for _, each in final])) if final else None,
            returns=np.array([each for each, _ in self._ended]),
            lengths=np.array([each for _, each in self._ended], np.int64),
            rows=rows,
        )

    def state(self) -> dict[str, np.ndarray]:
        """What is not in the environments or the observations: current episodes' statistics, and the steps taken."""
        return {
            "steps": np.array(self.steps),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
            "resetting": self._resetting.copy(),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go back to a `state()`. Raises ValueError for one of other environments."""
        for name, own in self.state().items():
            if name in state and (state[name].shape, state[name].dtype.kind) != (own.shape, own.dtype.kind):
                raise ValueError(
                    f"collector.{name}: expected {own.dtype} {list(own.shape)}, got {state[name].dtype} "
                    f"{list(state[name].shape)}"
                )
        self.steps = int(state["steps"])
        self._returns, self._lengths, self._resetting = (
            state[name].copy() for name in ("returns", "lengths", "resetting")
        )


def _feature_rows() -> dict[str, FeatureRows]:
    return {name: FeatureRows() for name in ("features", "critic_features")}


def _put(rows: Mapping[str, FeatureRows], index: int, count: int, name: str, features: np.ndarray) -> np.ndarray:
    return rows[name].put(index, count, features)

"""REINFORCE (Williams 1992) with a softmax policy that is linear in the features."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium
import numpy as np

import bitrl
from bitrl_example import ReinforceOptions


class Reinforce(bitrl.Algorithm):
    """Collects a rollout, then takes one step along the policy gradient, with the returns' mean as the baseline.

    It relies on environments that are reset in the step that ends an episode, as bitrl makes them. The return of an
    episode that the rollout's end cuts off counts only the rewards so far.
    """

    def __init__(self, options: ReinforceOptions, task: bitrl.Task):
        super().__init__(options, task)
        if not isinstance(task.envs.single_action_space, gymnasium.spaces.Discrete):
            raise bitrl.UsageError(
                "algorithm example-reinforce acts in Discrete spaces only: choose another with --algo"
            )
        if task.features.trainable:
            raise bitrl.UsageError(
                "algorithm example-reinforce needs a frozen backbone: choose another with --backbone"
            )
        self.first_action = int(task.envs.single_action_space.start)
        self.weights = np.zeros((task.features.width, int(task.envs.single_action_space.n)))  # [d, actions]
        self.episode_returns = np.zeros(task.envs.num_envs)  # of the episodes under way

    def update(self) -> dict[str, float]:
        """One rollout of T steps in n environments and one gradient step; see the base class."""
        task, options = self.task, self.options
        generator = np.random.default_rng([task.seed, self.step])  # one a rollout: there is no generator to save
        steps, n = max(1, options.rollout_steps // task.envs.num_envs), task.envs.num_envs
        rows, choices, rewards, dones, ended = [], [], [], [], []
        for _ in range(steps):
            features = task.features(task.observations)
            probabilities = softmax(features @ self.weights)
            choice = (probabilities.cumsum(axis=1) > generator.random((n, 1))).argmax(axis=1)
            task.observations, reward, terminated, truncated, _ = task.envs.step(choice + self.first_action)
            self.step += n
            task.progress(self.step)
            done = terminated | truncated
            self.episode_returns += reward
            ended += self.episode_returns[done].tolist()
            self.episode_returns[done] = 0.0
            rows.append(features)
            choices.append(choice)
            rewards.append(reward)
            dones.append(done)

        returns = np.zeros((steps, n))
        following = np.zeros(n)
        for t in reversed(range(steps)):
            following = returns[t] = rewards[t] + options.gamma * following * ~dones[t]
        advantages = ((returns - returns.mean()) / (returns.std() + 1e-8)).ravel()
        x, chosen = np.concatenate(rows), np.eye(self.weights.shape[1])[np.concatenate(choices)]
        probabilities = softmax(x @ self.weights)
        self.weights += options.learning_rate * x.T @ ((chosen - probabilities) * advantages[:, None]) / len(x)

        entropy = -(probabilities * np.log(probabilities + 1e-12)).sum(axis=1).mean()
        if not np.isfinite(entropy):
            raise bitrl.RunFailed("the policy is not finite any more: try a smaller -o algo.learning_rate")
        metrics = {"entropy": float(entropy)}
        if ended:
            metrics["episode_return"] = float(np.mean(ended))
        return metrics

    def act(self, features: np.ndarray) -> np.ndarray:
        """The most probable actions [n]; see the base class."""
        return (features @ self.weights).argmax(axis=1) + self.first_action

    def state(self) -> dict[str, np.ndarray]:
        """See the base class."""
        return {
            "weights": self.weights.copy(),
            "episode_returns": self.episode_returns.copy(),
            "step": np.array(self.step),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self.weights, self.episode_returns = state["weights"].copy(), state["episode_returns"].copy()
        self.step = int(state["step"])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits [n, actions] → probabilities [n, actions]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

"""REINFORCE (Williams 1992) with a softmax policy that is linear in the features."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium
import numpy as np

import bitrl
from bitrl.learning import gae
from bitrl_example import ReinforceOptions


class Reinforce(bitrl.Algorithm):
    """Collects a rollout, then takes one step along the policy gradient, with the returns' mean as the baseline.

    The return of an episode that the rollout's end cuts off counts only the rewards so far.
    """

    def __init__(self, options: ReinforceOptions, task: bitrl.Task):
        super().__init__(options, task)
        space = task.collector.action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            raise bitrl.UsageError(
                "algorithm example-reinforce acts in Discrete spaces only: choose another with --algo"
            )
        self.first_action = int(space.start)
        self.weights = np.zeros((task.reader.width, int(space.n)))  # [d, actions]

    def update(self) -> dict[str, float]:
        """One rollout of T steps in n environments and one gradient step; see the base class."""
        collector, options = self.task.collector, self.options
        generator = np.random.default_rng([self.task.seed, self.step])  # one a rollout: there is no generator to save
        steps, n = max(1, options.rollout_steps // collector.num_envs), collector.num_envs
        noise = generator.gumbel(size=(steps, n, self.weights.shape[1]))

        def act(states: bitrl.States, t: int) -> np.ndarray:
            """The softmax policy's sample, by the Gumbel trick, among the admissible actions."""
            return states.best(states.features @ self.weights + noise[t]) + self.first_action

        rollout = collector.rollout(act, steps)
        # Advantages with λ = 1 over values of zero are the discounted returns.
        returns = gae(rollout, np.zeros((steps + 1, n)), np.zeros((steps, n)), options.gamma, gae_lambda=1.0)
        advantages = ((returns - returns.mean()) / (returns.std() + 1e-8)).ravel()
        x = rollout.features[:-1].reshape(steps * n, -1)
        chosen = np.eye(self.weights.shape[1])[rollout.actions.ravel() - self.first_action]
        probabilities = softmax(x @ self.weights)
        self.weights += options.learning_rate * x.T @ ((chosen - probabilities) * advantages[:, None]) / len(x)

        entropy = -(probabilities * np.log(probabilities + 1e-12)).sum(axis=1).mean()
        if not np.isfinite(entropy):
            raise bitrl.RunFailed("the policy is not finite any more: try a smaller -o algo.learning_rate")
        metrics = {"entropy": float(entropy)}
        if len(rollout.returns):
            metrics["episode_return"] = float(rollout.returns.mean())
        return metrics

    def act(self, states: bitrl.States) -> np.ndarray:
        """The most probable actions [n]; see the base class."""
        return states.best(states.features @ self.weights) + self.first_action

    def state(self) -> dict[str, np.ndarray]:
        """See the base class."""
        return {"weights": self.weights.copy()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self.weights = state["weights"].copy()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits [n, actions] → probabilities [n, actions]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

"""Quantised actions: each dimension of a continuous action takes one of m values, chosen independently of the others
given the state (Tang and Agrawal 2020, arXiv 1901.10500). Shapes: B or n states, k action dimensions.

The values are evenly spaced over the bounds, or learned: k-means of the actions of a first, continuous stage of
training. SAQ (Luo et al. 2023, arXiv 2310.11731) learns its codebook of a data set's actions before it learns to choose
among them; here the first stage makes the data set, the codes are values of single dimensions, and they are the same in
every state.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from bitrl.core.acting.policies import CodebookPolicy, Network, Policy, within
from bitrl.core.errors import UsageError
from bitrl.core.wording import setting
from bitrl.plugins.algos.engine_learner import EngineLearner
from bitrl.plugins.algos.factored_head import Choices
from bitrl.plugins.algos.heads import Admissible, Gaussian


class ActionCodebook:
    """Continuous actions of a codebook's values: outputs are k·m logits, those of each dimension together.

    Attributes:
        values: the values of each dimension, float32 [k, m].
        outputs: k·m.
        size: how many numbers are learned beside the network: none.
    """

    size, widths = 0, ()

    def __init__(self, space: Box, values: np.ndarray, learner: EngineLearner | None = None):
        self.low, self.high, self.values = space.low, space.high, values
        dimensions, bins = values.shape
        self.choices = Choices(bins, dimensions, learner)
        self.outputs = self.choices.outputs

    def use(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """Nothing is learned beside the network."""

    def noise(self, steps: int, num_envs: int, generator: np.random.Generator) -> np.ndarray:
        """Standard Gumbel noise float32 [steps, num_envs, k·m]: argmax(logits + noise) samples each dimension."""
        return self.choices.noise(steps, num_envs, generator)

    def sample(self, outputs: np.ndarray, noise: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """Logits and noise [n, k·m] → which value in each dimension, int64 [n, k]."""
        return self.choices.sample(outputs, noise)

    def best(self, outputs: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """The most probable values, int64 [n, k]."""
        return self.choices.best(outputs)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environments take them: the values, in the space's shape and dtype."""
        return within(self.values[np.arange(len(self.values)), actions], self.low, self.high)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return CodebookPolicy(network, self.values, self.low, self.high)

    def forward(
        self, outputs: np.ndarray, actions: np.ndarray, admissible: Admissible = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` and entropies, both sums over dimensions, float32 [B]."""
        return self.choices.forward(outputs, actions)

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> np.ndarray:
        """The loss's gradient by the logits [B, k·m]; in each dimension as for discrete actions (Categorical)."""
        return self.choices.backward(by_log_probs, by_entropies)


class LearnedActionCodebook:
    """A Gaussian policy until `learn` makes a codebook of its actions, and one over that codebook from then on.

    Outputs are k means, and k·m logits that play no part before. The codebook's policy starts as the Gaussian on the
    codebook's values alone: the logit of a value c is log N(c; μ, σ²) but for what is the same for all values,
    c·μ/σ² − c²/(2σ²), which is linear in μ, so the last layer computes it.

    Attributes:
        outputs: k + k·m.
        size: that of the Gaussian.
        gaussian: the head of the first stage.
        codebook: the head of the second, None in the first.
    """

    widths = ()

    def __init__(self, space: Box, bins: int, learner: EngineLearner | None = None):
        """`bins` is m."""
        self.space, self.bins, self.learner = space, bins, learner
        self.gaussian = Gaussian(space, learner)
        self.codebook: ActionCodebook | None = None
        self.size = self.gaussian.size
        self.outputs = self.gaussian.outputs * (1 + bins)

    @property
    def head(self) -> Gaussian | ActionCodebook:
        """The head of the stage that it is in."""
        return self.gaussian if self.codebook is None else self.codebook

    def use(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """Keep the Gaussian's parameters, and their gradients, in these arrays, float32 [size]."""
        self.gaussian.use(parameters, gradients)

    def learn(self, actions: np.ndarray, weights: np.ndarray, biases: np.ndarray) -> None:
        """Make the codebook of actions [N, ...] that were sent to environments, and the logits of it in the policy's
        last layer: its weights [inputs, outputs] and biases.
        """
        columns = actions.reshape(-1, self.gaussian.outputs).astype(np.float64)
        values = np.stack([k_means(column, self.bins) for column in columns.T]).astype(np.float32)
        self.use_values(values)
        k, precisions = len(values), np.exp(-2 * self.gaussian.log_std.astype(np.float64)).astype(np.float32)[:, None]
        slopes = values * precisions  # [k, m]
        weights[:, k:] = (weights[:, :k, None] * slopes).reshape(len(weights), -1)
        biases[k:] = (slopes * biases[:k, None] - slopes * values / 2).ravel()

    def use_values(self, values: np.ndarray) -> None:
        """Choose among these values, float32 [k, m], from now on."""
        self.codebook = ActionCodebook(self.space, values, self.learner)

    def noise(self, steps: int, num_envs: int, generator: np.random.Generator) -> np.ndarray:
        """Noise for `sample`, float32 [steps, num_envs, ...]."""
        return self.head.noise(steps, num_envs, generator)

    def sample(self, outputs: np.ndarray, noise: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """Outputs [n, k + k·m] and noise → actions [n, k]: numbers, then which value of the codebook."""
        return self.head.sample(outputs[:, self._used], noise)

    def best(self, outputs: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """The most probable actions [n, k], as `sample` has them."""
        return self.head.best(outputs[:, self._used])

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environments take them."""
        return self.head.to_env(actions)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return self.head.numpy_policy(network.of_outputs(self._used))

    def forward(
        self, outputs: np.ndarray, actions: np.ndarray, admissible: Admissible = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` and entropies, float32 [B]."""
        return self.head.forward(outputs[:, self._used], actions)

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> np.ndarray:
        """The loss's gradient by the outputs [B, k + k·m]; sets that by the log standard deviations, zero once there is
        a codebook.
        """
        by_used = self.head.backward(by_log_probs, by_entropies)
        if self.codebook is not None:
            self.gaussian.by_log_std[:] = 0
        gradient = np.zeros((len(by_used), self.outputs), np.float32)
        gradient[:, self._used] = by_used
        return gradient

    @property
    def _used(self) -> slice:
        """The outputs of the stage that it is in."""
        k = self.gaussian.outputs
        return slice(0, k) if self.codebook is None else slice(k, None)


def codebook_head(
    space: gymnasium.Space[Any], kind: str, bins: int, learner: EngineLearner | None = None
) -> ActionCodebook | LearnedActionCodebook:
    """The head for actions of a "uniform" or "learned" codebook with this many values in each dimension; `learner` is
    that of its network, or one of its own.

    Raises:
        UsageError: actions are not continuous, or a uniform codebook's have no bounds.
    """
    if not isinstance(space, Box):
        raise UsageError(
            f"algo.action_codebook quantises continuous actions, but the environment's are {type(space).__name__}: "
            "leave it out"
        )
    if kind == "learned":
        return LearnedActionCodebook(space, bins, learner)
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
    if not space.is_bounded():
        where = int(np.argmax(~(np.isfinite(low) & np.isfinite(high))))
        raise UsageError(
            f"algo.action_codebook: dimension {where} of the environment's actions is unbounded, so a uniform codebook "
            f"cannot span it: use {setting('algo.action_codebook', 'learned')}"
        )
    return ActionCodebook(space, np.linspace(low, high, bins, axis=1).astype(np.float32), learner)


def k_means(numbers: np.ndarray, count: int) -> np.ndarray:
    """The `count` centres of numbers [N] by Lloyd's algorithm, increasing, float64.

    It starts from evenly spaced ones over the range, so that the mean squared distance of the numbers to the nearest
    centre is never above theirs. A centre that no number is nearest to stays where it is.
    """
    ordered = np.sort(numbers)
    sums = np.concatenate([[0.0], ordered.cumsum()])
    centres = np.linspace(ordered[0], ordered[-1], count)
    while True:
        ends = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        ends = np.concatenate([[0], ends, [len(ordered)]])
        sizes = np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(sizes, 1)
        moved = np.where(sizes > 0, means, centres)
        if np.allclose(moved, centres, rtol=1e-9, atol=1e-12):
            return moved
        centres = moved

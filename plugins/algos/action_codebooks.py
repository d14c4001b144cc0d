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
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from bitrl.core.acting.policies import CodebookPolicy, Network, Policy, within
from bitrl.core.errors import UsageError
from bitrl.core.wording import setting
from bitrl.plugins.algos.heads import Admissible, Gaussian


class ActionCodebook:
    """Continuous actions of a codebook's values: outputs are k·m logits, those of each dimension together.

    Attributes:
        values: the values of each dimension, float32 [k, m].
        outputs: k·m.
        parameters: learned tensors beside the network's: none.
    """

    def __init__(self, space: Box, values: Tensor):
        self.low, self.high, self.values = space.low, space.high, values
        self.outputs = values.numel()
        self.parameters: list[nn.Parameter] = []

    def noise(self, steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise [steps, num_envs, k·m]: argmax(logits + noise) is a sample in each dimension."""
        return -torch.empty(steps, num_envs, self.outputs).exponential_(generator=generator).log()

    def sample(self, outputs: Tensor, noise: Tensor, admissible: Admissible = None) -> Tensor:
        """Logits and noise [n, k·m] → which value in each dimension, int64 [n, k]."""
        return self._by_dimension(outputs + noise).argmax(dim=2)

    def best(self, outputs: Tensor, admissible: Admissible = None) -> Tensor:
        """The most probable values, int64 [n, k]."""
        return self._by_dimension(outputs).argmax(dim=2)

    def to_env(self, actions: Tensor) -> np.ndarray:
        """Actions as the environments take them: the values, in the space's shape and dtype."""
        taken = self.values[torch.arange(len(self.values)), actions]
        return within(taken.numpy(), self.low, self.high)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return CodebookPolicy(network, self.values.numpy(), self.low, self.high)

    def forward(self, outputs: Tensor, actions: Tensor, admissible: Admissible = None) -> tuple[Tensor, Tensor, Any]:
        """Log-probabilities of `actions` [B], entropies [B], both sums over dimensions, and what `backward` needs."""
        log_probs = self._by_dimension(outputs).log_softmax(dim=2)
        probs = log_probs.exp()
        entropies = -(probs * log_probs).sum(dim=2)
        taken = log_probs.gather(2, actions.unsqueeze(2)).sum(dim=(1, 2))
        return taken, entropies.sum(dim=1), (actions, probs, log_probs, entropies)

    def backward(self, tape: Any, by_log_prob: Tensor, by_entropy: float) -> Tensor:
        """The loss's gradient by the logits [B, k·m], from that by the log-probabilities [B] and that by each entropy;
        in each dimension as for discrete actions (Categorical).
        """
        actions, probs, log_probs, entropies = tape
        weights = by_log_prob.view(-1, 1, 1)
        gradient: Tensor = -probs * (weights + by_entropy * (log_probs + entropies.unsqueeze(2)))
        gradient.scatter_add_(2, actions.unsqueeze(2), weights.expand(-1, actions.shape[1], 1))
        return gradient.flatten(1)

    def _by_dimension(self, outputs: Tensor) -> Tensor:
        """[n, k·m] → [n, k, m]."""
        return outputs.view(-1, *self.values.shape)


class LearnedActionCodebook:
    """A Gaussian policy until `learn` makes a codebook of its actions, and one over that codebook from then on.

    Outputs are k means, and k·m logits that play no part before. The codebook's policy starts as the Gaussian on the
    codebook's values alone: the logit of a value c is log N(c; μ, σ²) but for what is the same for all values,
    c·μ/σ² − c²/(2σ²), which is linear in μ, so the last layer computes it.

    Attributes:
        outputs: k + k·m.
        parameters: the Gaussian's.
        gaussian: the head of the first stage.
        codebook: the head of the second, None in the first.
    """

    def __init__(self, space: Box, bins: int):
        """`bins` is m."""
        self.space, self.bins, self.gaussian = space, bins, Gaussian(space)
        self.codebook: ActionCodebook | None = None
        self.parameters = self.gaussian.parameters
        self.outputs = self.gaussian.outputs * (1 + bins)

    @property
    def head(self) -> Gaussian | ActionCodebook:
        """The head of the stage that it is in."""
        return self.gaussian if self.codebook is None else self.codebook

    def learn(self, actions: np.ndarray, last: nn.Linear) -> None:
        """Make the codebook of actions [N, ...] that were sent to environments, and the logits of it in the policy's
        `last` layer.
        """
        columns = actions.reshape(-1, self.gaussian.outputs).astype(np.float64)
        values = torch.from_numpy(np.stack([k_means(column, self.bins) for column in columns.T])).float()
        self.use(values)
        k, precisions = len(values), (-2 * self.gaussian.log_std.detach()).exp().unsqueeze(1)
        with torch.no_grad():
            slopes = values * precisions  # [k, m]
            last.weight[k:] = (slopes.unsqueeze(2) * last.weight[:k].unsqueeze(1)).flatten(0, 1)
            last.bias[k:] = (slopes * last.bias[:k].unsqueeze(1) - slopes * values / 2).flatten()

    def use(self, values: Tensor) -> None:
        """Choose among these values, float32 [k, m], from now on."""
        self.codebook = ActionCodebook(self.space, values)

    def noise(self, steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Noise for `sample`, [steps, num_envs, ...]."""
        return self.head.noise(steps, num_envs, generator)

    def sample(self, outputs: Tensor, noise: Tensor, admissible: Admissible = None) -> Tensor:
        """Outputs [n, k + k·m] and noise → actions [n, k]: numbers, then which value of the codebook."""
        return self.head.sample(outputs[:, self._used], noise)

    def best(self, outputs: Tensor, admissible: Admissible = None) -> Tensor:
        """The most probable actions [n, k], as `sample` has them."""
        return self.head.best(outputs[:, self._used])

    def to_env(self, actions: Tensor) -> np.ndarray:
        """Actions as the environments take them."""
        return self.head.to_env(actions)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return self.head.numpy_policy(network.of_outputs(self._used))

    def forward(self, outputs: Tensor, actions: Tensor, admissible: Admissible = None) -> tuple[Tensor, Tensor, Any]:
        """Log-probabilities of `actions` [B], entropies [B], and what `backward` needs."""
        return self.head.forward(outputs[:, self._used], actions)

    def backward(self, tape: Any, by_log_prob: Tensor, by_entropy: float) -> Tensor:
        """The loss's gradient by the outputs [B, k + k·m]; sets that by the log standard deviations, zero once there is
        a codebook.
        """
        by_used = self.head.backward(tape, by_log_prob, by_entropy)
        if self.codebook is not None and self.gaussian.log_std.grad is not None:
            self.gaussian.log_std.grad.zero_()
        gradient = torch.zeros(len(by_used), self.outputs)
        gradient[:, self._used] = by_used
        return gradient

    @property
    def _used(self) -> slice:
        """The outputs of the stage that it is in."""
        k = self.gaussian.outputs
        return slice(0, k) if self.codebook is None else slice(k, None)


def codebook_head(space: gymnasium.Space[Any], kind: str, bins: int) -> ActionCodebook | LearnedActionCodebook:
    """The head for actions of a "uniform" or "learned" codebook with this many values in each dimension.

    Raises:
        UsageError: actions are not continuous, or a uniform codebook's have no bounds.
    """
    if not isinstance(space, Box):
        raise UsageError(
            f"algo.action_codebook quantises continuous actions, but the environment's are {type(space).__name__}: "
            "leave it out"
        )
    if kind == "learned":
        return LearnedActionCodebook(space, bins)
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
    if not space.is_bounded():
        where = int(np.argmax(~(np.isfinite(low) & np.isfinite(high))))
        raise UsageError(
            f"algo.action_codebook: dimension {where} of the environment's actions is unbounded, so a uniform codebook "
            f"cannot span it: use {setting('algo.action_codebook', 'learned')}"
        )
    return ActionCodebook(space, torch.from_numpy(np.linspace(low, high, bins, axis=1)).float())


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

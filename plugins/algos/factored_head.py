"""Distributions over actions of several factors (core/acting/factors.py): the product of one for each, given the state.
Log-probabilities and entropies are sums. Shapes: B or n states, k outputs, c columns of an action.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.acting.factors import Factor, values_of
from bitrl.core.acting.policies import FactoredPolicy, Network, Policy, within
from bitrl.core.environments.action_spaces import FACTORED, factored_actions
from bitrl.core.errors import UsageError
from bitrl.plugins.algos.heads import Admissible, Categorical, Gaussian

MOST_OUTPUTS = 1_000_000
"""Of a head: logits, and means of continuous numbers."""


class Choices:
    """`count` independent choices among `size` values each: `Categorical` on so many times as many states.

    Attributes:
        outputs: k, the logits of each choice after those of the one before.
        columns: c, how many choices there are.
        parameters: learned tensors beside the network's: none.
    """

    def __init__(self, size: int, count: int):
        self.categorical, self.size, self.columns = Categorical(Discrete(size)), size, count
        self.outputs = size * count
        self.parameters: list[nn.Parameter] = []

    def noise(self, steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise [steps, num_envs, k]."""
        return self.categorical.noise(steps, num_envs * self.columns, generator).view(steps, num_envs, self.outputs)

    def sample(self, outputs: Tensor, noise: Tensor, admissible: Admissible = None) -> Tensor:
        """Logits and noise [n, k] → which value each choice takes, int64 [n, c]."""
        rows = self._rows(outputs), self._rows(noise), self._admissible(admissible)
        return self.categorical.sample(*rows).view(-1, self.columns)

    def best(self, outputs: Tensor, admissible: Admissible = None) -> Tensor:
        """The most probable values, int64 [n, c]."""
        return self.categorical.best(self._rows(outputs), self._admissible(admissible)).view(-1, self.columns)

    def forward(self, outputs: Tensor, actions: Tensor, admissible: Admissible = None) -> tuple[Tensor, Tensor, Any]:
        """Log-probabilities of `actions` [B, c] and entropies, both summed, [B], and what `backward` needs."""
        rows = self._rows(outputs), actions.long().reshape(-1), self._admissible(admissible)
        log_probs, entropies, tape = self.categorical.forward(*rows)
        return log_probs.view(-1, self.columns).sum(dim=1), entropies.view(-1, self.columns).sum(dim=1), tape

    def backward(self, tape: Any, by_log_prob: Tensor, by_entropy: float) -> Tensor:
        """The loss's gradient by the logits [B, k]."""
        gradient = self.categorical.backward(tape, by_log_prob.repeat_interleave(self.columns), by_entropy)
        return gradient.view(-1, self.outputs)

    def _rows(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(-1, self.size)

    def _admissible(self, admissible: Admissible) -> Admissible:
        return None if admissible is None else admissible.map(self._rows)


class FactoredHead:
    """Actions of several factors: `Choices` where successive ones have equally many values, a `Gaussian` for each Box.

    An action is a float32 row [c]: which value each choice takes, counted from 0, and a Box's numbers, in order
    (float32 has integers up to 2^24).

    Attributes:
        outputs: k, those of all heads side by side.
        heads: the distributions, in order.
        parameters: the log standard deviations of the Gaussians.
    """

    def __init__(self, space: gymnasium.Space[Any]):
        self.actions = factored_actions(space)
        self.heads: list[Choices | Gaussian] = []
        self.outputs = sum(factor.outputs for factor in self.actions.factors)
        if self.outputs > MOST_OUTPUTS:
            raise UsageError(
                f"the environment's actions have {self.outputs:,} values in all, too many for a policy that scores "
                f"each: expected at most {MOST_OUTPUTS:,}; let it take a Box of numbers, or several choices of fewer"
            )
        for factor in self.actions.factors:
            self.heads += _heads_of(factor)
        self.parameters = [parameter for head in self.heads for parameter in head.parameters]

    @property
    def gaussians(self) -> list[Gaussian]:
        """The heads of continuous factors."""
        return [head for head in self.heads if isinstance(head, Gaussian)]

    def noise(self, steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """The noise of every head, side by side: [steps, num_envs, k]."""
        return torch.cat([head.noise(steps, num_envs, generator) for head in self.heads], dim=2)

    def sample(self, outputs: Tensor, noise: Tensor, admissible: Admissible = None) -> Tensor:
        """Outputs and noise [n, k] → actions float32 [n, c]."""
        each = zip(self.heads, self._split(outputs), self._split(noise), self._masks(admissible), strict=True)
        return torch.cat([head.sample(own, drawn, mask).float() for head, own, drawn, mask in each], dim=1)

    def best(self, outputs: Tensor, admissible: Admissible = None) -> Tensor:
        """The most probable actions, float32 [n, c]."""
        each = zip(self.heads, self._split(outputs), self._masks(admissible), strict=True)
        return torch.cat([head.best(own, mask).float() for head, own, mask in each], dim=1)

    def to_env(self, actions: Tensor) -> np.ndarray:
        """Actions as the environments take them: [n, ...], records where they have several parts."""
        values, place = [], 0
        for factor in self.actions.factors:
            own = actions[:, place : place + factor.low.size].numpy()
            place += factor.low.size
            box = factor.kind == "Box"
            values.append(within(own, factor.low, factor.high) if box else values_of(factor, own.astype(np.int64)))
        return self.actions.joined(values)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return FactoredPolicy(network, self.actions.low, self.actions.high, self.actions.kinds)

    def forward(self, outputs: Tensor, actions: Tensor, admissible: Admissible = None) -> tuple[Tensor, Tensor, Any]:
        """Log-probabilities of `actions` [B], entropies [B], and what `backward` needs."""
        columns = actions.split([_columns(head) for head in self.heads], dim=1)
        each = zip(self.heads, self._split(outputs), columns, self._masks(admissible), strict=True)
        found = [head.forward(own, taken, mask) for head, own, taken, mask in each]
        log_probs, entropies = (torch.stack([one[part] for one in found]).sum(dim=0) for part in (0, 1))
        return log_probs, entropies, [tape for *_, tape in found]

    def backward(self, tape: Any, by_log_prob: Tensor, by_entropy: float) -> Tensor:
        """The loss's gradient by the outputs [B, k]; sets those by the log standard deviations."""
        each = zip(self.heads, tape, strict=True)
        return torch.cat([head.backward(own, by_log_prob, by_entropy) for head, own in each], dim=1)

    def _split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = outputs.split([head.outputs for head in self.heads], dim=1)
        return parts

    def _masks(self, admissible: Admissible) -> list[Admissible]:
        """The part of the mask that is each head's; None for a Gaussian."""
        if admissible is None or not self.actions.values:
            return [None] * len(self.heads)
        counts = [head.outputs if isinstance(head, Choices) else 0 for head in self.heads]
        masks = admissible.mask.split(counts, dim=1)
        return [AdmissibleActions(mask) if mask.shape[1] else None for mask in masks]


def _heads_of(factor: Factor) -> list[Choices | Gaussian]:
    """The distributions of one factor."""
    if factor.kind == "Box":
        return [Gaussian(Box(factor.low, factor.high, dtype=factor.low.dtype.type))]
    runs = groupby(factor.sizes)
    return [Choices(size, len([*run])) for size, run in runs]


def _columns(head: Choices | Gaussian) -> int:
    return head.columns if isinstance(head, Choices) else head.outputs


def action_head(space: gymnasium.Space[Any]) -> Categorical | Gaussian | FactoredHead:
    """The head for an action space whose actions are numbers.

    Raises:
        UsageError: it is another space.
    """
    if isinstance(space, Discrete):
        return Categorical(space)
    if isinstance(space, Box):
        return Gaussian(space)
    if isinstance(space, FACTORED):
        return FactoredHead(space)
    raise UsageError(
        f"there is no action head for {type(space).__name__} actions: Box, Discrete, MultiDiscrete, MultiBinary, and "
        "Dict and Tuple of these only"
    )

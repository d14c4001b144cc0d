"""Distributions over actions of several factors (core/acting/factors.py): the product of one for each, given the state.
Log-probabilities and entropies are sums. Shapes: B or n states, k outputs, c columns of an action.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.acting.factors import Factor, values_of
from bitrl.core.acting.policies import FactoredPolicy, Network, Policy, within
from bitrl.core.environments.action_spaces import FACTORED, factored_actions
from bitrl.core.errors import UsageError
from bitrl.plugins.algos.engine_learner import EngineLearner
from bitrl.plugins.algos.heads import Admissible, Categorical, Gaussian

MOST_OUTPUTS = 1_000_000
"""Of a head: logits, and means of continuous numbers."""


class Choices:
    """`count` independent choices among `values` values each: `Categorical` on so many times as many states.

    Attributes:
        outputs: k, the logits of each choice after those of the one before.
        columns: c, how many choices there are.
    """

    def __init__(self, values: int, count: int, learner: EngineLearner | None = None):
        self.categorical, self.values, self.columns = Categorical(Discrete(values), learner), values, count
        self.outputs = values * count

    def noise(self, steps: int, num_envs: int, generator: np.random.Generator) -> np.ndarray:
        """Standard Gumbel noise float32 [steps, num_envs, k]."""
        return self.categorical.noise(steps, num_envs * self.columns, generator).reshape(steps, num_envs, self.outputs)

    def sample(self, outputs: np.ndarray, noise: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """Logits and noise [n, k] → which value each choice takes, int64 [n, c]."""
        rows = self._rows(outputs), self._rows(noise), self._admissible(admissible)
        return self.categorical.sample(*rows).reshape(-1, self.columns)

    def best(self, outputs: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """The most probable values, int64 [n, c]."""
        return self.categorical.best(self._rows(outputs), self._admissible(admissible)).reshape(-1, self.columns)

    def forward(
        self, outputs: np.ndarray, actions: np.ndarray, admissible: Admissible = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` [B, c] and entropies, both summed over choices, float32 [B]."""
        rows = self._rows(outputs), actions.astype(np.int64).reshape(-1), self._admissible(admissible)
        log_probs, entropies = self.categorical.forward(*rows)
        return log_probs.reshape(-1, self.columns).sum(axis=1), entropies.reshape(-1, self.columns).sum(axis=1)

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> np.ndarray:
        """The loss's gradient by the logits [B, k]."""
        return self.categorical.backward(by_log_probs.repeat(self.columns), by_entropies).reshape(-1, self.outputs)

    def _rows(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.reshape(-1, self.values)

    def _admissible(self, admissible: Admissible) -> Admissible:
        return None if admissible is None else admissible.map(self._rows)


class FactoredHead:
    """Actions of several factors: `Choices` where successive ones have equally many values, a `Gaussian` for each Box.

    An action is a float32 row [c]: which value each choice takes, counted from 0, and a Box's numbers, in order
    (float32 has integers up to 2^24).

    Attributes:
        outputs: k, those of all heads side by side.
        heads: the distributions, in order.
        size: how many log standard deviations of the Gaussians are learned beside the network.
    """

    widths = ()

    def __init__(self, space: gymnasium.Space[Any], learner: EngineLearner | None = None):
        learner = learner or EngineLearner()
        self.actions = factored_actions(space)
        self.heads: list[Choices | Gaussian] = []
        self.outputs = sum(factor.outputs for factor in self.actions.factors)
        _refuse_too_many(self.outputs)
        for factor in self.actions.factors:
            self.heads += _heads_of(factor, learner)
        self.size = sum(gaussian.size for gaussian in self.gaussians)

    @property
    def gaussians(self) -> list[Gaussian]:
        """The heads of continuous factors."""
        return [head for head in self.heads if isinstance(head, Gaussian)]

    def use(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """Keep the Gaussians' log standard deviations, and their gradients, in these arrays, float32 [size]."""
        at = 0
        for gaussian in self.gaussians:
            own = slice(at, at + gaussian.size)
            gaussian.use(parameters[own], gradients[own])
            at += gaussian.size

    def noise(self, steps: int, num_envs: int, generator: np.random.Generator) -> np.ndarray:
        """The noise of every head, side by side: float32 [steps, num_envs, k]."""
        return np.concatenate([head.noise(steps, num_envs, generator) for head in self.heads], axis=2)

    def sample(self, outputs: np.ndarray, noise: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """Outputs and noise [n, k] → actions float32 [n, c]."""
        each = zip(self.heads, self._split(outputs), self._split(noise), self._masks(admissible), strict=True)
        return _row([head.sample(own, drawn, mask) for head, own, drawn, mask in each])

    def best(self, outputs: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """The most probable actions, float32 [n, c]."""
        each = zip(self.heads, self._split(outputs), self._masks(admissible), strict=True)
        return _row([head.best(own, mask) for head, own, mask in each])

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environments take them: [n, ...], records where they have several parts."""
        values, place = [], 0
        for factor in self.actions.factors:
            own = actions[:, place : place + factor.low.size]
            place += factor.low.size
            box = factor.kind == "Box"
            values.append(within(own, factor.low, factor.high) if box else values_of(factor, own.astype(np.int64)))
        return self.actions.joined(values)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return FactoredPolicy(network, self.actions.low, self.actions.high, self.actions.kinds)

    def forward(
        self, outputs: np.ndarray, actions: np.ndarray, admissible: Admissible = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` and entropies, float32 [B]."""
        columns = _split(actions, [_columns(head) for head in self.heads])
        each = zip(self.heads, self._split(outputs), columns, self._masks(admissible), strict=True)
        found = [head.forward(own, taken, mask) for head, own, taken, mask in each]
        log_probs, entropies = (np.sum([one[part] for one in found], axis=0) for part in (0, 1))
        return log_probs, entropies

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> np.ndarray:
        """The loss's gradient by the outputs [B, k]; sets those by the log standard deviations."""
        return np.concatenate([head.backward(by_log_probs, by_entropies) for head in self.heads], axis=1)

    def _split(self, outputs: np.ndarray) -> list[np.ndarray]:
        return _split(outputs, [head.outputs for head in self.heads])

    def _masks(self, admissible: Admissible) -> list[Admissible]:
        """The part of the mask that is each head's; None for a Gaussian."""
        if admissible is None or not self.actions.values:
            return [None] * len(self.heads)
        counts = [head.outputs if isinstance(head, Choices) else 0 for head in self.heads]
        return [AdmissibleActions(mask) if mask.shape[1] else None for mask in _split(admissible.mask, counts)]


def _split(array: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    """An array [n, sum of counts] → its columns by so many."""
    return np.split(array, np.cumsum(counts)[:-1], axis=1)


def _row(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.astype(np.float32, copy=False) for part in parts], axis=1)


def _heads_of(factor: Factor, learner: EngineLearner) -> list[Choices | Gaussian]:
    """The distributions of one factor."""
    if factor.kind == "Box":
        return [Gaussian(Box(factor.low, factor.high, dtype=factor.low.dtype.type), learner)]
    runs = groupby(factor.sizes)
    return [Choices(size, len([*run]), learner) for size, run in runs]


def _refuse_too_many(values: int) -> None:
    """Raises UsageError for more values to choose from than a policy can score."""
    if values > MOST_OUTPUTS:
        raise UsageError(
            f"the environment's actions have {values:,} values in all, too many for a policy that scores each: "
            f"expected at most {MOST_OUTPUTS:,}; let it take a Box of numbers, or several choices of fewer"
        )


def _columns(head: Choices | Gaussian) -> int:
    return head.columns if isinstance(head, Choices) else head.outputs


def action_head(
    space: gymnasium.Space[Any], learner: EngineLearner | None = None
) -> Categorical | Gaussian | FactoredHead:
    """The head for an action space whose actions are numbers; `learner` is that of its network, or one of its own.

    Raises:
        UsageError: it is another space, or has more actions than a policy can score.
    """
    if isinstance(space, Discrete):
        _refuse_too_many(int(space.n))
        return Categorical(space, learner)
    if isinstance(space, Box):
        return Gaussian(space, learner)
    if isinstance(space, FACTORED):
        return FactoredHead(space, learner)
    raise UsageError(
        f"there is no action head for {type(space).__name__} actions: Box, Discrete, MultiDiscrete, MultiBinary, and "
        "Dict and Tuple of these only"
    )

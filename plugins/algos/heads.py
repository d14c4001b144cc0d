"""Distributions over actions, from a policy network's outputs. Shapes: B or n states, k outputs or actions.

Each knows how to sample, and its log-probabilities and entropies together with their gradients, which the engine
computes (engine_learner.py). All are numpy arrays, outputs float32. `backward` goes back from the last `forward`. What
is learned beside the network are `size` numbers, which `use` keeps in arrays that an optimiser steps
(parameter_groups.py).
"""

from __future__ import annotations

import math

import gymnasium
import numpy as np

from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.acting.policies import CommandPolicy, Continuous, Discrete, Network, Policy, within
from bitrl.core.wording import setting
from bitrl.plugins.algos.engine_learner import (
    EngineCategorical,
    EngineChoice,
    EngineGaussian,
    EngineLearner,
    EngineNetwork,
)
from bitrl.plugins.algos.numpy_policy import numpy_network
from bitrl.plugins.algos.standardise import Standardisation

Admissible = AdmissibleActions | None
"""None where all actions are admissible in every state."""


class Categorical:
    """Discrete actions: outputs are logits.

    Attributes:
        outputs: k, the number of actions.
        size: how many numbers are learned beside the network: none.
    """

    size, widths = 0, ()

    def __init__(self, space: gymnasium.spaces.Discrete, learner: EngineLearner | None = None):
        self.outputs, self.start = int(space.n), int(space.start)
        self.engine = EngineCategorical(learner or EngineLearner())

    def use(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """Nothing is learned beside the network."""

    def noise(self, steps: int, num_envs: int, generator: np.random.Generator) -> np.ndarray:
        """Standard Gumbel noise float32 [steps, num_envs, k]: argmax(logits + noise) is a sample. Drawn for a whole
        rollout at once.
        """
        return generator.gumbel(size=(steps, num_envs, self.outputs)).astype(np.float32)

    def sample(self, outputs: np.ndarray, noise: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """Logits [n, k] and noise [n, at least k] → actions int64 [n], counted from 0."""
        actions: np.ndarray = (masked(outputs, admissible) + noise[:, : outputs.shape[1]]).argmax(axis=1)
        return actions

    def best(self, outputs: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """The most probable actions, int64 [n]."""
        actions: np.ndarray = masked(outputs, admissible).argmax(axis=1)
        return actions

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environments take them: counted from the space's own start."""
        return actions + self.start

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return Discrete(network, self.start)

    def forward(
        self, outputs: np.ndarray, actions: np.ndarray, admissible: Admissible = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` and entropies, float32 [B]."""
        mask = None if admissible is None else np.ascontiguousarray(admissible.mask)
        return self.engine.forward(np.ascontiguousarray(outputs), np.ascontiguousarray(actions), mask)

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> np.ndarray:
        """The loss's gradient by the outputs [B, k], from that by the log-probabilities [B] and that by each entropy.

        ∂log p(a)/∂z = 1_a − p and ∂H/∂z = −p·(log p + H).
        """
        return self.engine.backward(by_log_probs, by_entropies)


def masked(logits: np.ndarray, admissible: Admissible) -> np.ndarray:
    """Logits [n, k], far below all others where an action is not admissible: its probability is then exactly zero."""
    return logits if admissible is None else np.where(admissible.mask, logits, np.float32(-1e9))


class TextChoice:
    """Text actions: a command's logit is the product of the policy network's outputs, a query [n, k], and of
    the command's key, which a small network makes of its features, divided by √k; their softmax is the policy.

    Attributes:
        outputs: k, the length of queries and keys.
        size, widths: of the keys' network: how many numbers it learns, and of its layers.
        standardise: the standardisation of command features before it.
    """

    def __init__(
        self, space: gymnasium.spaces.Discrete, width: int, learner: EngineLearner | None = None, seed: int = 0
    ):
        """`width` is that of a command's features; `seed` that of the keys' network."""
        learner = learner or EngineLearner()
        self.outputs = 64
        self.categorical, self.choice = Categorical(space, learner), EngineChoice(learner)
        self.keys = EngineNetwork(learner, (width, 128, self.outputs), batch=64)
        self.keys.initialise(1.0, seed)
        self.size, self.widths = self.keys.size, self.keys.widths
        self.standardise = Standardisation(width)

    def use(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """Keep the weights of the keys' network, and their gradients, in these arrays, float32 [size]."""
        self.keys.use(parameters, gradients)

    def noise(self, steps: int, num_envs: int, generator: np.random.Generator) -> np.ndarray:
        """As for discrete actions, for the largest number of commands in a state."""
        return self.categorical.noise(steps, num_envs, generator)

    def sample(self, outputs: np.ndarray, noise: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """Queries [n, k] and noise → which of the commands, int64 [n]."""
        return self.categorical.sample(self._logits(outputs, admissible), noise, admissible)

    def best(self, outputs: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """The most probable commands, int64 [n]."""
        return self.categorical.best(self._logits(outputs, admissible), admissible)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environments take them."""
        return self.categorical.to_env(actions)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return CommandPolicy(network, numpy_network(self.keys, self.standardise))

    def forward(
        self, outputs: np.ndarray, actions: np.ndarray, admissible: Admissible = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` and entropies, float32 [B]."""
        features, places, mask = self._commands(admissible)
        self.keys.make_room(len(features))
        keys = self.keys.forward(features)
        return self.choice.forward(outputs, keys, places, mask, np.ascontiguousarray(actions))

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> np.ndarray:
        """The loss's gradient by the queries [B, k]; sets that by the keys' network."""
        by_queries, by_keys = self.choice.backward(by_log_probs, by_entropies)
        self.keys.backward(by_keys)
        return by_queries

    def _logits(self, queries: np.ndarray, admissible: Admissible) -> np.ndarray:
        """Logits of the commands [n, most in a state]."""
        features, places, _ = self._commands(admissible)
        return self.choice.logits(queries, self.keys.outputs(features), places)

    def _commands(self, admissible: Admissible) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standardised features of the commands in these states [C, width], which of them each state has, int64 [n,
        most], and whether it has so many, bool [n, most].
        """
        assert admissible is not None
        assert admissible.commands is not None
        rows, places = np.unique(
            admissible.rows, return_inverse=True
        )  # a state shares most of its commands with others
        features = self.standardise(admissible.commands.features[rows])
        return features, places.reshape(admissible.rows.shape), np.ascontiguousarray(admissible.mask)


WIDEST = 20
"""How many standard deviations apart the bounds of actions may be without a word."""


class Gaussian:
    """Continuous actions: outputs are the means of a diagonal Gaussian whose log standard deviations are learned and do
    not depend on the state.

    Actions are clipped to the space's bounds on their way to the environment, and rounded where it takes integers;
    probabilities are those of the unclipped, unrounded ones.

    Attributes:
        outputs: k, the number of action dimensions.
        size: k log standard deviations are learned beside the network.
    """

    widths = ()

    def __init__(self, space: gymnasium.spaces.Box, learner: EngineLearner | None = None):
        self.low, self.high = space.low, space.high
        self.outputs = self.size = math.prod(space.shape)
        log_std, by_log_std = np.zeros(self.size, np.float32), np.zeros(self.size, np.float32)
        self.engine = EngineGaussian(learner or EngineLearner(), log_std, by_log_std)

    @property
    def log_std(self) -> np.ndarray:
        """The log standard deviations, float32 [k]."""
        return self.engine.log_std

    @property
    def by_log_std(self) -> np.ndarray:
        """The loss's gradient by these, float32 [k]; set by `backward`."""
        return self.engine.by_log_std

    def out_of_reach(self) -> str:
        """What to say of bounds so far apart that actions around zero leave most of what is between them untried; "" of
        others.
        """
        std = np.exp(self.log_std.astype(np.float64))
        low, high = (bound.reshape(-1).astype(np.float64) for bound in (self.low, self.high))
        far = np.isfinite(low) & np.isfinite(high) & (high - low > WIDEST * std)
        if not far.any():
            return ""
        where = int(np.argmax(far))
        return (
            f"actions may be from {low[where]:g} to {high[where]:g}, but the policy begins with 0 ± {std[where]:g} and "
            f"leaves most of them untried: choose {setting('algo.action_codebook', 'uniform')}, or rescale them by "
            "gymnasium.wrappers.RescaleAction"
        )

    def use(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """Keep the log standard deviations, and their gradients, in these arrays, float32 [k]."""
        parameters[:] = self.log_std
        self.engine.log_std, self.engine.by_log_std = parameters, gradients

    def noise(self, steps: int, num_envs: int, generator: np.random.Generator) -> np.ndarray:
        """Standard normal noise float32 [steps, num_envs, k]."""
        return generator.standard_normal((steps, num_envs, self.outputs)).astype(np.float32)

    def sample(self, outputs: np.ndarray, noise: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """Means [n, k] and noise [n, k] → actions float32 [n, k], not clipped."""
        # In double precision, which rounds to the same float32 by any instruction set.
        std = np.exp(self.log_std.astype(np.float64)).astype(np.float32)
        actions: np.ndarray = outputs + noise * std
        return actions

    def best(self, outputs: np.ndarray, admissible: Admissible = None) -> np.ndarray:
        """The means, float32 [n, k]."""
        return outputs

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environments take them: in the space's shape and dtype, within its bounds."""
        return within(actions, self.low, self.high)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return Continuous(network, self.low, self.high)

    def forward(
        self, outputs: np.ndarray, actions: np.ndarray, admissible: Admissible = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of `actions` and entropies, float32 [B]."""
        return self.engine.forward(np.ascontiguousarray(outputs), np.ascontiguousarray(actions))

    def backward(self, by_log_probs: np.ndarray, by_entropies: float) -> np.ndarray:
        """The loss's gradient by the outputs [B, k]; sets that by the log standard deviations.

        With u = (a − μ)/σ: ∂log p/∂μ = u/σ, ∂log p/∂log σ = u² − 1, ∂H/∂log σ = 1.
        """
        return self.engine.backward(by_log_probs, by_entropies)


def hold(noise: np.ndarray, mean_steps: float, generator: np.random.Generator) -> np.ndarray:
    """Noise [T, n, k] that each environment keeps for `mean_steps` steps on average: at every step it takes that step's
    noise with probability 1 / mean_steps, and else stays with what it had. With 1, `noise` itself.

    Actions then persist, as exploration needs where single actions have little effect (compare coloured noise,
    Hollenstein et al. 2024, arXiv 2312.11091), until the policy is sure enough for its outputs to outweigh the noise.
    At any step chosen beforehand the noise has the distribution that it had, so each action is a sample of the policy;
    but it is not independent of the state that the same noise led to, which the learner leaves out of account.
    """
    if mean_steps == 1:
        return noise
    steps, num_envs, _ = noise.shape
    fresh = generator.random((steps, num_envs)) < 1 / mean_steps
    drawn_at = np.maximum.accumulate(np.where(fresh, np.arange(steps)[:, None], 0), axis=0)
    held: np.ndarray = noise[drawn_at, np.arange(num_envs)]
    return held

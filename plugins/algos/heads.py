"""Distributions over actions, from a policy network's outputs. Shapes: B or n states, k outputs or actions.

Each knows how to sample, and its log-probabilities and entropies together with their gradients, written out (see
backprop.py). Where the admissible actions differ from state to state, `AdmissibleActions` of tensors hold them.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.acting.policies import CommandPolicy, Continuous, Discrete, Network, Policy, within
from bitrl.plugins.algos.backprop import backward, forward, mlp
from bitrl.plugins.algos.numpy_policy import numpy_network
from bitrl.plugins.algos.standardise import Standardisation

Admissible = AdmissibleActions | None
"""Of tensors; None where all actions are admissible in every state."""


class Categorical:
    """Discrete actions: outputs are logits.

    Attributes:
        outputs: k, the number of actions.
        parameters: learned tensors beside the network's: none.
    """

    def __init__(self, space: gymnasium.spaces.Discrete):
        self.outputs, self.start = int(space.n), int(space.start)
        self.parameters: list[nn.Parameter] = []

    def noise(self, steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise [steps, num_envs, k]: argmax(logits + noise) is a sample. Drawn for a whole rollout
        at once.
        """
        return -torch.empty(steps, num_envs, self.outputs).exponential_(generator=generator).log()

    def sample(self, outputs: Tensor, noise: Tensor, admissible: Admissible = None) -> Tensor:
        """Logits [n, k] and noise [n, at least k] → actions int64 [n], counted from 0."""
        return (masked(outputs, admissible) + noise[:, : outputs.shape[1]]).argmax(dim=1)

    def best(self, outputs: Tensor, admissible: Admissible = None) -> Tensor:
        """The most probable actions, int64 [n]."""
        return masked(outputs, admissible).argmax(dim=1)

    def to_env(self, actions: Tensor) -> np.ndarray:
        """Actions as the environments take them: counted from the space's own start."""
        return actions.numpy() + self.start

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return Discrete(network, self.start)

    def forward(self, outputs: Tensor, actions: Tensor, admissible: Admissible = None) -> tuple[Tensor, Tensor, Any]:
        """Log-probabilities of `actions` [B], entropies [B], and what `backward` needs."""
        log_probs = masked(outputs, admissible).log_softmax(dim=1)
        probs = log_probs.exp()
        entropies = -(probs * log_probs).sum(dim=1)
        return log_probs.gather(1, actions.unsqueeze(1)).squeeze(1), entropies, (actions, probs, log_probs, entropies)

    def backward(self, tape: Any, by_log_prob: Tensor, by_entropy: float) -> Tensor:
        """The loss's gradient by the outputs [B, k], from that by the log-probabilities [B] and that by each entropy.

        ∂log p(a)/∂z = 1_a − p and ∂H/∂z = −p·(log p + H).
        """
        actions, probs, log_probs, entropies = tape
        gradient: Tensor = -probs * (by_log_prob.unsqueeze(1) + by_entropy * (log_probs + entropies.unsqueeze(1)))
        gradient.scatter_add_(1, actions.unsqueeze(1), by_log_prob.unsqueeze(1))
        return gradient


def masked(logits: Tensor, admissible: Admissible) -> Tensor:
    """Logits [n, k], far below all others where an action is not admissible: its probability is then exactly zero."""
    return logits if admissible is None else logits.masked_fill(~admissible.mask, -1e9)


class TextChoice:
    """Text actions: a command's logit is the product of the policy network's outputs, a query [n, k], and of
    the command's key, which a small network makes of its features; their softmax is the policy.

    Attributes:
        outputs: k, the length of queries and keys.
        parameters: the weights of the keys' network.
        standardise: the standardisation of command features before it.
    """

    def __init__(self, space: gymnasium.spaces.Discrete, width: int):
        """`width` is that of a command's features."""
        self.outputs = 64
        self.categorical = Categorical(space)
        self.keys = mlp((width, 128, self.outputs), gain=1.0)
        self.parameters = [*self.keys.parameters()]
        self.standardise = Standardisation(width)

    def noise(self, steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """As for discrete actions, for the largest number of commands in a state."""
        return self.categorical.noise(steps, num_envs, generator)

    def sample(self, outputs: Tensor, noise: Tensor, admissible: Admissible = None) -> Tensor:
        """Queries [n, k] and noise → which of the commands, int64 [n]."""
        return self.categorical.sample(self._logits(outputs, admissible)[0], noise, admissible)

    def best(self, outputs: Tensor, admissible: Admissible = None) -> Tensor:
        """The most probable commands, int64 [n]."""
        return self.categorical.best(self._logits(outputs, admissible)[0], admissible)

    def to_env(self, actions: Tensor) -> np.ndarray:
        """Actions as the environments take them."""
        return self.categorical.to_env(actions)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return CommandPolicy(network, numpy_network(self.keys, self.standardise))

    def forward(self, outputs: Tensor, actions: Tensor, admissible: Admissible = None) -> tuple[Tensor, Tensor, Any]:
        """Log-probabilities of `actions` [B], entropies [B], and what `backward` needs."""
        logits, places, keys, tape = self._logits(outputs, admissible)
        log_probs, entropies, inner = self.categorical.forward(logits, actions, admissible)
        return log_probs, entropies, (outputs, places, keys, tape, inner)

    def backward(self, tape: Any, by_log_prob: Tensor, by_entropy: float) -> Tensor:
        """The loss's gradient by the queries [B, k]; sets that by the keys' network."""
        queries, places, keys, keys_tape, inner = tape
        by_logits = self.categorical.backward(inner, by_log_prob, by_entropy) * self.outputs**-0.5
        by_pair = torch.zeros(len(queries), len(keys)).scatter_add_(1, places, by_logits)
        backward(self.keys, keys_tape, by_pair.t() @ queries)
        by_queries: Tensor = by_pair @ keys
        return by_queries

    def _logits(self, queries: Tensor, admissible: Admissible) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Logits of the commands [n, most in a state], which of the keys each has [n, most], the keys of all commands
        in these states [C, k], and what the keys' network's `backward` needs.
        """
        assert admissible is not None
        assert admissible.commands is not None
        rows, places = admissible.rows.unique(return_inverse=True)  # a state shares most of its commands with others
        keys, tape = forward(self.keys, self.standardise(admissible.commands.features[rows.numpy()]))
        return (queries @ keys.t() * self.outputs**-0.5).gather(1, places), places, keys, tape


class Gaussian:
    """Continuous actions: outputs are the means of a diagonal Gaussian whose log standard deviations are learned and do
    not depend on the state.

    Actions are clipped to the space's bounds on their way to the environment, and rounded where it takes integers;
    probabilities are those of the unclipped, unrounded ones.

    Attributes:
        outputs: k, the number of action dimensions.
        parameters: the log standard deviations [k].
    """

    def __init__(self, space: gymnasium.spaces.Box):
        self.low, self.high = space.low, space.high
        self.outputs = math.prod(space.shape)
        self.log_std = nn.Parameter(torch.zeros(self.outputs))
        self.parameters = [self.log_std]

    def noise(self, steps: int, num_envs: int, generator: torch.Generator) -> Tensor:
        """Standard normal noise [steps, num_envs, k]."""
        return torch.randn(steps, num_envs, self.outputs, generator=generator)

    def sample(self, outputs: Tensor, noise: Tensor, admissible: Admissible = None) -> Tensor:
        """Means [n, k] and noise [n, k] → actions float32 [n, k], not clipped."""
        return outputs + noise * self.log_std.detach().exp()

    def best(self, outputs: Tensor, admissible: Admissible = None) -> Tensor:
        """The means, float32 [n, k]."""
        return outputs

    def to_env(self, actions: Tensor) -> np.ndarray:
        """Actions as the environments take them: in the space's shape and dtype, within its bounds."""
        return within(actions.numpy(), self.low, self.high)

    def numpy_policy(self, network: Network) -> Policy:
        """The policy that acts as `best` does on the outputs of `network`."""
        return Continuous(network, self.low, self.high)

    def forward(self, outputs: Tensor, actions: Tensor, admissible: Admissible = None) -> tuple[Tensor, Tensor, Any]:
        """Log-probabilities of `actions` [B], entropies [B], and what `backward` needs."""
        log_std = self.log_std.detach()
        standard = (actions - outputs) / log_std.exp()
        log_probs = -(standard.square() / 2 + log_std + math.log(2 * math.pi) / 2).sum(dim=1)
        entropies = (log_std + (1 + math.log(2 * math.pi)) / 2).sum().expand(len(outputs))
        return log_probs, entropies, standard

    def backward(self, tape: Any, by_log_prob: Tensor, by_entropy: float) -> Tensor:
        """The loss's gradient by the outputs [B, k]; sets that by the log standard deviations.

        With u = (a − μ)/σ: ∂log p/∂μ = u/σ, ∂log p/∂log σ = u² − 1, ∂H/∂log σ = 1.
        """
        weights = by_log_prob.unsqueeze(1)
        by_log_std = (weights * (tape.square() - 1)).sum(dim=0) + by_entropy * len(tape)
        if self.log_std.grad is None:
            self.log_std.grad = by_log_std
        else:
            self.log_std.grad.copy_(by_log_std)
        by_mean: Tensor = weights * tape / self.log_std.detach().exp()
        return by_mean


def hold(noise: Tensor, mean_steps: float, generator: torch.Generator) -> Tensor:
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
    fresh = torch.rand(steps, num_envs, generator=generator) < 1 / mean_steps
    drawn_at = torch.where(fresh, torch.arange(steps).unsqueeze(1), 0).cummax(dim=0).values
    return noise[drawn_at, torch.arange(num_envs)]

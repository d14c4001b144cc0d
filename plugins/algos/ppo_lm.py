"""Proximal policy optimisation (PPO, Schulman et al. 2017, arXiv 1707.06347) of a language model, with rollouts by a
quantised copy of it (QuRL, arXiv 2602.13953).

A token is a step, whose state is the text before it; the score comes with the last token. The critic is a linear head
on the learner's hidden states, through which no gradient flows: they are computed with the log-probabilities anyway,
where a critic of its own would double memory and time. How the policy learns from advantages is in language_agent.py.
Shapes: B completions, T tokens of the longest, d of a hidden state.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bitrl.core.acting.states import States
from bitrl.core.interfaces import Algorithm, LanguagePolicy, Task
from bitrl.core.schedules import value_at
from bitrl.plugins.algos import PPOLanguageOptions
from bitrl.plugins.algos.adam import Adam
from bitrl.plugins.algos.completions import mask_of
from bitrl.plugins.algos.language_agent import VALUES, LanguageAgent
from bitrl.plugins.algos.saved_parameters import restore_parameter


class PPOLanguage(Algorithm):
    """Makes tokens likelier after which completions score better than the critic expected before them."""

    options: PPOLanguageOptions

    def __init__(self, options: PPOLanguageOptions, task: Task):
        super().__init__(options, task)
        self.agent, everyone = LanguageAgent(options, task), task.collector.num_envs
        self.critic = Critic(self.agent.width)
        self.minibatch_size = min(options.minibatch_size or everyone, everyone)

    def update(self) -> dict[str, float]:
        """A completion in every environment, and `epochs` passes over them; see the base class."""
        options, agent = self.options, self.agent
        rollout, completions, metrics = agent.rollout()
        mask = mask_of(completions)
        with agent.stopwatch("log-probabilities"):
            proximal, hidden = agent.logprobs_and_hidden(completions, mask)
        values = self.critic.values(hidden)
        rewards = torch.from_numpy(rollout.rewards[0])
        advantages = token_advantages(rewards, values, mask, options.gamma, options.gae_lambda)
        targets = (values + advantages)[mask]
        metrics |= agent.learn(completions, mask, normalised(advantages, mask), self.minibatch_size, proximal)
        with agent.stopwatch("values"):
            metrics["value_loss"] = self.learn_values(hidden[mask], targets, mask)
        if targets.var(correction=0) > 0:
            residual = (targets - values[mask]).var(correction=0)
            metrics["explained_variance"] = float(1 - residual / targets.var(correction=0))
        metrics |= agent.replace()
        agent.alarms(metrics, self.step)
        return metrics

    def learn_values(self, hidden: Tensor, targets: Tensor, mask: Tensor) -> float:
        """`value_epochs` passes over hidden states [N, d] of all tokens and their targets [N]; the mean loss."""
        options, generator = self.options, torch.Generator()
        generator.manual_seed(self.agent.seed(VALUES))
        rate = value_at(options.value_learning_rate, self.agent.progress)
        size = -(-len(targets) * self.minibatch_size // len(mask))  # tokens, as many as that share of completions has
        losses = [
            self.critic.step(hidden[rows], targets[rows], rate)
            for _ in range(options.value_epochs)
            for rows in torch.randperm(len(targets), generator=generator).split(size)
        ]
        return float(np.mean(losses))

    def act(self, states: States) -> np.ndarray:
        """The completions of the most probable tokens; see the base class."""
        return self.agent.act(states)

    def language_policy(self) -> LanguagePolicy:
        """See the base class."""
        return self.agent.policy

    def timings(self) -> Mapping[str, float]:
        """See the base class."""
        return self.agent.timings()

    def state(self) -> dict[str, np.ndarray]:
        """See the base class."""
        return self.agent.state() | {f"critic.{name}": each for name, each in self.critic.state().items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self.critic.load_state({name[7:]: each for name, each in state.items() if name.startswith("critic.")})
        self.agent.load_state(state)


class Critic:
    """V(s) = w · h / rms(h) + b, zero at first: of hidden states of one size, whatever the model's last norm."""

    def __init__(self, width: int):
        self.weights = torch.zeros(width + 1, requires_grad=True)  # w, then b
        self.optimizer = Adam([self.weights], [0.0])

    def __call__(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] → values [...], with gradient to the critic alone."""
        hidden = hidden.detach()
        scale = hidden.square().mean(dim=-1).sqrt().clamp(min=1e-6)
        return hidden @ self.weights[:-1] / scale + self.weights[-1]

    def values(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] → values [...], without gradient."""
        with torch.no_grad():
            return self(hidden)

    def step(self, hidden: Tensor, targets: Tensor, learning_rate: float) -> float:
        """A step of Adam for hidden states [n, d] towards targets [n]; the loss before, half the mean square."""
        loss = (self(hidden) - targets).square().mean() / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.learning_rates = [learning_rate]
        self.optimizer.step()
        return float(loss.detach())

    def state(self) -> dict[str, np.ndarray]:
        """Weights and moments."""
        moments = self.optimizer.state.get(self.weights, {})
        return {"weights": self.weights.detach().numpy().copy()} | {
            name: each.numpy().copy() for name, each in moments.items()
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a `state()`."""
        restore_parameter(self.weights, self.optimizer, state, "weights", "")


def token_advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438) of tokens: [B, T], zeros where masked.

    A_t = δ_t + γλ·A_{t+1}, δ_t = r_t + γ·V(s_{t+1}) − V(s_t): the reward comes with a completion's last token, after
    which the value is zero, whether it came to its end or was cut off.

    Args:
        rewards: of completions, [B].
        values: V(s_t) of the states that tokens were chosen in, [B, T].
        mask: which are tokens, bool [B, T]: of each row, the first so many.
        gamma: discount factor of a token.
        gae_lambda: λ.
    """
    values, advantages = values.where(mask, 0.0), torch.zeros_like(values)
    lengths = mask.sum(dim=1)
    following, next_values = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for t in reversed(range(mask.shape[1])):
        deltas = rewards.where(lengths == t + 1, 0.0) + gamma * next_values - values[:, t]
        following = (deltas + gamma * gae_lambda * following).where(mask[:, t], 0.0)
        advantages[:, t], next_values = following, values[:, t]
    return advantages


def normalised(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages [B, T] of mean 0 and standard deviation 1 over all tokens; zeros where masked, or where all are equal.

    In float64, in which the mean of equal numbers is that number: a rounding error divided by as small a deviation
    would be an advantage of up to 1.
    """
    exact = advantages.double()
    chosen = exact[mask]
    return ((exact - chosen.mean()) / (chosen.std(correction=0) + 1e-8)).where(mask, 0.0).to(advantages.dtype)

"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) of two small heads on a backbone's features.

The defaults are the BitRL recipe (arXiv 2604.24273). Features are computed once, when a state is met, and kept in
the rollout: a frozen backbone would give the same ones again. The critic may read a backbone of its own: the rollout
then holds its d' features beside the policy's. Shapes: T steps, n environments, d features, B = T·n samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import gymnasium
import numpy as np
import torch
from torch import Tensor

from bitrl.core.acting.choices import Choices
from bitrl.core.acting.policies import Policy
from bitrl.core.errors import RunFailed
from bitrl.core.interfaces import Algorithm, Task
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.backprop import backward, chain, clip_gradient, flatten, forward, mlp
from bitrl.plugins.algos.gae import gae, next_values
from bitrl.plugins.algos.heads import Gaussian, Head, TextChoice, action_head, hold
from bitrl.plugins.algos.plain import plain
from bitrl.plugins.algos.reward_scale import RewardScale
from bitrl.plugins.algos.rollout import Episodes, collect
from bitrl.plugins.algos.standardise import Standardisation

if TYPE_CHECKING:
    from bitrl.core.acting.features import FeatureExtractor


class PPO(Algorithm):
    """Collects a rollout, then makes several epochs of clipped policy-gradient steps on it."""

    def __init__(self, options: PPOOptions, task: Task):
        super().__init__(options, task)
        self.num_envs = task.envs.num_envs
        self.rollout_length = max(1, options.rollout_steps // self.num_envs)
        self.generator = torch.Generator().manual_seed(task.seed)
        self.episodes = Episodes.start(self.num_envs)

        critic = task.critic_features or task.features

        def widths(features: FeatureExtractor, outputs: int) -> tuple[int, ...]:
            default = () if features.trainable else (256, 128)
            return (features.width, *(default if options.hidden is None else options.hidden), outputs)

        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            space, choices = task.envs.single_action_space, task.features.choices(task.observations[:1])
            texts = choices is not None and choices.commands is not None
            self.head: Head = action_head(space)
            if texts and isinstance(space, gymnasium.spaces.Discrete):
                self.head = TextChoice(space, task.features)
            # The policy's last layer starts at zero: its first rollout is exactly uniform whatever the features
            # look like, so they can be standardised by that rollout without the policy changing under it.
            self.policy = chain(task.features.module(), mlp(widths(task.features, self.head.outputs), gain=0.0))
            self.value = chain(critic.module(), mlp(widths(critic, 1), gain=1.0))
        if isinstance(self.head, Gaussian):
            torch.nn.init.constant_(self.head.log_std, options.log_std_init)
        self.reward_scale = RewardScale(self.num_envs, options.gamma) if options.normalise_rewards else None
        self.weights = {
            "policy": flatten([*self.policy.parameters(), *self.head.parameters]),
            "value": flatten([*self.value.parameters()]),
        }
        self.optimizer = torch.optim.Adam(
            [
                {"params": self.weights[name], "lr": rate, "initial_lr": rate}
                for name, rate in (("policy", options.learning_rate), ("value", options.value_learning_rate))
            ],
            eps=1e-5,
            fused=True,
        )
        self.standardise = standardisation(task.features, task.observations, options.running_standardisation)
        self.standardise_critic = (
            standardisation(critic, task.observations, options.running_standardisation)
            if task.critic_features is not None
            else self.standardise
        )

    def update(self) -> dict[str, float]:
        """One rollout and `epochs` passes over it; see the base class."""
        with one_thread():
            return self.learn()

    def learn(self) -> dict[str, float]:
        """What `update` does."""
        options, generator = self.options, self.generator
        noise = hold(self.head.noise(self.rollout_length, self.num_envs, generator), options.noise_hold, generator)
        actions: list[Tensor] = []

        def act(features: np.ndarray, choices: Choices | None, t: int) -> np.ndarray:
            outputs = forward(self.policy, self.standardise(features))[0]
            actions.append(self.head.sample(outputs, noise[t], tensors(choices)))
            return self.head.to_env(actions[t])

        rollout = collect(self.task, self.episodes, act, self.rollout_length, self.step)
        if self.step == 0:
            self.standardise_critic.fit(rollout.critic_features)
            self.standardise.fit(rollout.features)
            if isinstance(self.head, TextChoice):
                self.head.standardise.fit(self.task.features.choices.features)
        if self.reward_scale is not None:
            rollout = self.reward_scale(rollout)
        if options.anneal:
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * max(0.0, 1 - self.step / self.task.steps)
        self.step += self.rollout_length * self.num_envs

        features = self.standardise(rollout.features)
        shared = self.standardise_critic is self.standardise
        critic_features = features if shared else self.standardise_critic(rollout.critic_features)
        values = self.values(critic_features)
        after = next_values(rollout, values, self.values(self.standardise_critic(rollout.final_features)))
        advantages = gae(rollout, values, after, options.gamma, options.gae_lambda)
        valid = torch.from_numpy(rollout.valid)
        seen, taken = features[:-1][valid], torch.stack(actions)[valid]
        choices = tensors(rollout.choices)
        could = None if choices is None else choices.map(lambda each: each[valid])
        batch = Batch(
            features=seen,
            critic_features=seen if shared else critic_features[:-1][valid],
            actions=taken,
            advantages=torch.from_numpy(advantages)[valid],
            returns=torch.from_numpy(advantages + values[:-1])[valid],
            log_probs=self.head.forward(forward(self.policy, seen)[0], taken, could)[0],
            choices=could,
        )
        for epoch in range(options.epochs):
            shuffled = batch.take(torch.randperm(len(batch.features), generator=generator))
            minibatches = [
                shuffled.take(slice(i, i + options.minibatch_size))
                for i in range(0, len(batch.features), options.minibatch_size)
            ]
            last = epoch == options.epochs - 1
            figures = [self.gradient_step(minibatch, measure=last) for minibatch in minibatches]

        rollouts_before = self.step // (self.rollout_length * self.num_envs) - 1
        if options.running_standardisation and rollouts_before:
            # Only now: what was sampled and what is learned from it must be of the same policy.
            self.standardise.update(rollout.features, rollouts_before)
            if not shared:
                self.standardise_critic.update(rollout.critic_features, rollouts_before)

        metrics = {name: float(np.mean([row[name] for row in figures])) for name in figures[0]}
        self.require_finite(metrics)
        residual, returns = batch.advantages.var(correction=0), batch.returns.var(correction=0)
        metrics["explained_variance"] = float(1 - residual / (returns + 1e-8))
        if len(rollout.returns):
            metrics["episodes"] = len(rollout.returns)
            metrics["episode_return"] = float(rollout.returns.mean())
            metrics["episode_length"] = float(rollout.lengths.mean())
        return metrics

    def gradient_step(self, batch: Batch, measure: bool) -> dict[str, float]:
        """One step of Adam on a minibatch, on the loss L = −E[min(r·A, clip(r, 1−ε, 1+ε)·A)] − β·E[H] + c·E[(V − R)²].

        The gradients by the networks' outputs are written out: r·A where the minimum is the unclipped term, nothing
        elsewhere.
        """
        options, size = self.options, len(batch.features)
        advantages = normalise(batch.advantages)
        outputs, policy_tape = forward(self.policy, batch.features)
        log_probs, entropies, head_tape = self.head.forward(outputs, batch.actions, batch.choices)
        log_ratio = log_probs - batch.log_probs
        ratio = log_ratio.exp()
        unclipped = ratio * advantages
        clipped = ratio.clamp(1 - options.clip_coef, 1 + options.clip_coef) * advantages
        by_log_prob = torch.where(unclipped <= clipped, unclipped, 0.0) / -size
        backward(self.policy, policy_tape, self.head.backward(head_tape, by_log_prob, -options.ent_coef / size))

        values, value_tape = forward(self.value, batch.critic_features)
        error = values.squeeze(1) - batch.returns
        backward(self.value, value_tape, (2 * options.vf_coef / size * error).unsqueeze(1))

        # Clipped apart: together, the value function's far larger gradient would decide the policy's step size.
        norms = {name: clip_gradient(each, options.max_grad_norm) for name, each in self.weights.items()}
        self.optimizer.step()
        if not measure:
            return {}
        return {
            "policy_loss": -float(torch.minimum(unclipped, clipped).mean()),
            "value_loss": float(error.square().mean()),
            "entropy": float(entropies.mean()),
            "approx_kl": float((ratio - 1 - log_ratio).mean()),  # Schulman's third estimator
            "clip_fraction": float(((ratio - 1).abs() > options.clip_coef).float().mean()),
            "policy_gradient_norm": norms["policy"],
            "value_gradient_norm": norms["value"],
        }

    def require_finite(self, metrics: Mapping[str, float]) -> None:
        """Stop a run whose losses are no numbers any more."""
        for name, value in metrics.items():
            if not np.isfinite(value):
                raise RunFailed(
                    f"{name} is not a finite number in the update that ends at step {self.step}: it is thrown away, "
                    "and any checkpoint is of before; try a smaller -o algo.learning_rate or algo.value_learning_rate"
                )

    def values(self, features: Tensor) -> np.ndarray:
        """The critic's standardised features [..., d'] → values float32 [...]."""
        return forward(self.value, features.reshape(-1, features.shape[-1]))[0].reshape(features.shape[:-1]).numpy()

    def standardisations(self) -> dict[str, Standardisation]:
        """The policy's, the critic's if it is another, and that of commands if actions are texts, by what their names
        in `state` begin with.
        """
        critic = {"critic_": self.standardise_critic} if self.standardise_critic is not self.standardise else {}
        commands = {"command_": self.head.standardise} if isinstance(self.head, TextChoice) else {}
        return {"": self.standardise, **critic, **commands}

    def act(self, features: np.ndarray, choices: Choices | None = None) -> np.ndarray:
        """The most probable actions; see the base class."""
        with one_thread():
            outputs = forward(self.policy, self.standardise(features))[0]
            return self.head.to_env(self.head.best(outputs, tensors(choices)))

    def plain_policy(self) -> Policy:
        """The policy network and what its head does with it; see the base class."""
        return self.head.plain(plain(self.policy, self.standardise))

    def state(self) -> dict[str, np.ndarray]:
        """See the base class."""
        tensors = {"generator": self.generator.get_state()}
        for name, weights in self.weights.items():
            tensors[name] = weights.detach()
            tensors |= {f"{name}.{key}": value for key, value in self.optimizer.state[weights].items()}
        arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        for prefix, scale in self.standardisations().items():
            arrays |= {f"{prefix}mean": scale.mean, f"{prefix}std": scale.std}
        if self.reward_scale is not None:
            arrays |= self.reward_scale.state()
        return arrays | {
            "step": np.array(self.step),
            "episodes.returns": self.episodes.returns.copy(),
            "episodes.lengths": self.episodes.lengths.copy(),
            "episodes.resetting": self.episodes.resetting.copy(),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        for name, weights in self.weights.items():
            weights.detach().copy_(torch.from_numpy(state[name]))
            moments = {key: f"{name}.{key}" for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{key}" in state}
            if moments:
                self.optimizer.state[weights] = {key: torch.tensor(state[stored]) for key, stored in moments.items()}
        self.generator.set_state(torch.tensor(state["generator"]))
        for prefix, scale in self.standardisations().items():
            scale.mean, scale.std = state[f"{prefix}mean"], state[f"{prefix}std"]
        if self.reward_scale is not None:
            self.reward_scale.load_state(state)
        self.step = int(state["step"])
        returns, lengths, resetting = (state[f"episodes.{name}"].copy() for name in ("returns", "lengths", "resetting"))
        self.episodes = Episodes(returns, lengths, resetting)


@attrs.define
class Batch:
    """Samples, flat: features [B, d], the critic's [B, d'] (which may be the same), actions [B, ...], what else could
    be done [B, k], and advantages, returns and log-probabilities [B].
    """

    features: Tensor
    critic_features: Tensor
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    log_probs: Tensor
    choices: Choices | None = None

    def take(self, index: Tensor | slice) -> Batch:
        """The samples at `index`."""
        features = self.features[index]
        return Batch(
            features,
            features if self.critic_features is self.features else self.critic_features[index],
            self.actions[index],
            self.advantages[index],
            self.returns[index],
            self.log_probs[index],
            None if self.choices is None else self.choices.map(lambda each: each[index]),
        )


def tensors(choices: Choices | None) -> Choices | None:
    """Choices of arrays → of tensors."""
    return None if choices is None else choices.map(torch.from_numpy)


def standardisation(features: FeatureExtractor, observations: np.ndarray, running: bool) -> Standardisation:
    """Of what `features` makes of `observations`: a trainable backbone's are the serializer's vectors, and left alone
    unless `running`.
    """
    if features.trainable:
        return Standardisation(features(observations[:1]).shape[1], active=running)
    return Standardisation(features.width)


@contextmanager
def one_thread() -> Iterator[None]:
    """The heads are tiny: one thread is quickest, and makes results independent of the machine's core count. That goes
    for their first weights as well: several threads decompose a matrix with another rounding.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def normalise(advantages: Tensor) -> Tensor:
    """Advantages with mean 0 and deviation 1 (a single one is left as it is)."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)

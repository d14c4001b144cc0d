"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) of two small heads on a backbone's features.

The defaults are the BitRL recipe (arXiv 2604.24273). Features are computed once, when a state is visited, and kept in
the rollout: a frozen backbone would give the same ones again. The critic may read a backbone of its own: the rollout
then holds its d' features beside the policy's. Shapes: T steps, n environments, d features, B = T·n samples.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import attrs
import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn

from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.acting.policies import ActorCritic, Policy
from bitrl.core.acting.states import States
from bitrl.core.environments.collector import Collector, Rollout
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Algorithm, Task
from bitrl.core.schedules import Schedule, value_at
from bitrl.core.wording import setting
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.action_codebooks import ActionCodebook, LearnedActionCodebook, codebook_head
from bitrl.plugins.algos.adam import Adam
from bitrl.plugins.algos.backprop import backward, chain, clip_gradient, flatten, forward, mlp
from bitrl.plugins.algos.estimators import Corrected
from bitrl.plugins.algos.factored_head import FactoredHead, action_head
from bitrl.plugins.algos.gae import gae, next_values
from bitrl.plugins.algos.heads import Categorical, Gaussian, TextChoice, hold
from bitrl.plugins.algos.low_bits import low_bits
from bitrl.plugins.algos.numpy_policy import numpy_network
from bitrl.plugins.algos.quantised_rollouts import BITS, correct_samples, correct_terms, estimator
from bitrl.plugins.algos.reward_scale import RewardScale
from bitrl.plugins.algos.saved_parameters import MOMENTS, restore_parameter
from bitrl.plugins.algos.standardise import Standardisation


class PPO(Algorithm):
    """Collects a rollout, then makes several epochs of clipped policy-gradient steps on it."""

    def __init__(self, options: PPOOptions, task: Task):
        super().__init__(options, task)
        collector, reader = task.collector, task.reader
        for name, bits in (("policy_quantisation", "policy_bits"), ("value_quantisation", "value_bits")):
            if getattr(options, bits) is None and getattr(options, name) != getattr(PPOOptions(), name):
                raise UsageError(f"algo.{name}: nothing is quantised without {setting(f'algo.{bits}', '8')}")
        # Whatever acts has `policy_bits`; what else has few bits is said by the options of quantisation.
        self.rollout_bits = options.policy_bits if options.policy_quantisation != "post-training" else None
        self.estimator = estimator(options)
        if options.rollout is not None:
            self.rollout_bits = BITS[options.rollout]
        self.gradient_bits = options.policy_bits if options.policy_quantisation == "aware" else None
        self.value_gradient_bits = options.value_bits if options.value_quantisation == "aware" else None
        self.rollout_length = max(1, options.rollout_steps // collector.num_envs)
        self.generator = torch.Generator().manual_seed(task.seed)

        def widths(width: int, trainable: bool, outputs: int) -> tuple[int, ...]:
            default = () if trainable else (256, 128)
            return (width, *(default if options.hidden is None else options.hidden), outputs)

        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            space, admissible = collector.action_space, collector.states.admissible
            self.head: Categorical | Gaussian | TextChoice | FactoredHead | ActionCodebook | LearnedActionCodebook
            if options.action_codebook is None:
                self.head = action_head(space)
            else:
                self.head = codebook_head(space, options.action_codebook, options.action_bins)
            if admissible is not None and admissible.commands is not None and isinstance(space, Discrete):
                self.head = TextChoice(space, reader.command_width)
            # A language model's adapters learn beneath both heads; any other trainable backbone is a part of each.
            self.encoder: nn.Module | None = None if reader.learner is None else reader.learner.module()
            alone = reader.learner is None
            own, critics = reader.trainable and alone, reader.critic_trainable and alone
            policy, critic = (nn.Identity(), nn.Identity())
            if own:
                policy = reader.module()
            # The policy's last layer starts at zero: its first rollout is exactly uniform whatever the features
            # look like, so they can be standardised by that rollout without the policy changing under it.
            self.policy = chain(policy, mlp(widths(reader.width, own, self.head.outputs), gain=0.0))
            if critics:
                critic = reader.critic_module()
            self.value = chain(critic, mlp(widths(reader.critic_width, critics, 1), gain=1.0))
        gaussian = self.head.gaussian if isinstance(self.head, LearnedActionCodebook) else self.head
        for each in gaussian.gaussians if isinstance(gaussian, FactoredHead) else [gaussian]:
            if isinstance(each, Gaussian):
                nn.init.constant_(each.log_std, options.log_std_init)
        self.reward_scale = RewardScale(collector.num_envs, options.gamma) if options.normalise_rewards else None
        self.weights = {
            "policy": flatten([*self.policy.parameters(), *self.head.parameters]),
            "value": flatten([*self.value.parameters()]),
        }
        rates = {"policy": options.learning_rate, "value": options.value_learning_rate}
        if self.encoder is not None:
            learned = [each for each in self.encoder.parameters() if each.requires_grad]
            self.weights["adapters"], rates["adapters"] = flatten(learned), options.adapter_learning_rate
        self.rates = {name: decaying(rate) if options.anneal else rate for name, rate in rates.items()}
        self.optimizer = Adam(self.weights.values(), self.learning_rates(0.0), eps=1e-5)
        self.standardise = standardisation(reader.width, own, collector, options.running_standardisation)
        self.standardise_critic = (
            standardisation(reader.critic_width, critics, collector, options.running_standardisation)
            if reader.critic is not None
            else self.standardise
        )

    def learning_rates(self, progress: float) -> list[float]:
        """Those of `self.weights`."""
        return [value_at(self.rates[name], progress) for name in self.weights]

    def update(self) -> dict[str, float]:
        """One rollout and `epochs` passes over it; see the base class."""
        with one_thread():
            return self.learn()

    def learn(self) -> dict[str, float]:
        """The work of `update`."""
        options, generator, collector = self.options, self.generator, self.task.collector
        progress, first = self.step / self.task.steps if self.task.steps else 1.0, self.step == 0
        noise = self.head.noise(self.rollout_length, collector.num_envs, generator)
        noise = hold(noise, options.noise_hold, generator)
        actions: list[Tensor] = []

        def act(states: States, t: int) -> np.ndarray:
            outputs = forward(self.policy, self.standardise(states.features))[0]
            actions.append(self.head.sample(outputs, noise[t], tensors(states.admissible)))
            return self.head.to_env(actions[t])

        with low_bits(self.policy, self.rollout_bits):
            rollout = collector.rollout(act, self.rollout_length)
        if first:
            self.standardise_critic.fit(rollout.critic_features)
            self.standardise.fit(rollout.features)
            if isinstance(self.head, TextChoice) and rollout.admissible is not None and rollout.admissible.commands:
                self.head.standardise.fit(rollout.admissible.commands.features)
        if self.reward_scale is not None:
            rollout = self.reward_scale(rollout)
        self.optimizer.learning_rates = self.learning_rates(progress)
        clip_coef, ent_coef = value_at(options.clip_coef, progress), value_at(options.ent_coef, progress)

        features = self.standardise(rollout.features)
        shared = self.standardise_critic is self.standardise
        critic_features = features if shared else self.standardise_critic(rollout.critic_features)
        values = self.values(critic_features)
        after = next_values(rollout, values, self.values(self.standardise_critic(rollout.final_critic_features)))
        advantages = gae(rollout, values, after, options.gamma, options.gae_lambda)
        valid = torch.from_numpy(rollout.valid)
        visited, taken = features[:-1][valid], torch.stack(actions)[valid]
        admissible = tensors(rollout.admissible)
        admissible = None if admissible is None else admissible.map(lambda each: each[valid])
        with low_bits(self.policy, self.rollout_bits):  # those of the policy that acted
            log_probs = self.head.forward(forward(self.policy, visited)[0], taken, admissible)[0]
        sampled, correction = torch.from_numpy(advantages)[valid], None
        diagnostics: dict[str, float] = {}
        if self.estimator is not None:
            proximal = self.head.forward(forward(self.policy, visited)[0], taken, admissible)[0]
            correction, diagnostics = correct_samples(proximal, log_probs, sampled, self.estimator)
            log_probs = correction.anchor.squeeze(1)
        batch = Samples(
            features=visited,
            critic_features=visited if shared else critic_features[:-1][valid],
            actions=taken,
            advantages=sampled,
            returns=torch.from_numpy(advantages + values[:-1])[valid],
            log_probs=log_probs,
            admissible=admissible,
            texts=None if self.encoder is None else texts_of(rollout)[rollout.valid],
            correction=correction,
        )
        for epoch in range(options.epochs):
            shuffled = batch.take(torch.randperm(len(batch.features), generator=generator))
            minibatches = [
                shuffled.take(slice(i, i + options.minibatch_size))
                for i in range(0, len(batch.features), options.minibatch_size)
            ]
            last = epoch == options.epochs - 1
            figures = [self.gradient_step(minibatch, clip_coef, ent_coef, measure=last) for minibatch in minibatches]
        if self.task.reader.learner is not None:
            self.task.reader.learner.sync()

        rollouts_before = self.step // (self.rollout_length * collector.num_envs) - 1
        if options.running_standardisation and rollouts_before:
            # Only now: what was sampled and what is learned from it must be of the same policy.
            self.standardise.update(rollout.features, rollouts_before)
            if not shared:
                self.standardise_critic.update(rollout.critic_features, rollouts_before)

        metrics = {name: float(np.mean([row[name] for row in figures])) for name in figures[0]}
        metrics |= diagnostics
        self.require_finite(metrics)
        ready = self.step >= options.codebook_after * self.task.steps
        if ready and isinstance(self.head, LearnedActionCodebook) and self.head.codebook is None:
            self.head.learn(rollout.actions[rollout.valid], cast(nn.Linear, self.policy[-1]))
            self.optimizer.state.pop(self.weights["policy"])  # its moments are of another policy's gradients
        residual, returns = batch.advantages.var(correction=0), batch.returns.var(correction=0)
        metrics["explained_variance"] = float(1 - residual / (returns + 1e-8))
        if len(rollout.returns):
            metrics["episodes"] = len(rollout.returns)
            metrics["episode_return"] = float(rollout.returns.mean())
            metrics["episode_length"] = float(rollout.lengths.mean())
        return metrics

    def gradient_step(self, batch: Samples, clip_coef: float, ent_coef: float, measure: bool) -> dict[str, float]:
        """One step of Adam on a minibatch, on the loss L = −E[min(r·A, clip(r, 1−ε, 1+ε)·A)] − β·E[H] + c·E[(V − R)²].

        The gradients by the networks' outputs are written out: r·A where the minimum is the unclipped term, nothing
        elsewhere. Of corrected rollouts, the first term is that of `estimators.policy_loss`: weights multiply
        advantages, an adaptive clipping range moves 1+ε, and rejected samples are left out of its mean.
        """
        options, size, learns = self.options, len(batch.features), self.encoder is not None
        features, critic_features = batch.features, batch.critic_features
        if self.encoder is not None and batch.texts is not None:
            encoded = self.standardise.differentiable(self.encoder(batch.texts.tolist()))
            features = encoded.detach()
            critic_features = features if self.task.reader.critic is None else critic_features
        advantages = normalise(batch.advantages)
        counted = size
        with low_bits(self.policy, self.gradient_bits):
            outputs, policy_tape = forward(self.policy, features)
            log_probs, entropies, head_tape = self.head.forward(outputs, batch.actions, batch.admissible)
            log_ratio = log_probs - batch.log_probs
            if batch.correction is None:
                ratio = log_ratio.exp()
                clipped_ratio = ratio.clamp(1 - clip_coef, 1 + clip_coef)
            else:
                log_ratio, advantages, upper = correct_terms(log_ratio, advantages, batch.correction, 1 + clip_coef)
                ratio = log_ratio.exp()
                clipped_ratio = ratio.clamp(min=1 - clip_coef).minimum(upper)
                counted = max(1, int(batch.correction.kept.sum()))
            unclipped = ratio * advantages
            clipped = clipped_ratio * advantages
            by_log_prob = torch.where(unclipped <= clipped, unclipped, 0.0) / -counted
            by_outputs = self.head.backward(head_tape, by_log_prob, -ent_coef / size)
            by_features = backward(self.policy, policy_tape, by_outputs, by_inputs=learns)

        with low_bits(self.value, self.value_gradient_bits):
            values, value_tape = forward(self.value, critic_features)
            error = values.squeeze(1) - batch.returns
            by_values = (2 * options.vf_coef / size * error).unsqueeze(1)
            by_critic_features = backward(self.value, value_tape, by_values, by_inputs=learns)
        if by_features is not None and by_critic_features is not None:  # both heads' gradients meet in the adapters
            self.weights["adapters"].grad.zero_()  # type: ignore[union-attr]
            shares = self.task.reader.critic is None
            encoded.backward(by_features + by_critic_features if shares else by_features)

        # Clipped separately: together, the value function's far larger gradient would decide the policy's step size.
        norms = {name: clip_gradient(each, options.max_grad_norm) for name, each in self.weights.items()}
        self.optimizer.step()
        if not measure:
            return {}
        outside = (ratio - 1).abs() > clip_coef if batch.correction is None else clipped_ratio != ratio
        share = size / counted  # those left out of a correction are 0 in these means
        return {
            "policy_loss": -float(torch.minimum(unclipped, clipped).mean()) * share,
            "value_loss": float(error.square().mean()),
            "entropy": float(entropies.mean()),
            "approx_kl": float((ratio - 1 - log_ratio).mean()) * share,  # Schulman's third estimator
            "clip_fraction": float(outside.float().mean()) * share,
            **{f"{name}_gradient_norm": norm for name, norm in norms.items()},
        }

    def require_finite(self, metrics: Mapping[str, float]) -> None:
        """Stop a run whose losses are not finite any more."""
        for name, value in metrics.items():
            if not np.isfinite(value):
                raise RunFailed(
                    f"{name} is not a finite number in the update that ends at step {self.step}: it is discarded, "
                    f"and checkpoints are from before it; try a smaller {setting('algo.learning_rate')} or "
                    "algo.value_learning_rate"
                )

    def values(self, features: Tensor) -> np.ndarray:
        """The critic's standardised features [..., d'] → values float32 [...]."""
        with low_bits(self.value, self.options.value_bits):
            return forward(self.value, features.reshape(-1, features.shape[-1]))[0].reshape(features.shape[:-1]).numpy()

    def standardisations(self) -> dict[str, Standardisation]:
        """The policy's, the critic's if it is another, and that of commands if actions are texts, by what their names
        in `state` begin with.
        """
        critic = {"critic_": self.standardise_critic} if self.standardise_critic is not self.standardise else {}
        commands = {"command_": self.head.standardise} if isinstance(self.head, TextChoice) else {}
        return {"": self.standardise, **critic, **commands}

    def act(self, states: States) -> np.ndarray:
        """The most probable actions; see the base class."""
        with one_thread(), low_bits(self.policy, self.options.policy_bits):
            outputs = forward(self.policy, self.standardise(states.features))[0]
            return self.head.to_env(self.head.best(outputs, tensors(states.admissible)))

    def plain_policy(self) -> Policy:
        """The policy network and its head; see the base class."""
        with low_bits(self.policy, self.options.policy_bits):
            return copy.deepcopy(self.head.numpy_policy(numpy_network(self.policy, self.standardise)))

    def actor_critic(self) -> ActorCritic:
        """The policy's distribution and the value network; see the base class."""
        return ActorCritic(
            policy=self.plain_policy(),
            log_std=self.head.log_std.detach().numpy().copy() if isinstance(self.head, Gaussian) else None,
            value=copy.deepcopy(numpy_network(self.value, self.standardise_critic)),
            reward_std=1.0 if self.reward_scale is None else self.reward_scale.std,
            gamma=self.options.gamma,
            gae_lambda=self.options.gae_lambda,
        )

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
        if isinstance(self.head, LearnedActionCodebook) and self.head.codebook is not None:
            arrays["action_codebook"] = self.head.codebook.values.numpy().copy()
        return arrays

    def learned(self) -> dict[str, np.ndarray]:
        """All but what Adam knows of the gradients so far; see the base class."""
        return {name: array for name, array in self.state().items() if name.rpartition(".")[2] not in MOMENTS}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        for name, weights in self.weights.items():
            restore_parameter(weights, self.optimizer, state, name, f"{name}.")
        self.generator.set_state(torch.tensor(state["generator"]))
        for prefix, scale in self.standardisations().items():
            mean, std = state[f"{prefix}mean"], state[f"{prefix}std"]
            if mean.shape != scale.mean.shape or std.shape != mean.shape or not (std > 0).all():
                raise ValueError(f"{prefix}mean, {prefix}std: expected shape {list(scale.mean.shape)}, and std above 0")
            scale.mean, scale.std = mean, std
        if self.reward_scale is not None:
            self.reward_scale.load_state(state)
        if isinstance(self.head, LearnedActionCodebook) and "action_codebook" in state:
            self.head.use(torch.tensor(state["action_codebook"]))
        if self.task.reader.learner is not None:
            self.task.reader.learner.sync()


@attrs.define
class Samples:
    """Samples, flat: features [B, d], the critic's [B, d'] (which may be the same), actions [B, ...], admissible
    actions [B, k], advantages, returns and log-probabilities [B], the texts [B] where adapters learn, and what corrects
    the loss where rollouts are quantised, as sequences of one token.
    """

    features: Tensor
    critic_features: Tensor
    actions: Tensor
    advantages: Tensor
    returns: Tensor
    log_probs: Tensor
    admissible: AdmissibleActions | None = None
    texts: np.ndarray | None = None
    correction: Corrected | None = None

    def take(self, index: Tensor | slice) -> Samples:
        """The samples at `index`."""
        features = self.features[index]
        return Samples(
            features,
            features if self.critic_features is self.features else self.critic_features[index],
            self.actions[index],
            self.advantages[index],
            self.returns[index],
            self.log_probs[index],
            None if self.admissible is None else self.admissible.map(lambda each: each[index]),
            None if self.texts is None else self.texts[index.numpy() if isinstance(index, Tensor) else index],
            None if self.correction is None else self.correction.take(index),
        )


def tensors(admissible: AdmissibleActions | None) -> AdmissibleActions | None:
    """Admissible actions as arrays → as tensors."""
    return None if admissible is None else admissible.map(torch.from_numpy)


def texts_of(rollout: Rollout) -> np.ndarray:
    """The texts of the states acted in, an array of str objects [T, n]."""
    return np.array([states.texts for states in rollout.states[:-1]], object)


def decaying(rate: float) -> Schedule:
    """A constant learning rate, decaying linearly to zero over the run; a schedule unchanged."""
    return rate if isinstance(rate, Schedule) and rate.shape != "constant" else Schedule(rate, 0.0, "linear")


def standardisation(width: int, vectors: bool, collector: Collector, running: bool) -> Standardisation:
    """Of features of this width, or of the vectors that a trainable backbone reads: inactive unless `running`."""
    if vectors:
        return Standardisation(collector.states.vectors.shape[1], active=running)
    return Standardisation(width)


@contextmanager
def one_thread() -> Iterator[None]:
    """The heads are tiny: one thread is fastest, and makes results independent of the machine's core count. This
    includes their initial weights: several threads decompose a matrix with different rounding.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def normalise(advantages: Tensor) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 (a single one is unchanged)."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)

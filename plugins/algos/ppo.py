"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) of two small heads on a backbone's features.

The defaults are the BitRL recipe (arXiv 2604.24273). Features are computed once, when a state is visited, and kept in
the rollout: a frozen backbone would give the same ones again. The critic may read a backbone of its own: the rollout
then holds its d' features beside the policy's. Shapes: T steps, n environments, d features, B = T·n samples.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping

import attrs
import numpy as np
from gymnasium.spaces import Discrete

from bitrl.core.acting.admissible import AdmissibleActions
from bitrl.core.acting.policies import ActorCritic, Policy
from bitrl.core.acting.states import States
from bitrl.core.cpus import available_cpus
from bitrl.core.environments.collector import Collector, Rollout
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Algorithm, Task
from bitrl.core.schedules import Schedule, value_at
from bitrl.core.wording import setting, warn
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.action_codebooks import ActionCodebook, LearnedActionCodebook, codebook_head
from bitrl.plugins.algos.engine_learner import (
    EngineLearner,
    LearnedPart,
    SampleCorrection,
    backward,
    clipped_loss,
    forward,
    squared_loss,
)
from bitrl.plugins.algos.factored_head import FactoredHead, action_head
from bitrl.plugins.algos.gae import gae, next_values
from bitrl.plugins.algos.head_networks import adapters, head_network, parts_of
from bitrl.plugins.algos.heads import Categorical, Gaussian, TextChoice, hold
from bitrl.plugins.algos.low_bits import low_bits
from bitrl.plugins.algos.numpy_policy import numpy_network
from bitrl.plugins.algos.parameter_groups import MOMENTS, ParameterGroups
from bitrl.plugins.algos.quantised_rollouts import BITS, correct_samples, estimator
from bitrl.plugins.algos.reward_scale import RewardScale
from bitrl.plugins.algos.saved_generator import generator_state, restore_generator
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
        # Noise, and seeds of initial weights: the policy's, the critic's, the keys' and the adapters'.
        self.generator = np.random.Generator(np.random.PCG64(task.seed))
        seeds = [int(each) for each in self.generator.integers(2**63, size=4)]
        self.learner = EngineLearner(learner_threads())
        space, admissible = collector.action_space, collector.states.admissible
        self.head: Categorical | Gaussian | TextChoice | FactoredHead | ActionCodebook | LearnedActionCodebook
        if options.action_codebook is None:
            self.head = action_head(space, self.learner)
        else:
            self.head = codebook_head(space, options.action_codebook, options.action_bins, self.learner)
        if admissible is not None and admissible.commands is not None and isinstance(space, Discrete):
            self.head = TextChoice(space, reader.command_width, self.learner, seeds[2])
        # A language model's adapters learn beneath both heads; any other trainable backbone is a part of each.
        self.encoder = adapters(reader, seeds[3])
        batch = max(collector.num_envs, min(options.minibatch_size, self.rollout_length * collector.num_envs))
        sizes = batch, options.hidden
        self.policy = head_network(self.learner, collector.states, self.head.outputs, *sizes, seeds[0])
        self.value = head_network(self.learner, collector.states, 1, *sizes, seeds[1], critics=True)
        # The policy's last layer starts at zero: its first rollout is exactly uniform whatever the features look like,
        # so they can be standardised by that rollout without the policy changing under it.
        self.policy.initialise(0.0, seeds[0])
        self.value.initialise(1.0, seeds[1])
        self.notice = ""  # told when learning begins or goes on
        gaussian = self.head.gaussian if isinstance(self.head, LearnedActionCodebook) else self.head
        for each in gaussian.gaussians if isinstance(gaussian, FactoredHead) else [gaussian]:
            if isinstance(each, Gaussian):
                each.log_std[:] = options.log_std_init
                self.notice = self.notice or each.out_of_reach()
        self.reward_scale = RewardScale(collector.num_envs, options.gamma) if options.normalise_rewards else None
        groups: dict[str, list[LearnedPart]] = {
            "policy": [*parts_of(self.policy), self.head],
            "value": parts_of(self.value),
        }
        rates = {"policy": options.learning_rate, "value": options.value_learning_rate}
        if self.encoder is not None:
            groups["adapters"], rates["adapters"] = [self.encoder], options.adapter_learning_rate
        self.groups = ParameterGroups(self.learner, groups, eps=1e-5)
        self.rates = {name: decaying(rate) if options.anneal else rate for name, rate in rates.items()}
        self.rates_now = self.learning_rates(0.0)
        own, critics = (each and self.encoder is None for each in (reader.trainable, reader.critic_trainable))
        self.standardise = standardisation(reader.width, own, collector, options.running_standardisation)
        self.standardise_critic = (
            standardisation(reader.critic_width, critics, collector, options.running_standardisation)
            if reader.critic is not None
            else self.standardise
        )

    def learning_rates(self, progress: float) -> list[float]:
        """Those of the groups of parameters."""
        return [value_at(rate, progress) for rate in self.rates.values()]

    def update(self) -> dict[str, float]:
        """One rollout and `epochs` passes over it; see the base class."""
        options, generator, collector = self.options, self.generator, self.task.collector
        if self.notice:
            warn(self.notice)
            self.notice = ""
        progress, first = self.step / self.task.steps if self.task.steps else 1.0, self.step == 0
        noise = self.head.noise(self.rollout_length, collector.num_envs, generator)
        noise = hold(noise, options.noise_hold, generator)
        actions: list[np.ndarray] = []

        def act(states: States, t: int) -> np.ndarray:
            outputs = self.policy.outputs(self.standardise(states.features))
            actions.append(self.head.sample(outputs, noise[t], states.admissible))
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
        self.rates_now = self.learning_rates(progress)
        clip_coef, ent_coef = value_at(options.clip_coef, progress), value_at(options.ent_coef, progress)

        # Features are the largest part of a rollout: they are held once, and standardised a batch at a time.
        valid, shared = rollout.valid, self.standardise_critic is self.standardise
        values = self.values(rollout.critic_features)
        after = next_values(rollout, values, self.values(rollout.final_critic_features))
        advantages = gae(rollout, values, after, options.gamma, options.gae_lambda)
        visited, taken = samples_of(rollout.features[:-1], valid), np.stack(actions)[valid]
        admissible = None if rollout.admissible is None else rollout.admissible.map(lambda each: each[valid])
        with low_bits(self.policy, self.rollout_bits):  # those of the policy that acted
            log_probs = self.head.forward(self.policy.outputs(visited, self.standardise), taken, admissible)[0]
        correction: SampleCorrection | None = None
        diagnostics: dict[str, float] = {}
        if self.estimator is not None:
            proximal = self.head.forward(self.policy.outputs(visited, self.standardise), taken, admissible)[0]
            log_probs, correction, diagnostics = correct_samples(proximal, log_probs, advantages[valid], self.estimator)
        batch = Samples(
            features=visited,
            critic_features=visited if shared else samples_of(rollout.critic_features[:-1], valid),
            actions=taken,
            advantages=advantages[valid],
            returns=(advantages + values[:-1])[valid],
            log_probs=log_probs,
            admissible=admissible,
            texts=None if self.encoder is None else texts_of(rollout)[valid],
            correction=correction,
        )
        for _ in range(options.epochs):
            order = generator.permutation(len(batch.features))
            figures = [
                self.gradient_step(batch.take(order[i : i + options.minibatch_size]), clip_coef, ent_coef)
                for i in range(0, len(order), options.minibatch_size)
            ]
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
            self.head.learn(rollout.actions[valid], *self.policy.layers[-1])
            self.groups.forget("policy")  # its moments are of another policy's gradients
        # In float64: squares of large rewards overflow in float32.
        unexplained, all_of_it = (each.var(dtype=np.float64) for each in (batch.advantages, batch.returns))
        metrics["explained_variance"] = float(1 - unexplained / (all_of_it + 1e-8))
        if len(rollout.returns):
            metrics["episodes"] = len(rollout.returns)
            metrics["episode_return"] = float(rollout.returns.mean())
            metrics["episode_length"] = float(rollout.lengths.mean())
        return metrics

    def gradient_step(self, batch: Samples, clip_coef: float, ent_coef: float) -> dict[str, float]:
        """One step of Adam on a minibatch, on the loss L = −E[min(r·A, clip(r, 1−ε, 1+ε)·A)] − β·E[H] + c·E[(V − R)²],
        with standardised advantages. The losses' gradients are those of engine_learner.py.
        """
        options, size, learner = self.options, len(batch.features), self.learner
        encoded = batch.features
        if self.encoder is not None and batch.texts is not None:
            encoded = self.encoder.forward(batch.texts.tolist())
        features = self.standardise(encoded)
        shared = self.standardise_critic is self.standardise
        critic_features = features if shared else self.standardise_critic(batch.critic_features)
        networks = [self.policy, self.value]
        with low_bits(self.policy, self.gradient_bits), low_bits(self.value, self.value_gradient_bits):
            outputs, values = forward(networks, [features, critic_features])
            log_probs, entropies = self.head.forward(outputs, batch.actions, batch.admissible)
            loss = clipped_loss(learner, log_probs, batch.log_probs, batch.advantages, clip_coef, batch.correction)
            value_loss, by_values = squared_loss(values, batch.returns, options.vf_coef)
            by_outputs = self.head.backward(loss.by_log_probs, -ent_coef / size)
            by_features = backward(networks, [by_outputs, by_values], by_inputs=self.encoder is not None)
        if self.encoder is not None:  # both heads' gradients meet in the adapters
            by_policy, by_critic = by_features
            assert by_policy is not None
            assert by_critic is not None
            by_standard = by_policy + by_critic if self.task.reader.critic is None else by_policy
            self.encoder.backward(self.standardise.backward(by_standard, encoded))
        figures = {
            "policy_loss": loss.loss,
            "value_loss": value_loss,
            "entropy": float(entropies.mean()),
            "approx_kl": loss.approx_kl,
            "clip_fraction": loss.clip_fraction,
        }
        self.require_finite(figures)
        # Clipped separately: together, the value function's far larger gradient would decide the policy's step size.
        norms = self.groups.step(self.rates_now, options.max_grad_norm)
        return figures | {f"{name}_gradient_norm": norm for name, norm in norms.items()}

    def require_finite(self, metrics: Mapping[str, float]) -> None:
        """Stop a run whose losses are not finite any more."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise RunFailed(
                    f"{name} is not a finite number in the update that ends at step {self.step}: it is discarded, "
                    f"and checkpoints are from before it; try a smaller {setting('algo.learning_rate')} or "
                    "algo.value_learning_rate"
                )

    def values(self, features: np.ndarray) -> np.ndarray:
        """The critic's features [..., d'] → values float32 [...]."""
        flat = features.reshape(-1, features.shape[-1])
        with low_bits(self.value, self.options.value_bits):
            return self.value.outputs(flat, self.standardise_critic).reshape(features.shape[:-1])

    def standardisations(self) -> dict[str, Standardisation]:
        """The policy's, the critic's if it is another, and that of commands if actions are texts, by what their names
        in `state` begin with.
        """
        critic = {"critic_": self.standardise_critic} if self.standardise_critic is not self.standardise else {}
        commands = {"command_": self.head.standardise} if isinstance(self.head, TextChoice) else {}
        return {"": self.standardise, **critic, **commands}

    def act(self, states: States) -> np.ndarray:
        """The most probable actions; see the base class."""
        with low_bits(self.policy, self.options.policy_bits):
            outputs = self.policy.outputs(self.standardise(states.features))
            return self.head.to_env(self.head.best(outputs, states.admissible))

    def plain_policy(self) -> Policy:
        """The policy network and its head; see the base class."""
        with low_bits(self.policy, self.options.policy_bits):
            return copy.deepcopy(self.head.numpy_policy(numpy_network(self.policy, self.standardise)))

    def actor_critic(self) -> ActorCritic:
        """The policy's distribution and the value network; see the base class."""
        return ActorCritic(
            policy=self.plain_policy(),
            log_std=self.head.log_std.copy() if isinstance(self.head, Gaussian) else None,
            value=copy.deepcopy(numpy_network(self.value, self.standardise_critic)),
            reward_std=1.0 if self.reward_scale is None else self.reward_scale.std,
            gamma=self.options.gamma,
            gae_lambda=self.options.gae_lambda,
        )

    def state(self) -> dict[str, np.ndarray]:
        """See the base class."""
        arrays = {"generator": generator_state(self.generator), **self.groups.state()}
        for prefix, scale in self.standardisations().items():
            arrays |= {f"{prefix}mean": scale.mean, f"{prefix}std": scale.std}
        if self.reward_scale is not None:
            arrays |= self.reward_scale.state()
        if isinstance(self.head, LearnedActionCodebook) and self.head.codebook is not None:
            arrays["action_codebook"] = self.head.codebook.values.copy()
        return arrays

    def learned(self) -> dict[str, np.ndarray]:
        """All but what Adam knows of the gradients so far, and returns of episodes that end with this run; see the base
        class.
        """
        left_out = {*MOMENTS, "returns"}
        return {name: array for name, array in self.state().items() if name.rpartition(".")[2] not in left_out}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self.notice = ""
        by_torch = state["generator"].dtype == np.uint8  # it learned in torch so far
        self.groups.load_state(state, torch_layout=by_torch)
        if by_torch:
            self.generator = np.random.Generator(np.random.PCG64([self.task.seed, self.step]))
            self.notice = "this run learned in torch so far: its exploration noise goes on from a new generator"
        else:
            restore_generator(self.generator, state["generator"])
        for prefix, scale in self.standardisations().items():
            mean, std = state[f"{prefix}mean"], state[f"{prefix}std"]
            expected = scale.mean.shape, scale.mean.dtype
            if not (mean.shape, mean.dtype) == (std.shape, std.dtype) == expected or not (std > 0).all():
                wanted = f"float32 {list(scale.mean.shape)}"
                raise ValueError(f"{prefix}mean, {prefix}std: expected {wanted}, and std above 0")
            scale.mean, scale.std = mean, std
        if self.reward_scale is not None:
            self.reward_scale.load_state(state)
        if isinstance(self.head, LearnedActionCodebook) and "action_codebook" in state:
            self.head.use_values(state["action_codebook"])
        if self.task.reader.learner is not None:
            self.task.reader.learner.sync()


@attrs.define
class Samples:
    """Samples, flat: features [B, d], the critic's [B, d'] (which may be the same), neither standardised, actions
    [B, ...], admissible actions [B, k], advantages, returns and log-probabilities [B], the texts [B] where adapters
    learn, and what corrects the loss where rollouts are quantised.
    """

    features: np.ndarray
    critic_features: np.ndarray
    actions: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    log_probs: np.ndarray
    admissible: AdmissibleActions | None = None
    texts: np.ndarray | None = None
    correction: SampleCorrection | None = None

    def take(self, index: np.ndarray) -> Samples:
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
            None if self.texts is None else self.texts[index],
            None if self.correction is None else self.correction.take(index),
        )


def samples_of(features: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Features [T, n, d] of the valid steps [T, n], float32 [B, d]: a view where all are."""
    return features.reshape(-1, features.shape[-1]) if valid.all() else features[valid]


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


def learner_threads() -> int:
    """One for each network, but no more than the CPUs that this process may use, or OMP_NUM_THREADS where it is set.
    Their number changes no result.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min([2, available_cpus(), *([int(asked)] if asked.isdecimal() and int(asked) else [])])

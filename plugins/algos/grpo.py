"""Group relative policy optimisation (GRPO, Shao et al. 2024, arXiv 2402.03300) of a language model, with rollouts by a
quantised copy of it (QuRL, arXiv 2602.13953).

Three policies: the actor samples completions with rounded weights (behaviour), the learner as it was then says what they
should have been worth (proximal), and the learner as it becomes is optimised (current). What corrects for the
difference is in estimators.py. Shapes: B completions in groups of G for one prompt, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bitrl.core.acting.states import States
from bitrl.core.environments.collector import Rollout
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Algorithm, Completion, GenerativeBackbone, Task
from bitrl.core.schedules import value_at
from bitrl.core.wording import setting
from bitrl.plugins.algos import GRPOOptions
from bitrl.plugins.algos.alarms import Alarms
from bitrl.plugins.algos.completions import behaviour_logprobs, mask_of, microbatches, token_logprobs
from bitrl.plugins.algos.estimators import Corrected, Estimator, correct, policy_loss
from bitrl.plugins.algos.group_advantages import group_advantages
from bitrl.plugins.algos.language_learner import LanguageLearner, scale_invariantly
from bitrl.plugins.algos.stopwatch import Stopwatch


class GRPO(Algorithm):
    """Samples a group of completions for each prompt, and makes those likelier that are better than their group."""

    options: GRPOOptions

    def __init__(self, options: GRPOOptions, task: Task):
        super().__init__(options, task)
        backbone, prompts = task.reader.backbone, task.collector.num_envs // options.group_size
        assert isinstance(backbone, GenerativeBackbone)
        self.policy = backbone.language_policy()
        module = self.policy.module()
        self.learner = LanguageLearner(module, options.max_grad_norm)
        if options.uaq_scale != 1:
            scale_invariantly(module, options.uaq_scale)
        self.reference = self.policy.reference().module() if options.kl is not None else None
        self.actor = self.policy.actor(options.rollout)
        self.minibatch_size = min(options.minibatch_size or prompts, prompts) * options.group_size
        self.estimator = Estimator(
            correction=options.correction,
            level=options.correction_level,
            cap=options.correction_cap,
            floor=options.correction_floor,
            clip_low=options.clip_low,
            clip_high=options.clip_high,
            ratio=options.ratio,
            negative_cap=options.negative_cap,
            aggregation=options.aggregation,
            length=options.max_tokens,
            kl=options.kl,
            kl_coef=options.kl_coef,
        )
        self.alarms, self.stopwatch = Alarms(), Stopwatch()
        self.discarded = 0  # steps in a row that were
        self.synced = 0  # the environment step whose weights the policy acts by
        self.actor_steps = -1  # the environment step whose weights the actor has

    def update(self) -> dict[str, float]:
        """A completion for every environment, and `epochs` passes over them; see the base class."""
        options, collector = self.options, self.task.collector
        progress = self.step / self.task.steps if self.task.steps else 1.0
        seed = self.seed()
        self.stopwatch.clear()
        metrics: dict[str, float] = {}
        with self.stopwatch("replacement"):
            metrics |= self.replace(progress, seed)
        completions: list[Completion] = []

        def act(states: States, t: int) -> np.ndarray:
            with self.stopwatch("generation"):
                completions.extend(
                    self.actor.generate(
                        states.texts, options.max_tokens, temperature=options.temperature, top_k=options.top_k,
                        top_p=options.top_p, seed=seed,
                    )
                )  # fmt: skip
            return np.array([each.text for each in completions], object)

        with self.stopwatch("rollout"):
            rollout = collector.rollout(act, 1)
        self.check_groups(rollout)
        advantages, informative = group_advantages(
            torch.from_numpy(rollout.rewards[0]), options.group_size, options.normalise_std
        )
        metrics |= {
            "reward": float(rollout.rewards.mean()),
            "completion_tokens": float(np.mean([len(each.tokens) for each in completions])),
            "cut_off": float(np.mean([not each.ended for each in completions])),
            "groups_without_variance": float(1 - informative.float().mean()),
        }
        chosen = [each for each, counts in zip(completions, informative.tolist(), strict=True) if counts]
        if chosen:
            metrics |= self.learn(chosen, advantages[informative], progress)
        self.alarms(metrics, self.step)
        self.stopwatch.count(tokens=sum(len(each.tokens) for each in completions))
        return metrics

    def replace(self, progress: float, seed: int) -> dict[str, float]:
        """Give the actor the learner's weights; which share of its codes the last update changed."""
        options = self.options
        replaced = self.actor.update(
            rounding_seed=seed if options.stochastic_rounding else None,
            norm_noise=0.0 if options.norm_noise is None else value_at(options.norm_noise, progress),
            noise_seed=seed,
        )
        return {"codes_changed": replaced.changed / replaced.codes} if replaced.codes else {}

    def learn(self, completions: list[Completion], advantages: Tensor, progress: float) -> dict[str, float]:
        """`epochs` passes over completions [B] with advantages [B]; what was seen on the way."""
        options, mask = self.options, mask_of(completions)
        behaviour = behaviour_logprobs(completions)
        with self.stopwatch("log-probabilities"):
            proximal = self.logprobs(completions, mask)
            reference = None if self.reference is None else self.logprobs(completions, mask, self.reference)
        corrected, metrics = correct(proximal, behaviour, mask, advantages, self.estimator)
        generator = torch.Generator().manual_seed(self.seed())
        figures: dict[str, float] = {}
        norms: list[float] = []
        before = {name: each.detach().clone() for name, each in self.learner.parameters.items()}
        with self.stopwatch("update"):
            for _ in range(options.epochs):
                for rows in torch.randperm(len(completions), generator=generator).split(self.minibatch_size):
                    norm = self.gradient_step(
                        completions, mask, corrected, advantages, reference, rows, value_at(options.learning_rate, progress),
                        figures,
                    )  # fmt: skip
                    norms += [] if norm is None else [norm]
        ...
        return metrics

"""Group relative policy optimisation (GRPO, Shao et al. 2024, arXiv 2402.03300) of a language model, with rollouts by a
quantised copy of it (QuRL, arXiv 2602.13953).

Three policies: the actor samples completions with rounded weights (behaviour), the learner as it was then says what they
should have been worth (proximal), and the learner as it becomes is optimised (current). What corrects for the
difference is in estimators.py. Shapes: B completions in groups of G for one prompt, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bitrl.core.acting.states import States
from bitrl.core.environments.collector import Rollout
from bitrl.core.errors import RunFailed
from bitrl.core.interfaces import Algorithm, Completion, GenerativeBackbone, LanguagePolicy, Task
from bitrl.core.schedules import value_at
from bitrl.core.wording import setting, warn
from bitrl.plugins.algos import GRPOOptions
from bitrl.plugins.algos.alarms import Alarms
from bitrl.plugins.algos.completions import behaviour_logprobs, mask_of, microbatches, token_logprobs
from bitrl.plugins.algos.estimators import Estimator, correct, policy_loss
from bitrl.plugins.algos.group_advantages import group_advantages
from bitrl.plugins.algos.language_learner import LanguageLearner, scale_invariantly
from bitrl.plugins.algos.stopwatch import Stopwatch

SAMPLING, SHUFFLING, ROUNDING, NOISE = 0, 1, 2, 3
"""Uses of randomness; each has its own stream."""

MOST_DISCARDED = 3
"""Updates in a row that may be thrown away."""


class GRPO(Algorithm):
    """Samples a group of completions for each prompt, and makes those likelier that are better than their group."""

    options: GRPOOptions

    def __init__(self, options: GRPOOptions, task: Task):
        super().__init__(options, task)
        backbone, prompts = task.reader.backbone, task.collector.num_envs // options.group_size
        assert isinstance(backbone, GenerativeBackbone)  # its record says so
        self.policy = backbone.language_policy()
        self.reference = None if options.kl is None else self.policy.reference().module()
        module = self.policy.module(options.rollout if options.quantised_learner else None)
        if options.uaq_scale != 1:
            scale_invariantly(module, options.uaq_scale)
        self.learner = LanguageLearner(module, options.max_grad_norm)
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
        self.discarded = 0  # updates in a row whose steps were
        self.synced = False  # whether `policy` acts by what was learned
        self.replace()

    def update(self) -> dict[str, float]:
        """A completion in every environment, and `epochs` passes over them; see the base class."""
        options = self.options
        self.stopwatch.clear()
        completions: list[Completion] = []

        def act(states: States, t: int) -> np.ndarray:
            with self.stopwatch("generation"):
                completions.extend(self.complete(states.texts))
            return np.array([each.text for each in completions], object)

        with self.stopwatch("rollout"):
            rollout = self.task.collector.rollout(act, 1)
        self.check_groups(rollout)
        advantages, informative = group_advantages(
            torch.from_numpy(rollout.rewards[0]).view(-1, options.group_size), options.normalise_std
        )
        metrics = {
            "episodes": len(rollout.returns),
            "episode_return": float(rollout.returns.mean()),
            "completion_tokens": float(np.mean([len(each.tokens) for each in completions])),
            "cut_off": float(np.mean([not each.ended for each in completions])),
            "groups_without_variance": float(1 - informative.float().mean()),
        }
        self.stopwatch.figures["tokens"] = sum(len(each.tokens) for each in completions)
        counts = informative.repeat_interleave(options.group_size)
        chosen = [each for each, count in zip(completions, counts.tolist(), strict=True) if count]
        if chosen:
            metrics |= self.learn(chosen, advantages.flatten()[counts])
        with self.stopwatch("replacement"):
            metrics |= self.replace()
        self.alarms(metrics, self.step)
        return metrics

    def complete(self, prompts: Sequence[str]) -> list[Completion]:
        """Completions sampled by the actor."""
        options = self.options
        return self.actor.generate(
            prompts, options.max_tokens, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p,
            seed=self.seed(SAMPLING),
        )  # fmt: skip

    def replace(self) -> dict[str, float]:
        """Give the actor the learner's weights; the share of its codes that this changed."""
        options = self.options
        replaced = self.actor.update(
            rounding_seed=self.seed(ROUNDING) if options.stochastic_rounding else None,
            norm_noise=0.0 if options.norm_noise is None else value_at(options.norm_noise, self.progress),
            noise_seed=self.seed(NOISE),
        )
        return {"codes_changed": replaced.changed / max(replaced.codes, 1)}

    def learn(self, completions: list[Completion], advantages: Tensor) -> dict[str, float]:
        """`epochs` passes over completions [B] with advantages [B]; what was seen of them."""
        options, learner = self.options, self.learner
        mask, behaviour, everyone = (
            mask_of(completions),
            behaviour_logprobs(completions),
            torch.arange(len(completions)),
        )
        with self.stopwatch("log-probabilities"), torch.no_grad():
            proximal = self.logprobs(learner.module, completions, mask)
            reference = None if self.reference is None else self.logprobs(self.reference, completions, mask)
        corrected, metrics = correct(proximal, behaviour, mask, advantages, self.estimator)
        rate, generator = value_at(options.learning_rate, self.progress), torch.Generator()
        generator.manual_seed(self.seed(SHUFFLING))
        sums: dict[str, float] = {}
        with self.stopwatch("update"):
            before, norms = learner.weights(), []
            for _ in range(options.epochs):
                for rows in everyone[torch.randperm(len(everyone), generator=generator)].split(self.minibatch_size):
                    count = 0.0
                    for part in microbatches(completions, rows):
                        current = token_logprobs(
                            learner.module, [completions[row] for row in part.tolist()], mask[part], options.temperature
                        )
                        loss, counted, seen = policy_loss(
                            current, corrected.take(part), advantages[part], self.estimator,
                            None if reference is None else reference[part],
                        )  # fmt: skip
                        loss.backward()  # type: ignore[no-untyped-call]
                        count += float(counted)
                        for name, figure in {**seen, "loss": loss.detach(), "counted": counted}.items():
                            sums[name] = sums.get(name, 0.0) + float(figure)
                    norms.append(learner.step(rate, count))
            moved = learner.moved(before)
            self.synced = False
            if not np.isfinite(moved):
                learner.put(before)
        self.heed(None in norms or not np.isfinite(moved))
        tokens, counted = max(sums.pop("tokens"), 1.0), max(sums.pop("counted"), 1.0)
        metrics |= {"policy_loss": sums.pop("loss") / counted, **{name: each / tokens for name, each in sums.items()}}
        metrics |= {"update_size": moved, "steps_discarded": norms.count(None) + (not np.isfinite(moved))}
        metrics |= {"gradient_norm": float(np.mean([norm for norm in norms if norm is not None] or [0.0]))}
        return {name: figure for name, figure in metrics.items() if np.isfinite(figure)}

    def logprobs(self, module: nn.Module, completions: Sequence[Completion], mask: Tensor) -> Tensor:
        """The log-probabilities of completions [B] under a model, without gradient: float32 [B, T]."""
        found = torch.zeros(mask.shape)
        for part in microbatches(completions, torch.arange(len(completions))):
            some = [completions[row] for row in part.tolist()]
            found[part] = token_logprobs(module, some, mask[part], self.options.temperature)
        return found

    def heed(self, discarded: bool) -> None:
        """Say that an update's step was thrown away, since it was not finite; stop when that goes on.

        Raises:
            RunFailed: it happened `MOST_DISCARDED` times in a row.
        """
        self.discarded = self.discarded + 1 if discarded else 0
        remedy = f"use a smaller {setting('algo.learning_rate')}"
        if self.discarded == MOST_DISCARDED:
            raise RunFailed(
                f"{MOST_DISCARDED} updates in a row, up to step {self.step}, had gradients or weights that are not "
                f"finite, and were thrown away: {remedy}"
            )
        if discarded:
            warn(f"the update that ends at step {self.step} is not finite, and was thrown away: {remedy}")

    def check_groups(self, rollout: Rollout) -> None:
        """Refuse an environment whose groups differ, or whose episodes do not end with an answer."""
        prompts, size = rollout.states[0].texts, self.options.group_size
        if not rollout.terminated.all():
            raise RunFailed(
                "grpo learns from environments whose episodes end with the first completion; this one goes on"
            )
        for first in range(0, len(prompts), size):
            if len(set(prompts[first : first + size])) > 1:
                raise RunFailed(
                    "environments that were reset with the same seed give different prompts, so their completions cannot "
                    "be compared: the environment must draw its prompts from self.np_random alone"
                )

    @property
    def progress(self) -> float:
        """The share of the run's steps that are done."""
        return self.step / self.task.steps if self.task.steps else 1.0

    def seed(self, use: int) -> int:
        """The seed of a use of randomness after `step` environment steps."""
        return int(np.random.SeedSequence([self.task.seed, self.step, use]).generate_state(1)[0])

    def timings(self) -> Mapping[str, float]:
        """See the base class."""
        return {name: round(figure, 4) for name, figure in self.stopwatch.figures.items()}

    def act(self, states: States) -> np.ndarray:
        """The completions of the most probable tokens; see the base class."""
        if not self.synced:
            self.policy.sync()
            self.synced = True
        policy = self.actor if self.options.quantised_learner else self.policy
        completions = policy.generate(states.texts, self.options.max_tokens, temperature=0.0)
        return np.array([each.text for each in completions], object)

    def language_policy(self) -> LanguagePolicy:
        """See the base class."""
        return self.policy

    def state(self) -> dict[str, np.ndarray]:
        """See the base class."""
        return self.learner.state() | {"discarded": np.array(self.discarded)} | self.alarms.state()

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self.learner.load_state(state)
        self.alarms.load_state(state)
        self.discarded, self.synced = int(state["discarded"]), False
        self.replace()

"""A language model that learns from its completions, and the actor that samples them: what GRPO and PPO share.

Three policies: the actor samples completions with rounded weights (behaviour), the learner as it was then says what
they should have been worth (proximal), and the learner as it becomes is optimised (current). What corrects for the
difference is in estimators.py. Does not know rewards: advantages are given. Shapes: B completions, T tokens of the
longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from bitrl.core.acting.states import States
from bitrl.core.environments.collector import Rollout
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Completion, GenerativeBackbone, Task
from bitrl.core.schedules import value_at
from bitrl.core.wording import setting, warn
from bitrl.plugins.algos import LanguageAlgorithmOptions
from bitrl.plugins.algos.alarms import Alarms
from bitrl.plugins.algos.completions import behaviour_logprobs, microbatches, token_logprobs, token_logprobs_and_hidden
from bitrl.plugins.algos.estimators import Estimator, correct, policy_loss
from bitrl.plugins.algos.language_learner import LanguageLearner, scale_invariantly
from bitrl.plugins.algos.quantised_rollouts import check_gate
from bitrl.plugins.algos.short_products import short_products
from bitrl.plugins.algos.stopwatch import Stopwatch

SAMPLING, SHUFFLING, ROUNDING, NOISE, VALUES = 0, 1, 2, 3, 4
"""Uses of randomness; each has its own stream."""

MOST_DISCARDED = 3
"""Updates in a row that may be thrown away."""

RUINOUS = 1270.0
"""How far weights move, on average, in an update that leaves little of a model: in 8-bit codes, ten of their rows'
largest weights.
"""


class LanguageAgent:
    """Holds actor, learner and reference of a run's language model.

    Attributes:
        learner: the weights that learn, and their optimiser.
        stopwatch: seconds of the last update by stage.

    Raises:
        UsageError: the model has no end token, or cannot be scaled; or nothing would come of a setting.
    """

    def __init__(self, options: LanguageAlgorithmOptions, task: Task):
        check_settings(options)
        self.options, self.task = options, task
        backbone = task.reader.backbone
        assert isinstance(backbone, GenerativeBackbone)  # the algorithm's record says so
        self.policy = backbone.language_policy()
        if not self.policy.ends:
            raise UsageError(
                "the language model names no end token (tokenizer.ggml.eos_token_id of a GGUF file, eos_token_id in "
                "config.json), so no completion of it would end: use another model "
                f"({setting('backbone.model', 'starter-tasks-fp16')}; ternary: starter-tasks)"
            )
        self.reference = None if options.kl is None else self.policy.reference().module()
        module = self.policy.module(options.rollout if options.quantised_learner else None)
        if options.uaq_scale != 1:
            scale_invariantly(module, options.uaq_scale)
        self.learner = LanguageLearner(module, options.max_grad_norm)
        self.actor = self.policy.actor(options.rollout)
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
            kl=options.kl or "k3",
            kl_coef=options.kl_coef,
        )
        self.alarms, self.stopwatch = Alarms(), Stopwatch()
        self.discarded = 0  # updates in a row that were
        self.synced = False  # whether `act` acts by what was learned, and without noise
        self.replace()

    def rollout(self) -> tuple[Rollout, list[Completion], dict[str, float]]:
        """A completion by the actor in every environment; what was seen of them.

        Raises:
            RunFailed: an episode goes on after its completion.
        """
        completions: list[Completion] = []
        options = self.options

        def act(states: States, t: int) -> np.ndarray:
            with self.stopwatch("generation"):
                completions.extend(
                    self.actor.generate(
                        states.texts, options.max_tokens, temperature=options.temperature, top_k=options.top_k,
                        top_p=options.top_p, seed=self.seed(SAMPLING),
                    )
                )  # fmt: skip
            return np.array([each.text for each in completions], object)

        if self.synced and options.quantised_learner:  # `act` took the actor's noise away
            self.replace()
            self.synced = False
        self.stopwatch.clear()
        with self.stopwatch("rollout"):
            rollout = self.task.collector.rollout(act, 1)
        if not rollout.terminated.all():
            raise RunFailed(
                f"{self.task.collector.who} learns from environments whose episodes end with the first completion; "
                "this one goes on"
            )
        lengths = [len(each.tokens) for each in completions]
        self.stopwatch.figures["tokens"] = sum(lengths)
        return rollout, completions, {
            "episodes": len(rollout.returns),
            "episode_return": float(rollout.returns.mean()),
            "completion_tokens": float(np.mean(lengths)),
            "cut_off": float(np.mean([not each.ended for each in completions])),
        }  # fmt: skip

    def learn(
        self, completions: list[Completion], mask: Tensor, advantages: Tensor, minibatch_size: int,
        proximal: Tensor | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """`epochs` passes over completions, `minibatch_size` of them in a step; what was seen of them.

        Args:
            completions: B of them.
            mask: bool [B, T], of `mask_of`.
            advantages: [B] or [B, T].
            minibatch_size: completions in a gradient step.
            proximal: their log-probabilities under the learner as it is, [B, T], where they are known.
        """
        options, learner, everyone = self.options, self.learner, torch.arange(len(completions))
        # A single step begins from the learner as it is: its own forward pass gives the proximal log-probabilities, and
        # each microbatch its own weights. The mixed estimator's depend on the whole rollout.
        single = options.epochs == 1 and minibatch_size >= len(completions) and options.correction != "mixed"
        with self.stopwatch("log-probabilities"):
            reference = None if self.reference is None else self.logprobs(self.reference, completions, mask)
            if proximal is None and not single:
                proximal = self.logprobs(learner.module, completions, mask)
        behaviour, found = behaviour_logprobs(completions), torch.zeros(mask.shape)
        if proximal is not None:
            found = proximal
            corrected, _ = correct(proximal, behaviour, mask, advantages, self.estimator)
        rate, generator = value_at(options.learning_rate, self.progress), torch.Generator()
        generator.manual_seed(self.seed(SHUFFLING))
        sums: dict[str, float] = {}
        norms: list[float | None] = []
        with self.stopwatch("update"):
            before = learner.weights()
            for _ in range(options.epochs):
                for rows in everyone[torch.randperm(len(everyone), generator=generator)].split(minibatch_size):
                    count = 0.0
                    for part in microbatches(completions, rows):
                        some = [completions[row] for row in part.tolist()]
                        current = token_logprobs(learner.module, some, mask[part], options.temperature)
                        if proximal is not None:
                            correction = corrected.take(part)
                        else:
                            found[part] = current.detach()
                            correction, _ = correct(
                                found[part], behaviour[part], mask[part], advantages[part], self.estimator
                            )
                        compared = None if reference is None else reference[part]
                        loss, counted, seen = policy_loss(
                            current, correction, advantages[part], self.estimator, compared
                        )
                        with short_products():  # not the forward pass, whose bits are the engine's
                            loss.backward()
                        count += float(counted)
                        for name, figure in {**seen, "loss": loss.detach(), "counted": counted}.items():
                            sums[name] = sums.get(name, 0.0) + float(figure)
                    norms.append(learner.step(rate, count))
            moved = learner.moved(before)
            # Weights that are finite may still be too large for their products: one completion shows that.
            sound = self.logprobs(learner.module, completions[:1], mask[:1]).isfinite().all()
            discarded = None in norms or not np.isfinite(moved) or not bool(sound)
            if discarded:
                learner.put(before)
            self.synced = False
        self.heed(discarded, moved)
        _, metrics = correct(found, behaviour, mask, advantages, self.estimator)
        tokens, denominator = sums.pop("tokens"), max(sums.pop("counted"), 1.0)
        dropped = sums.pop("dropped")
        metrics |= {"policy_loss": sums.pop("loss") / denominator, "dropped": dropped / max(tokens + dropped, 1.0)}
        metrics |= {name: each / max(tokens, 1.0) for name, each in sums.items()}
        metrics |= {"update_size": moved, "steps_discarded": len(norms) if discarded else 0}
        metrics |= {"gradient_norm": float(np.mean([norm for norm in norms if norm is not None] or [0.0]))}
        return {name: figure for name, figure in metrics.items() if np.isfinite(figure)}

    def replace(self) -> dict[str, float]:
        """Give the actor the learner's weights; the share of its codes that this changed."""
        options = self.options
        with self.stopwatch("replacement"):
            replaced = self.actor.update(
                rounding_seed=self.seed(ROUNDING) if options.stochastic_rounding else None,
                norm_noise=0.0 if options.norm_noise is None else value_at(options.norm_noise, self.progress),
                noise_seed=self.seed(NOISE),
            )
        return {"codes_changed": replaced.changed / max(replaced.codes, 1)}

    @torch.no_grad()
    def logprobs(self, module: nn.Module, completions: Sequence[Completion], mask: Tensor) -> Tensor:
        """The log-probabilities of completions [B] under a model, without gradient: float32 [B, T]."""
        found = torch.zeros(mask.shape)
        for part in microbatches(completions, torch.arange(len(completions))):
            some = [completions[row] for row in part.tolist()]
            found[part] = token_logprobs(module, some, mask[part], self.options.temperature)
        return found

    @torch.no_grad()
    def logprobs_and_hidden(self, completions: Sequence[Completion], mask: Tensor) -> tuple[Tensor, Tensor]:
        """The learner's log-probabilities of completions, float32 [B, T], and the hidden states that it chose their
        tokens in, [B, T, d], without gradient.
        """
        found, states = torch.zeros(mask.shape), torch.zeros(*mask.shape, self.width)
        for part in microbatches(completions, torch.arange(len(completions))):
            some = [completions[row] for row in part.tolist()]
            found[part], states[part] = token_logprobs_and_hidden(
                self.learner.module, some, mask[part], self.options.temperature
            )
        return found, states

    @cached_property
    @torch.no_grad()
    def width(self) -> int:
        """d, of hidden states."""
        token = [torch.zeros(1, dtype=torch.int64)]
        _, hidden = self.learner.module.completions(token, token, torch.tensor([0]), hidden=True)  # type: ignore[operator]
        return int(hidden.shape[1])

    def heed(self, discarded: bool, moved: float) -> None:
        """Say that an update was thrown away, since it was not finite, or ruined the model; stop if the first goes on.

        Raises:
            RunFailed: it happened `MOST_DISCARDED` times in a row.
        """
        self.discarded = self.discarded + 1 if discarded else 0
        remedy, step = f"use a smaller {setting('algo.learning_rate')}", self.task.collector.steps
        if self.discarded == MOST_DISCARDED:
            raise RunFailed(
                f"{MOST_DISCARDED} updates in a row, up to step {step}, had gradients or weights that are not "
                f"finite, and were thrown away: {remedy}"
            )
        if discarded:
            warn(f"the update that ends at step {step} is not finite, and was thrown away: {remedy}")
        elif moved > RUINOUS:
            warn(
                f"the update that ends at step {step} moved the weights {moved / 127:,.0f} times as far as they are "
                f"large: little of the model is left; {remedy}"
            )

    @property
    def progress(self) -> float:
        """The share of the run's steps that are done."""
        return self.task.collector.steps / self.task.steps if self.task.steps else 1.0

    def seed(self, use: int) -> int:
        """The seed of a use of randomness after the steps that the environments have taken."""
        return int(np.random.SeedSequence([self.task.seed, self.task.collector.steps, use]).generate_state(1)[0])

    def act(self, states: States) -> np.ndarray:
        """The completions of the most probable tokens, strings [n]."""
        if not self.synced:
            self.policy.sync()
            if self.options.quantised_learner:
                self.actor.update()  # rounded as the learner rounds, without noise
            self.synced = True
        policy = self.actor if self.options.quantised_learner else self.policy
        completions = policy.generate(states.texts, self.options.max_tokens, temperature=0.0)
        return np.array([each.text for each in completions], object)

    def timings(self) -> Mapping[str, float]:
        """Seconds of the last update by stage, and its tokens."""
        return {name: round(figure, 4) for name, figure in self.stopwatch.figures.items()}

    def state(self) -> dict[str, np.ndarray]:
        """What the next update depends on, as named arrays."""
        return self.learner.state() | {"discarded": np.array(self.discarded)} | self.alarms.state()

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a `state()`."""
        self.learner.load_state(state)
        self.alarms.load_state(state)
        self.discarded, self.synced = int(state["discarded"]), False
        self.replace()


def check_settings(options: LanguageAlgorithmOptions) -> None:
    """Refuse settings that nothing would come of without another, and say which one holds nothing.

    Raises:
        UsageError: there is one.
    """
    check_gate(options)
    if options.kl == "k1":
        warn(
            "algo.kl: the gradient of k1 in a loss is zero on average, so it does not hold the model near its start: "
            f"use {setting('algo.kl', 'k3')}"
        )
    if options.kl is None and options.kl_coef not in (0, type(options)().kl_coef):
        raise UsageError(f"algo.kl_coef: weights nothing without {setting('algo.kl', 'k3')}")
    if options.quantised_learner and options.rollout is None:
        raise UsageError(
            "algo.quantised_learner: the learner multiplies in the precision of rollouts: name one with "
            f"{setting('algo.rollout', 'int8')}"
        )

"""Measures what the precision of a backbone's weights does to a run: to features, policy gradient, values and actions.

Everything is measured on the same states, actions and advantages: steps that the run's policy takes, sampled. Shapes: m
different states, B steps, d features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.policies import ActorCritic
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Backbone
from bitrl.core.runs.listeners import Listener
from bitrl.core.runs.store import require_run
from bitrl.core.runs.trained import trained
from bitrl.core.studies.analysis.action_choice import disagreement, greedy_actions, initial_entropy
from bitrl.core.studies.analysis.linear_map import explained, fit_map
from bitrl.core.studies.analysis.policy_gradient import GradientError, gradient_error, policy_gradients
from bitrl.core.studies.analysis.power_law import PowerLaw, power_law
from bitrl.core.studies.analysis.precision import Encoder, Ladder, Precision, relative_error
from bitrl.core.studies.analysis.td_values import GAMMAS, TDError, TDValues, td_errors, td_values, values_alike
from bitrl.core.studies.analysis.visited import CHUNKS, Visited, rounded_up, visit

AT_ONCE = 128
FEW = 128
"""Fewer different states than this say little."""
SMALL = 0.25
"""ε_Q up to which a power law is fitted: it speaks of small errors, and ternary weights without training are none."""

Map = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[str, int, int], None]
"""Told what is being done, how far, and of how much."""


@attrs.frozen
class Measured:
    """One precision beside full precision.

    Attributes:
        name, summary, own_training: as in Precision.
        epsilon, epsilon_overall: ε_Q of each matrix, and of all.
        block_errors: ‖f − f_ref‖ / ‖f_ref‖ of the pooled states after each block, over the different states; of a model
            of its own training after the best linear map to the reference's, fitted to other states.
        feature_error: the same of the features that the heads read.
        gradient: of the policy's gradient; None where the reference's is zero.
        values: of value functions learned on these features; None where every state has the same value.
        entropy, entropy_standardised: mean entropy of fresh policy heads (over the admissible actions), of features as
            they are, and standardised; None for actions of a Box, whose fresh policy has an entropy that no feature
            changes.
        disagreement: in greedy actions, a share of the states visited; of a Box, the root mean square distance.
    """

    name: str
    summary: str
    own_training: bool
    epsilon: Mapping[str, float]
    epsilon_overall: float
    block_errors: tuple[float, ...]
    feature_error: float
    gradient: GradientError | None
    values: TDError | None
    entropy: float | None
    entropy_standardised: float | None
    disagreement: float


@attrs.frozen
class Rounded:
    """Weights alone rounded: ε_Q, and what came of it; `bias`, `biases` and `apparent` as in GradientError, None where
    there is none.
    """

    name: str
    epsilon: float
    feature_error: float
    bias: float | None
    bias_interval: tuple[float, float] | None
    apparent: float | None
    biases: np.ndarray | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen
class Fit:
    """What grows as which power of ε_Q over a family of roundings: features (paper: 1), the bias of the policy gradient
    (paper: 2), and how far the gradient of these very samples moves; None where no line can be fitted.
    """

    family: str
    feature_error: PowerLaw | None
    bias: PowerLaw | None
    apparent: PowerLaw | None


@attrs.frozen
class Analysis:
    """All that was measured of a run.

    Attributes:
        run, env, backbone, step, seed: which run, its checkpoint's step, and the seed of the states.
        states, different: steps taken, and different states among them.
        episodes, mean_return: that ended among these steps; of sampled actions.
        discrete: whether actions are integers.
        reference: what full precision is, in words.
        run_precision: the precision that the run was trained on.
        precisions: beside the reference.
        steps, fits: weights alone rounded, and power laws through them.
        entropy, entropy_standardised: the reference's, as in Measured; `most_entropy` that of the uniform policy.
        values_of_random: whether values are those of uniformly random actions, since all states that the run's policy
            visits have the same: one reward at every step, and hardly an end.
        value_sizes: γ → root mean square of the reference's values.
        map_r_squared: how well features of the other model of the pair are read as those that the run's heads were
            trained on; None where there is no other.
        notes: what the reader should know, in sentences.
    """

    run: str
    env: str
    backbone: str
    step: int
    seed: int
    states: int
    different: int
    episodes: int
    mean_return: float | None
    discrete: bool
    reference: str
    run_precision: str
    precisions: tuple[Measured, ...]
    steps: tuple[Rounded, ...]
    fits: tuple[Fit, ...]
    entropy: float | None
    entropy_standardised: float | None
    most_entropy: float | None
    values_of_random: bool
    value_sizes: Mapping[float, float]
    map_r_squared: float | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain data, without the resamples that intervals are made of."""
        return attrs.asdict(self, filter=lambda attribute, value: attribute.name != "biases")


def analyse(
    run: str | Path,
    ladder_of: Callable[[Backbone], Ladder],
    states: int = 2048,
    seed: int | None = None,
    tell: Listener = lambda event: None,
    progress: Progress = lambda task, done, total: None,
) -> Analysis:
    """Analyse the newest intact checkpoint of a run.

    Args:
        run: its directory.
        ladder_of: the run's backbone → its precisions.
        states: how many steps to take, rounded up to a multiple of `CHUNKS`.
        seed: of the states; None: the run's.
        tell: told of events (a damaged checkpoint).
        progress: told how far it is.

    Raises:
        UsageError: no run or no checkpoint there, its algorithm cannot be analysed, or `ladder_of` refuses.
    """
    directory = Path(run)
    require_run(directory)
    config, parts, algorithm, _ = trained(directory, tell)
    if "generation" in config.algorithm.learns_from:
        raise UsageError(
            f"{directory}: {config.algorithm.name} taught a language model, and analyses are of policies on features: "
            "what its rollouts' precision does is in metrics.jsonl (kl_behaviour, m2, ess, sign_skew)"
        )
    heads = algorithm.actor_critic()
    ladder = ladder_of(parts.reader.backbone)
    seed = config.run.seed if seed is None else seed
    count = rounded_up(states)
    visited = visit(config, parts, heads, count, seed, lambda steps: progress("visiting states", steps, 2 * count))
    comparison = _Comparison(ladder, heads, visited, parts.reader.features(visited.others), progress)
    measured = tuple(comparison.measure(each) for each in ladder.precisions)
    rounded = tuple(comparison.round(each) for each in ladder.steps)
    return Analysis(
        run=str(directory),
        env=config.run.env,
        backbone=config.run.backbone,
        step=algorithm.step,
        seed=seed,
        states=count,
        different=visited.different,
        episodes=len(visited.returns),
        mean_return=float(visited.returns.mean()) if len(visited.returns) else None,
        discrete=heads.log_std is None,
        reference=ladder.reference.summary,
        run_precision=ladder.run,
        precisions=measured,
        steps=rounded,
        fits=tuple(_fits(rounded)),
        entropy=comparison.entropy(comparison.features),
        entropy_standardised=comparison.entropy(_standardised(comparison.features)),
        values_of_random=visited.random,
        most_entropy=comparison.most_entropy(),
        value_sizes={
            gamma: float(np.sqrt((v**2).mean())) for gamma, v in zip(GAMMAS, comparison.values.values, strict=True)
        },
        map_r_squared=comparison.map_r_squared,
        notes=(*ladder.notes, *_notes(count, visited, comparison.values)),
    )


class _Comparison:
    """The reference's results, and what compares with them."""

    def __init__(
        self,
        ladder: Ladder,
        heads: ActorCritic,
        visited: Visited,
        run_features: np.ndarray,
        progress: Progress,
    ):
        """`run_features` are those that the run's own backbone gives of the other states, to fit linear maps to."""
        self.ladder, self.heads, self.visited, self.others = ladder, heads, visited, visited.others
        self.run_features, self.progress = run_features, progress
        self.actions = len(heads.policy.network.layers[-1][1])
        encoder = ladder.reference.open()
        self.features = self.encoded(encoder, visited.texts, ladder.reference.name)
        self.texts = visited.texts[: visited.different]  # of which errors and gradients are; values may need more
        self.blocks = encoder.after_blocks(self.texts)
        self.needs_map = any(each.own_training for each in ladder.precisions) or ladder.run_own_training
        self.other_features, self.other_blocks = self.features[:0], self.blocks[:0]
        if self.needs_map:
            self.other_features = self.encoded(encoder, self.others, f"{ladder.reference.name}, to fit")
            self.other_blocks = encoder.after_blocks(self.others)
        self.map_r_squared: float | None = None
        # The run's heads read features of the model that they were trained on; those of the other, mapped to them.
        self.to_heads: Map = lambda features: features
        if ladder.run_own_training:
            self.to_heads = fit_map(self.other_features, run_features)
        read = self.to_heads(self.features)
        self.gradients = self.gradients_of(read)
        self.greedy = greedy_actions(heads, self.at_steps(read), visited.samples.mask)
        self.values = td_values(self.features, visited.steps)

    def measure(self, precision: Precision) -> Measured:
        """A precision beside the reference."""
        encoder = precision.open()
        features = self.encoded(encoder, self.visited.texts, precision.name)
        blocks = encoder.after_blocks(self.texts)
        read, compared = self.to_heads(features), features
        if precision.own_training:
            others, other_blocks = self.encoded(encoder, self.others, precision.name), encoder.after_blocks(self.others)
            compared = fit_map(others, self.other_features)(features)
            maps = [fit_map(other_blocks[:, b], self.other_blocks[:, b]) for b in range(blocks.shape[1])]
            blocks = np.stack([to(blocks[:, b]) for b, to in enumerate(maps)], axis=1)
            read = features if self.ladder.run_own_training else fit_map(others, self.run_features)(features)
            exact = self.to_heads(self.features)
            pair = (exact, read) if self.ladder.run_own_training else (read, exact)
            self.map_r_squared = explained(*(each[: len(self.texts)] for each in pair))
        return Measured(
            name=precision.name,
            summary=precision.summary,
            own_training=precision.own_training,
            epsilon=dict(precision.epsilon),
            epsilon_overall=precision.overall,
            block_errors=tuple(relative_error(blocks[:, b], self.blocks[:, b]) for b in range(blocks.shape[1])),
            feature_error=self.error(compared),
            gradient=gradient_error(self.gradients, self.gradients_of(read)),
            values=None
            if values_alike(self.values)
            else td_errors(td_values(features, self.visited.steps), self.values, self.visited.steps),
            entropy=self.entropy(features),
            entropy_standardised=self.entropy(_standardised(features)),
            disagreement=disagreement(
                greedy_actions(self.heads, self.at_steps(read), self.visited.samples.mask), self.greedy
            ),
        )

    def round(self, step: Precision) -> Rounded:
        """Weights alone rounded."""
        features = self.encoded(step.open(), self.texts, step.name)
        error = gradient_error(self.gradients, self.gradients_of(self.to_heads(features)))
        return Rounded(
            step.name,
            step.overall,
            self.error(features),
            None if error is None else error.bias,
            None if error is None else error.bias_interval,
            None if error is None else error.apparent,
            None if error is None else error.biases,
        )

    def encoded(self, encoder: Encoder, texts: Sequence[str], task: str) -> np.ndarray:
        """Features of texts, told as they come."""
        parts = []
        for start in range(0, len(texts), AT_ONCE):
            self.progress(task, start, len(texts))
            parts.append(encoder.encode(texts[start : start + AT_ONCE]))
        self.progress(task, len(texts), len(texts))
        return np.concatenate(parts)

    def error(self, features: np.ndarray) -> float:
        """Of features [m, d] in the states that the policy visited."""
        count = len(self.texts)
        return relative_error(features[:count], self.features[:count])

    def at_steps(self, features: np.ndarray) -> np.ndarray:
        """Features [m, d] of the different states → of the states acted in [B, d]."""
        found: np.ndarray = features[self.visited.state]
        return found

    def gradients_of(self, read: np.ndarray) -> np.ndarray:
        """The policy gradient in each chunk, of what the run's heads read [m, d]."""
        return policy_gradients(self.heads, self.at_steps(read), self.visited.samples, CHUNKS)

    def entropy(self, features: np.ndarray) -> float | None:
        """Of fresh policy heads in the states acted in."""
        if self.heads.log_std is not None:
            return None
        widths = [len(biases) for _, biases in self.heads.policy.network.layers]
        return initial_entropy(self.at_steps(features), widths, self.visited.samples.mask)

    def most_entropy(self) -> float | None:
        """Of the uniform policy in the states acted in."""
        if self.heads.log_std is not None:
            return None
        mask = self.visited.samples.mask
        return float(np.log(self.actions if mask is None else mask.sum(axis=1)).mean())


def _standardised(features: np.ndarray) -> np.ndarray:
    """To mean 0 and standard deviation 1 by these states themselves, as the heads of a run read them."""
    found: np.ndarray = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    return found


def _fits(rounded: Sequence[Rounded]) -> list[Fit]:
    families = {"all": list(rounded)}
    for name, group in itertools.groupby(rounded, key=lambda each: each.name.split(",")[0]):
        families[name] = list(group)
    found = []
    for family, members in families.items():
        near = [each for each in members if each.epsilon <= SMALL]
        x = [each.epsilon for each in near]
        found.append(
            Fit(
                family,
                power_law(x, [each.feature_error for each in near]),
                power_law(x, [_told(each) for each in near], _resampled(near)),
                power_law(x, [each.apparent or 0.0 for each in near]),
            )
        )
    return found


def _told(rounded: Rounded) -> float:
    """Its bias where that can be told from noise, else 0, which no fit takes: what is above zero by chance is larger
    than it should be.
    """
    return rounded.bias if rounded.bias and rounded.bias_interval and rounded.bias_interval[0] > 0 else 0.0


def _resampled(rounded: Sequence[Rounded]) -> np.ndarray | None:
    """Their biases in each resample of the chunks, [R, n]."""
    found = [each.biases for each in rounded if each.biases is not None]
    return np.stack(found, axis=1) if found and len(found) == len(rounded) else None


def _notes(count: int, visited: Visited, values: TDValues) -> list[str]:
    notes = []
    if visited.different < min(FEW, count):
        few = "one state was" if visited.different == 1 else f"{visited.different} different states were"
        notes.append(
            f"only {few} visited in {count:,} steps: linear maps and value functions fit so few exactly, and say little"
        )
    if visited.random:
        notes.append(
            "values are those of uniformly random actions: in the states that the run's policy visits every step has "
            "the same reward and hardly an episode fails, so that they all have the same value"
        )
    if values_alike(values):
        notes.append("all states have the same value, whatever the features: value errors are not measured")
    return notes

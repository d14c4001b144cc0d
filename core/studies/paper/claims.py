"""The claims of the BitRL paper (arXiv 2604.24273), and questions it leaves open, each judged by what was measured.

Reproduced and refuted are said only where the 95 % interval is on one side of the claim; everything else is undecided,
or not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, Literal

import attrs
import numpy as np

from bitrl.core.studies.comparison import Row, compare_rows
from bitrl.core.studies.results import Result
from bitrl.core.studies.statistics import (
    Interval,
    bootstrap_interval,
    equivalence,
    geometric_mean,
    proportion_interval,
    ratio_interval,
    ratio_of_means,
    steps_to,
    variance,
)

Verdict = Literal["reproduced", "refuted", "undecided", "not measured"]
"""Of a question that the paper leaves open, reproduced is a yes, and refuted a no: see `Claim.answer`."""

CLASSIC = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
LOCOMOTION = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
WORDS = ("BabyAI-GoToRedBall-v0", "SmartHome-Light", "TextWorld-Cooking")
SUCCESS = ("BabyAI-GoToRedBall-v0", "TextWorld-Cooking")
"""Tasks whose results the paper gives as success rates."""


@attrs.frozen
class Judgement:
    """What was measured about a claim, in words, and what follows."""

    measured: str
    verdict: Verdict
    value: float | None = None
    interval: Interval | None = None


FEWEST_SEEDS = 3
"""Of an arm, for a verdict: the interval of fewer says next to nothing."""

NOT_MEASURED = Judgement("", "not measured")


class Evidence:
    """Results of the paper's studies, compared when asked for."""

    def __init__(self, studies: Mapping[str, Sequence[Result]], analysis: Mapping[str, Any] | None = None):
        """`studies`: study (the name of its file) → results. `analysis`: what `bitrl analyze RUN --json` says of a run
        on the ternary model.
        """
        self.studies, self.analysis = studies, analysis
        self._rows: dict[tuple[str, ...], Row | None] = {}

    def row(self, study: str, task: str, arm: str, metric: str = "mean_return", baseline: str = "bf16") -> Row | None:
        """An arm in a task, beside the baseline where that was trained; None without a finished run of the arm."""
        key = (study, task, arm, metric, baseline)
        if key not in self._rows:
            self._rows[key] = self._compared(*key)
        return self._rows[key]

    def _compared(self, study: str, task: str, arm: str, metric: str, baseline: str) -> Row | None:
        results = [
            each
            for each in self.studies.get(study, ())
            if each.task == task and each.label in (arm, baseline) and each.summary is not None
        ]
        labels = {each.label for each in results}
        if arm not in labels:
            return None
        rows = compare_rows(results, metric, baseline if baseline in labels else arm)
        return next(row for row in rows if row.arm == arm)


Judge = Callable[[Evidence], Judgement]


@attrs.frozen
class Claim:
    """What the paper says, where, and how that is judged.

    Attributes:
        id: a short name.
        words: the claim.
        study: the study that measures it; None: several, or none. "analysis": `bitrl analyze`.
        judge: evidence → judgement.
        ours: it is not the paper's claim, but a question that it leaves open.
    """

    id: str
    words: str
    study: str | None
    judge: Judge = attrs.field(repr=False)
    ours: bool = False

    def answer(self, judgement: Judgement) -> str:
        """The verdict in words: yes or no to a question of ours."""
        answers = {"reproduced": "yes", "refuted": "no"} if self.ours else {}
        return answers.get(judgement.verdict, judgement.verdict)


def judged(evidence: Evidence) -> list[tuple[Claim, Judgement]]:
    """Every claim with its judgement."""
    return [(claim, claim.judge(evidence)) for claim in CLAIMS]


def side(interval: Interval | None, at_least: float) -> Verdict:
    """Whether an interval is above a number (reproduced), below it (refuted), or holds it."""
    if interval is None or not all(map(math.isfinite, interval)):
        return "undecided"
    if interval[0] >= at_least:
        return "reproduced"
    return "refuted" if interval[1] < at_least else "undecided"


def reaches(study: str, task: str, figure: float, metric: str = "mean_return") -> Judge:
    """The ternary policy's result is at least the paper's."""

    def judge(evidence: Evidence) -> Judgement:
        row = evidence.row(study, task, "bitnet", metric)
        if row is None or row.mean is None:
            return NOT_MEASURED
        return Judgement(_mean(row), side(row.t_interval, figure), row.mean, row.t_interval)

    return judge


def keeps(study: str, task: str, arm: str, other: str, share: float, metric: str = "mean_return") -> Judge:
    """The ratio of an arm's mean to another's is at least a share."""

    def judge(evidence: Evidence) -> Judgement:
        row = evidence.row(study, task, arm, metric, other)
        if row is None or row.ratio is None or row.arm == other:
            return NOT_MEASURED
        beside = evidence.row(study, task, other, metric, other)
        found = _ratio(row.ratio, row.ratio_interval, share, f"of {other}, {_seeds(row, beside)}")
        return found if _enough(row, beside) else attrs.evolve(found, verdict="undecided")

    return judge


def below(study: str, task: str, arm: str, other: str) -> Judge:
    """An arm's mean is below another's."""

    def judge(evidence: Evidence) -> Judgement:
        row = evidence.row(study, task, arm, baseline=other)
        if row is None or row.ratio is None or row.arm == other:
            return NOT_MEASURED
        beside = evidence.row(study, task, other, baseline=other)
        found = _ratio(row.ratio, row.ratio_interval, 1.0, f"of {other}, {_seeds(row, beside)}")
        if not _enough(row, beside):
            return attrs.evolve(found, verdict="undecided")
        turned: Mapping[Verdict, Verdict] = {"reproduced": "refuted", "refuted": "reproduced"}
        return attrs.evolve(found, verdict=turned.get(found.verdict, found.verdict))

    return judge


def equal(study: str, task: str, arm: str, other: str, margin: float, metric: str = "mean_return") -> Judge:
    """Two arms' means are equivalent within a margin, by two one-sided tests."""

    def judge(evidence: Evidence) -> Judgement:
        row, beside = (evidence.row(study, task, name, metric, other) for name in (arm, other))
        if row is None or beside is None or row.ratio is None:
            return NOT_MEASURED
        found = equivalence(np.array(row.values), np.array(beside.values), margin)
        more = f", {found.more} would decide" if found.more else ""
        words = _ratio(row.ratio, row.ratio_interval, 1.0, f"of {other}, {_seeds(row, beside)}{more}")
        verdicts: Mapping[str, Verdict] = {"yes": "reproduced", "no": "refuted"}
        return attrs.evolve(words, verdict=verdicts.get(found.verdict, "undecided"))

    return judge


def overall(arm: str, other: str, share: float) -> Judge:
    """The geometric mean over all tasks of the ratios of an arm's means to another's is at least a share."""

    def judge(evidence: Evidence) -> Judgement:
        pairs = _pairs(evidence, arm, other)
        if not pairs:
            return NOT_MEASURED
        value = geometric_mean([ratio_of_means(*pair) for pair in pairs.values()])
        return _ratio(value, _overall_interval(pairs, 0.95), share, f"of {other} over {_tasks(pairs)}")

    return judge


def equal_overall(arm: str, other: str, margin: float) -> Judge:
    """The geometric mean over tasks of the ratios of two arms' means is within a margin of 1: two one-sided tests at
    5 %, by its 90 % bootstrap interval.
    """

    def judge(evidence: Evidence) -> Judgement:
        found = overall(arm, other, 1.0)(evidence)
        if found.value is None:
            return found
        low, high = _overall_interval(_pairs(evidence, arm, other), 0.9) or (math.nan, math.nan)
        inside = 1 - margin <= low and high <= 1 + margin
        outside = high < 1 - margin or low > 1 + margin
        return attrs.evolve(found, verdict="reproduced" if inside else "refuted" if outside else "undecided")

    return judge


def every_task(arm: str, other: str, share: float) -> Judge:
    """In no task is the ratio of an arm's mean to another's below a share."""

    def judge(evidence: Evidence) -> Judgement:
        pairs = _pairs(evidence, arm, other)
        if not pairs:
            return NOT_MEASURED
        ratios = {task: ratio_of_means(*pair) for task, pair in pairs.items()}
        verdicts = [side(ratio_interval(*pair), share) for pair in pairs.values()]
        worst, best = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
        verdict: Verdict = "reproduced" if set(verdicts) == {"reproduced"} else "undecided"
        if "refuted" in verdicts:
            verdict = "refuted"
        words = f"{ratios[worst]:.1%} ({worst}) to {ratios[best]:.1%} ({best}) of {other}, {_tasks(pairs)}"
        return Judgement(words, verdict, ratios[worst])

    return judge


def varies_more(arm: str, other: str) -> Judge:
    """The variance over seeds of an arm's results is larger than another's: geometric mean of the ratios over tasks."""

    def judge(evidence: Evidence) -> Judgement:
        pairs = {task: pair for task, pair in _pairs(evidence, arm, other).items() if all(map(variance, pair))}
        if not pairs:
            return NOT_MEASURED
        logs = np.array([math.log(variance(a) / variance(b)) for a, b in pairs.values()])
        # The logarithm of a ratio of variances of n and k normal values has a variance of about 2/(n−1) + 2/(k−1).
        half = 1.96 * math.sqrt(sum(2 / (len(a) - 1) + 2 / (len(b) - 1) for a, b in pairs.values())) / len(logs)
        low, high = math.exp(logs.mean() - half), math.exp(logs.mean() + half)
        value = math.exp(logs.mean())
        words = f"{value:.2f} × ({low:.2f} to {high:.2f}) that of {other} over {_tasks(pairs)}"
        return Judgement(words, side((low, high), 1.0), value, (low, high))

    return judge


def fails(study: str, task: str, arm: str, share: float) -> Judge:
    """Of an arm's runs at least a share fail: end no better than their first rollout."""

    def judge(evidence: Evidence) -> Judgement:
        row = evidence.row(study, task, arm)
        if row is None:
            return NOT_MEASURED
        runs = len(row.seeds)
        interval = proportion_interval(round(row.failure_rate * runs), runs)
        words = f"{row.failure_rate:.0%} of {runs} runs ({interval[0]:.0%} to {interval[1]:.0%}), return {_mean(row)}"
        # Most of them failing is the claim; the share is what is refuted.
        verdict: Verdict = "reproduced" if interval[0] > 0.5 else "refuted" if interval[1] < share else "undecided"
        return Judgement(words, verdict, row.failure_rate, interval)

    return judge


def slower(arm: str, other: str) -> Judge:
    """An arm takes more steps than another to go 90 % of its way: geometric mean of the ratios over tasks."""

    def judge(evidence: Evidence) -> Judgement:
        steps: dict[str, list[np.ndarray]] = {}
        for study, tasks in STUDIES.items():
            for task in tasks:
                both = [_steps(evidence, study, task, name) for name in (arm, other)]
                if all(len(each) > 1 for each in both):
                    steps[task] = both
        if not steps:
            return NOT_MEASURED
        samples = [sample for pair in steps.values() for sample in pair]

        def ratio(*each: np.ndarray) -> float:
            return geometric_mean([float(a.mean() / b.mean()) for a, b in zip(each[::2], each[1::2], strict=True)])

        value, interval = ratio(*samples), bootstrap_interval(samples, ratio)
        low, high = interval or (math.nan, math.nan)
        words = f"{value:.2f} × ({low:.2f} to {high:.2f}) the steps of {other} over {_tasks(steps)}"
        return Judgement(words, side(interval, 1.0), value, interval)

    return judge


def exponent(figure: str, expected: float) -> Judge:
    """A figure grows as a power of ε_Q, with this exponent: it lies in an interval that is no wider than 1."""

    def judge(evidence: Evidence) -> Judgement:
        if evidence.analysis is None:
            return NOT_MEASURED
        fit = next(each for each in evidence.analysis["fits"] if each["family"] == "all")[figure]
        if fit is None:
            return Judgement("cannot be told from noise at enough roundings to fit an exponent", "undecided")
        low, high = fit["interval"]
        inside = low <= expected <= high
        verdict: Verdict = "refuted" if not inside else "reproduced" if high - low <= 1 else "undecided"
        words = f"ε^{fit['exponent']:.2f} ({low:.2f} to {high:.2f}), {fit['points']} roundings, one run"
        return Judgement(words, verdict, fit["exponent"], (low, high))

    return judge


def value_growth(evidence: Evidence) -> Judgement:
    """The error of values grows as 1/(1 − γ): to the power of 1, in each precision. That is a bound, which a task of
    short episodes need not reach: growing more slowly does not refute it.
    """
    if evidence.analysis is None:
        return NOT_MEASURED
    rows = [(each["name"], each["values"]["growth"]) for each in evidence.analysis["precisions"]]
    fits = {name: fit for name, fit in rows if fit is not None}
    if not fits:
        return Judgement("no precision's errors fit a power of it", "undecided")
    words = ", ".join(f"{fit['exponent']:.2f} ({name})" for name, fit in fits.items())
    low, high = (pick(fit["interval"][n] for fit in fits.values()) for n, pick in ((0, min), (1, max)))
    verdict: Verdict = "refuted" if low > 1 else "undecided"
    return Judgement(f"to the power of {words}; all intervals within {low:.2f} to {high:.2f}, one run", verdict)


def entropy(evidence: Evidence) -> Judgement:
    """Fresh policy heads have more entropy on the ternary model's features."""
    if evidence.analysis is None:
        return NOT_MEASURED
    ternary = next(each for each in evidence.analysis["precisions"] if each["own_training"])
    more = ternary["entropy"] / evidence.analysis["entropy"] - 1
    return Judgement(f"{more:+.1%}, one run, without an interval", "undecided", more)


def not_measured(why: str) -> Judge:
    """A claim that nothing here measures, and why."""
    return lambda evidence: Judgement(why, "not measured")


STUDIES: Mapping[str, Sequence[str]] = {"classic": CLASSIC, "language": WORDS, "mujoco": LOCOMOTION}
"""Studies of precisions → their tasks."""

SIX = tuple((study, task) for study in ("classic", "language") for task in STUDIES[study])
"""The classic tasks and those in words."""


def _metric(task: str) -> str:
    return "success_rate" if task in SUCCESS else "mean_return"


def _short(task: str) -> str:
    return task.partition("-")[0].lower()


CLAIMS: tuple[Claim, ...] = (
    Claim("cartpole", "CartPole: return of at least 476", "classic", reaches("classic", "CartPole-v1", 476)),
    Claim("acrobot", "Acrobot: return of at least −94", "classic", reaches("classic", "Acrobot-v1", -94)),
    Claim("mountaincar", "MountainCar: return of at least −108", "classic", reaches("classic", "MountainCar-v0", -108)),
    Claim("halfcheetah", "HalfCheetah: return of at least 4,210", "mujoco", reaches("mujoco", "HalfCheetah-v5", 4210)),
    Claim("walker2d", "Walker2d: return of at least 3,620", "mujoco", reaches("mujoco", "Walker2d-v5", 3620)),
    Claim(
        "textworld",
        "TextWorld Cooking: success rate of at least 0.75",
        "language",
        reaches("language", "TextWorld-Cooking", 0.75, "success_rate"),
    ),
    Claim(
        "babyai",
        "BabyAI GoToRedBall: success rate of at least 0.88",
        "language",
        reaches("language", "BabyAI-GoToRedBall-v0", 0.88, "success_rate"),
    ),
    Claim("overall", "1-bit keeps 91.7 % of 16-bit, geometric mean over tasks", None, overall("bitnet", "bf16", 0.917)),
    Claim("range", "1-bit keeps at least 85 % of 16-bit in every task", None, every_task("bitnet", "bf16", 0.85)),
    Claim("variance", "the variance over seeds is larger than 16-bit's (1.4 ×)", None, varies_more("bitnet", "bf16")),
    Claim(
        "exploration",
        "MountainCar: 1-bit is ahead of 16-bit (quantisation as exploration noise)",
        "classic",
        keeps("classic", "MountainCar-v0", "bitnet", "bf16", 1.0),
    ),
    Claim(
        "hybrid",
        "HalfCheetah: an INT8 critic makes up for the 1-bit one (4,680 against 4,210)",
        "mujoco",
        keeps("mujoco", "HalfCheetah-v5", "hybrid", "bitnet", 1.0),
    ),
    Claim(
        "hybrid-overall",
        "the hybrid keeps at least 96.5 % of 16-bit (4,680 of 4,850), geometric mean over tasks",
        None,
        overall("hybrid", "bf16", 0.965),
    ),
    Claim(
        "value-only",
        "HalfCheetah: the critic is the bottleneck (a 1-bit critic with a 16-bit policy is below 16-bit)",
        "ablations",
        below("ablations", "HalfCheetah-v5", "value-only", "bf16"),
    ),
    Claim(
        "no-grad-clip",
        "HalfCheetah: without gradient clipping 80 % of runs fail",
        "ablations",
        fails("ablations", "HalfCheetah-v5", "no-grad-clip", 0.8),
    ),
    Claim(
        "standard-ppo",
        "HalfCheetah: with standard PPO settings 60 % of runs fail",
        "ablations",
        fails("ablations", "HalfCheetah-v5", "standard-ppo", 0.6),
    ),
    Claim(
        "language-model",
        "TextWorld Cooking: an MLP without a language model has 0.42 where the 1-bit model has 0.75 (1.8 ×)",
        "language",
        keeps("language", "TextWorld-Cooking", "bitnet", "mlp-words", 1.3, "success_rate"),
    ),
    Claim("slower", "1-bit takes more steps to 90 % than 16-bit (1.46 ×)", None, slower("bitnet", "bf16")),
    Claim("features", "features move at most in proportion to ε_Q", "analysis", exponent("feature_error", 1.0)),
    Claim("bias", "the policy gradient's bias is O(ε_Q²)", "analysis", exponent("bias", 2.0)),
    Claim("values", "the error of values grows as 1/(1 − γ)", "analysis", value_growth),
    Claim("entropy", "the initial policy's entropy is higher (by 11 %)", "analysis", entropy),
    Claim(
        "edge",
        "Raspberry Pi 4: 682 MB, 24.8 ms a step, 5.8 J an episode, 10 million steps in 67 h",
        None,
        not_measured("no such board was at hand; bitrl profile measures any machine"),
    ),
    Claim(
        "equivalent",
        "all tasks, geometric mean: 1-bit is equivalent to 16-bit within 5 %",
        None,
        equal_overall("bitnet", "bf16", 0.05),
        ours=True,
    ),
    *(
        Claim(
            f"equivalent-{_short(task)}",
            f"{task}: 1-bit is equivalent to 16-bit within 5 %",
            study,
            equal(study, task, "bitnet", "bf16", 0.05, _metric(task)),
            ours=True,
        )
        for study, task in SIX
    ),
    *(
        Claim(
            f"ahead-of-mlp-{_short(task)}",
            f"{task}: 1-bit is ahead of an MLP on hashed words by 30 % of its score",
            "language",
            keeps("language", task, "bitnet", "mlp-words", 1.3, _metric(task)),
            ours=True,
        )
        for task in WORDS
        if task != "TextWorld-Cooking"
    ),
    *(
        Claim(
            f"ahead-of-random-{_short(task)}",
            f"{task}: 1-bit is ahead of random ternary weights",
            study,
            keeps(study, task, "bitnet", "random", 1.0, _metric(task)),
            ours=True,
        )
        for study, task in SIX
    ),
)


def _pairs(evidence: Evidence, arm: str, other: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Task → the results of two arms, where both have at least two seeds and their ratio is one."""
    pairs = {}
    for study, tasks in STUDIES.items():
        for task in tasks:
            rows = [evidence.row(study, task, name, _metric(task)) for name in (arm, other)]
            if all(row is not None and len(row.values) > 1 for row in rows):
                a, b = (np.array(row.values) for row in rows if row is not None)
                if not math.isnan(ratio_of_means(a, b)):
                    pairs[task] = (a, b)
    return pairs


def _overall_interval(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], level: float) -> Interval | None:
    """Of the geometric mean over tasks of the ratios of means, resampling the seeds of each arm in each task."""

    def ratio(*each: np.ndarray) -> float:
        return geometric_mean([ratio_of_means(a, b) for a, b in zip(each[::2], each[1::2], strict=True)])

    return bootstrap_interval([sample for pair in pairs.values() for sample in pair], ratio, level)


def _steps(evidence: Evidence, study: str, task: str, arm: str) -> np.ndarray:
    runs = [
        each for each in evidence.studies.get(study, ()) if each.task == task and each.label == arm and each.summary
    ]
    found = [steps_to(each.evaluations or each.curve) for each in runs]
    return np.array([step for step in found if step is not None], np.float64)


def _ratio(value: float, interval: Interval | None, share: float, of: str) -> Judgement:
    bounds = "no interval" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"
    return Judgement(f"{value:.1%} ({bounds}) {of}", side(interval, share), value, interval)


def _mean(row: Row) -> str:
    digits = 2 if abs(row.mean or 0) < 2 else 1
    mean, *ends = (f"{each:,.{digits}f}" for each in (row.mean or 0.0, *(row.t_interval or ())))
    return f"{mean} ({' to '.join(ends)}), {_seeds(row)}" if ends else f"{mean}, {_seeds(row)}"


def _tasks(found: Sized) -> str:
    return f"{len(found)} {'task' if len(found) == 1 else 'tasks'}"


def _seeds(row: Row, beside: Row | None = None) -> str:
    count = len(row.seeds)
    words = f"{count} {'seed' if count == 1 else 'seeds'}"
    return words if beside is None or len(beside.seeds) == count else f"{words} beside {len(beside.seeds)}"


def _enough(*rows: Row | None) -> bool:
    """Whether each arm has the seeds that an interval can be believed by."""
    return all(row is not None and len(row.seeds) >= FEWEST_SEEDS for row in rows)

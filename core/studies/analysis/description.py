"""An analysis in tables, pictures and words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from bitrl.core.studies.analysis.analysis import SMALL, Analysis, Measured, Rounded
from bitrl.core.studies.analysis.power_law import PowerLaw
from bitrl.core.studies.charts import Series, series_chart
from bitrl.core.studies.tables import Table, markdown

PAPER_FEATURES, PAPER_BIAS, PAPER_VALUES = 1, 2, 1
"""The exponents of ε_Q, ε_Q and 1/(1−γ) in BitRL's theory (arXiv 2604.24273)."""


def tables(found: Analysis, every_matrix: bool = False) -> Iterator[Table]:
    """What was measured; ε_Q of every matrix, or the range over blocks of each kind of matrix."""
    yield _summary(found)
    yield _epsilons(found.precisions, every_matrix)
    yield _blocks(found.precisions)
    yield _gradients(found.precisions)
    yield _fits(found)
    if any(each.values for each in found.precisions):
        yield _values(found)
        yield _growth(found)


def _summary(found: Analysis) -> Table:
    unit = "share of states where the greedy one differs" if found.discrete else "RMS distance of the greedy ones"
    rows = [("fp32", "0", "0", "–", "0", entropy(found.entropy), entropy(found.entropy_standardised))]
    for each in found.precisions:
        own = each.own_training
        ratio = "–" if own or not each.epsilon_overall else f"{each.feature_error / each.epsilon_overall:.2f}"
        rows.append(
            (
                each.name,
                "–" if own else percent(each.epsilon_overall),
                percent(each.feature_error) + (" *" if own else ""),
                ratio,
                percent(each.disagreement) if found.discrete else f"{each.disagreement:.3g}",
                entropy(each.entropy),
                entropy(each.entropy_standardised),
            )
        )
    headings = ("precision", "ε_Q", "features", "features/ε_Q", "actions", "entropy", "standardised")
    return Table(f"Beside full precision (actions: {unit})", headings, tuple(rows))


def _epsilons(precisions: Sequence[Measured], every_matrix: bool) -> Table:
    shown = [each for each in precisions if not each.own_training]
    names = list(shown[0].epsilon) if shown else []
    headings = ("matrix", *(each.name for each in shown))
    if every_matrix:
        rows = [(name, *(percent(each.epsilon[name]) for each in shown)) for name in names]
        return Table("ε_Q of each matrix", headings, tuple(rows))
    kinds = list(dict.fromkeys(name.split(".")[-1] for name in names))

    def over(each: Measured, kind: str) -> str:
        values = [value for name, value in each.epsilon.items() if name.split(".")[-1] == kind]
        low, high = percent(min(values)), percent(max(values))
        return low if low == high else f"{low.removesuffix(' %')} to {high}"

    rows = [(kind, *(over(each, kind) for each in shown)) for kind in kinds]
    return Table("ε_Q of each kind of matrix, over blocks", headings, tuple(rows))


def _blocks(precisions: Sequence[Measured]) -> Table:
    count = max((len(each.block_errors) for each in precisions), default=0)
    rows = [(str(b + 1), *(percent(each.block_errors[b]) for each in precisions)) for b in range(count)]
    headings = ("after block", *(each.name + (" *" if each.own_training else "") for each in precisions))
    return Table("Error of the features after each block", headings, tuple(rows))


def _gradients(precisions: Sequence[Measured]) -> Table:
    rows = []
    for each in precisions:
        error = each.gradient
        if error is None:
            rows.append((each.name, "–", "–", "–", "–"))
            continue
        rows.append(
            (
                each.name,
                f"{percent(error.bias)} ({_range(error.bias_interval)})",
                percent(error.apparent),
                f"{error.cosine:.3f} ({error.cosine_interval[0]:.2f} to {error.cosine_interval[1]:.2f})",
                f"{error.norm_ratio:.2f} ({error.norm_ratio_interval[0]:.2f} to {error.norm_ratio_interval[1]:.2f})",
            )
        )
    headings = ("precision", "bias (95 %)", "these samples", "cosine (95 %)", "norm ratio (95 %)")
    return Table("Policy gradient beside full precision", headings, tuple(rows))


def _fits(found: Analysis) -> Table:
    rows = [(fit.family, exponent(fit.feature_error), exponent(fit.bias), exponent(fit.apparent)) for fit in found.fits]
    rows.append(("the paper", str(PAPER_FEATURES), str(PAPER_BIAS), "–"))
    headings = ("weights alone", "features", "bias of the gradient", "gradient of these samples")
    return Table(f"Exponents p of error ∝ ε_Q^p, for ε_Q up to {SMALL} (95 %)", headings, tuple(rows))


def _values(found: Analysis) -> Table:
    shown = [(each.name, each.values) for each in found.precisions if each.values is not None]
    rows = [
        (f"{gamma:g}", f"{1 / (1 - gamma):.0f}", f"{size:.3g}", *(f"{e.absolute[gamma]:.3g}" for _, e in shown))
        for gamma, size in found.value_sizes.items()
    ]
    return Table("Error of learned values, RMS", ("γ", "1/(1−γ)", "values", *(name for name, _ in shown)), tuple(rows))


def _growth(found: Analysis) -> Table:
    first, *_, last = found.value_sizes
    rows = [
        (each.name, exponent(each.values.growth), *(percent(each.values.relative[gamma]) for gamma in (first, last)))
        for each in found.precisions
        if each.values is not None
    ]
    rows.append(("the paper", str(PAPER_VALUES), "–", "–"))
    shares = (f"share of values, γ {first:g}", f"γ {last:g}")
    return Table("Growth of that error", ("precision", "power of 1/(1−γ) (95 %)", *shares), tuple(rows))


def words(found: Analysis) -> str:
    """What it says, in a paragraph."""
    return " ".join(_sentences(found))


def _sentences(found: Analysis) -> Iterator[str]:
    yield (
        f"Full precision is {found.reference}; all is measured on {found.states:,} steps in {found.env} that the run's "
        f"policy (trained on {found.run_precision}, step {found.step:,}) takes, sampled."
    )
    rounded = [each for each in found.precisions if not each.own_training]
    for each in found.precisions:
        if each.own_training:
            r_squared = "" if found.map_r_squared is None else f" (R² {found.map_r_squared:.3f})"
            yield (
                f"The model behind {each.name} was trained in that precision: its weights are exact, not a rounding of "
                "full precision, so its rows (*) compare two trainings, through a linear map of features fitted to "
                f"other states{r_squared}, and it has no ε_Q and is in no fit."
            )
    parts = [f"{percent(each.epsilon_overall)} in {each.name}" for each in rounded]
    yield f"Weights move by {_listed(parts)}; features by {_listed([percent(each.feature_error) for each in rounded])}."
    overall = next(fit for fit in found.fits if fit.family == "all")
    yield _verdict("The error of features", "ε_Q", overall.feature_error, PAPER_FEATURES)
    yield _verdict("The bias of the policy gradient", "ε_Q", overall.bias, PAPER_BIAS)
    if overall.apparent is not None:
        yield (
            f"The gradient of these very samples moves as ε_Q^{overall.apparent.exponent:.2f} "
            f"(95 %: {_numbers(overall.apparent.interval)}): a given rounding moves it to first order."
        )
    yield from _about_values(found)
    yield from _about_actions(found)


def _verdict(what: str, of: str, law: PowerLaw | None, paper: int) -> str:
    if law is None:
        return f"{what} cannot be told from noise at enough roundings to fit an exponent (the paper: {paper})."
    low, high = law.interval
    agrees = "which the paper's {} lies in" if low <= paper <= high else "which excludes the paper's {}"
    missing = f"; {law.left_out} of {law.points + law.left_out} cannot be told from zero" if law.left_out else ""
    return f"{what} grows as {of}^{law.exponent:.2f} (95 %: {_numbers(law.interval)}, {agrees.format(paper)}{missing})."


def _about_values(found: Analysis) -> Iterator[str]:
    measured = [(each.name, each.values.growth) for each in found.precisions if each.values is not None]
    laws = [(name, law) for name, law in measured if law is not None]
    if not laws:
        return
    agree = [name for name, law in laws if law.interval[0] <= PAPER_VALUES <= law.interval[1]]
    each = _listed([f"{law.exponent:.2f} ({name})" for name, law in laws])
    whose = "of uniformly random actions" if found.values_of_random else "of the run's policy"
    yield (
        f"The error of values {whose}, learned by temporal differences on each precision's features, grows as 1/(1−γ) "
        f"to the power of {each}; the paper's 1 is within the 95 % interval of {_listed(agree) or 'none'}."
    )


def _about_actions(found: Analysis) -> Iterator[str]:
    what = (
        "The greedy action differs in {} of these states." if found.discrete else "Greedy actions are {} apart (RMS)."
    )
    shown = [
        f"{percent(each.disagreement) if found.discrete else f'{each.disagreement:.2g}'} ({each.name})"
        for each in found.precisions
    ]
    yield what.format(_listed(shown))
    if found.entropy is None or found.most_entropy is None:
        yield "A fresh Gaussian policy has the entropy of its standard deviation, whatever the features."
        return
    changes = [
        f"{round(100 * (each.entropy / found.entropy - 1), 1) + 0.0:+.1f} % ({each.name})"
        for each in found.precisions
        if each.entropy is not None and found.entropy
    ]
    yield (
        f"Fresh policy heads on these features have an entropy of {found.entropy:.3f} nats (uniform: "
        f"{found.most_entropy:.3f}) in full precision, which the others change by {_listed(changes)}; the paper "
        "reports +11 %. The heads of bitrl's PPO begin exactly uniform, whatever the features."
    )


def pictures(found: Analysis) -> dict[str, str]:
    """Pictures as SVG, by file name."""
    families: dict[str, list[Rounded]] = {
        name: list(group) for name, group in groupby(found.steps, key=lambda each: each.name.split(",")[0])
    }
    rounded = [each for each in found.precisions if not each.own_training]
    near = [each for each in found.steps if each.apparent]
    features = [
        *(_dots(name, [(each.epsilon, each.feature_error) for each in group]) for name, group in families.items()),
        _dots("precisions, activations rounded too", [(each.epsilon_overall, each.feature_error) for each in rounded]),
        _guide("in proportion to ε_Q", [(each.epsilon, each.feature_error) for each in found.steps], 1),
    ]
    gradient = [
        _dots("gradient of these samples", [(each.epsilon, each.apparent or 0.0) for each in found.steps]),
        _dots("bias (0: not shown)", [(each.epsilon, each.bias or 0.0) for each in found.steps]),
        _guide("in proportion to ε_Q", [(each.epsilon, each.apparent or 0.0) for each in near], 1),
        _guide("in proportion to ε_Q² (paper)", [(each.epsilon, each.apparent or 0.0) for each in near], 2),
    ]
    blocks = [
        Series(
            each.name + (" (after a linear map)" if each.own_training else ""),
            tuple((float(b + 1), error) for b, error in enumerate(each.block_errors)),
            line=True,
        )
        for each in found.precisions
    ]
    drawn = {
        "features.svg": series_chart(
            "Error of features by ε_Q", "ε_Q", "error of features", features, log_x=True, log_y=True
        ),
        "gradient.svg": series_chart(
            "Policy gradient by ε_Q", "ε_Q", "difference / norm of the gradient", gradient, log_x=True, log_y=True
        ),
        "blocks.svg": series_chart(
            "Error of features after each block", "after block", "error of features", blocks, log_y=True
        ),
    }
    learned = [(each.name, each.values) for each in found.precisions if each.values is not None]
    if learned:
        lines = [
            Series(name, tuple((1 / (1 - gamma), error) for gamma, error in errors.absolute.items()), line=True)
            for name, errors in learned
        ]
        middle = lines[len(lines) // 2].points
        drawn["values.svg"] = series_chart(
            "Error of learned values by γ", "1/(1−γ)", "error of values (RMS)",
            [*lines, _guide("in proportion to 1/(1−γ) (paper)", middle, 1)], log_x=True, log_y=True,
        )  # fmt: skip
    return drawn


def page(found: Analysis, pictures: Sequence[str], command: str) -> str:
    """Words, tables and pictures as Markdown."""
    notes = "".join(f"- {note}\n" for note in found.notes)
    images = "\n".join(f"![{name.removesuffix('.svg')}]({name})\n" for name in pictures)
    return (
        f"# Analysis of {found.run}\n\n{words(found)}\n\n" + (f"{notes}\n" if notes else "")
        + markdown([*tables(found, every_matrix=True)]) + f"\n{images}\nMade by `{command}`.\n"
    )  # fmt: skip


def _dots(label: str, points: Sequence[tuple[float, float]]) -> Series:
    return Series(label, tuple(points))


def _guide(label: str, points: Sequence[tuple[float, float]], power: int) -> Series:
    """A straight line of this slope through the middle of points."""
    positive = sorted((x, y) for x, y in points if x > 0 and y > 0)
    if len(positive) < 2:
        return Series(label, (), line=True)
    x, y = positive[len(positive) // 2]
    return Series(label, tuple((at, y * (at / x) ** power) for at in (positive[0][0], positive[-1][0])), line=True)


def percent(value: float) -> str:
    """`8.9 %`: two digits, or all before the point."""
    shown = 100 * value
    return f"{shown:.0f} %" if shown >= 10 else f"{shown:.2g} %"


def entropy(value: float | None) -> str:
    """In nats."""
    return "–" if value is None else f"{value:.4f}"


def exponent(law: PowerLaw | None) -> str:
    """`1.02 (0.95 to 1.10)`."""
    return "–" if law is None else f"{law.exponent:.2f} ({_numbers(law.interval)})"


def _numbers(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _range(interval: tuple[float, float]) -> str:
    return f"{percent(interval[0]).removesuffix(' %')} to {percent(interval[1])}"


def _listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"

"""A comparison as tables of words, for terminals, pages, papers and spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

import attrs

from bitrl.core.studies.comparison import Comparison, Row
from bitrl.core.studies.statistics import Equivalence
from bitrl.core.wording import elided


@attrs.frozen
class Table:
    """A table: its title, its headings, and its rows of the same length."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(found: Comparison) -> Iterator[Table]:
    """What differs between the arms; each task's results, and beside the baseline; and what is over all tasks."""
    if len(found.differences) > 1:
        paths = list(dict.fromkeys(path for own in found.differences.values() for path in own))
        rows = [(arm, *(_word(own.get(path)) for path in paths)) for arm, own in found.differences.items()]
        yield Table("What differs", ("arm", *paths), tuple(rows))
    for task in dict.fromkeys(row.task for row in found.rows):
        here = [row for row in found.rows if row.task == task]
        yield _results(task, here, found.metric)
        if any(row.arm != found.baseline for row in here):
            yield _beside(task, [row for row in here if row.arm != found.baseline], found.baseline)
    if found.overall and len({row.task for row in found.rows}) > 1:
        yield _overall(found)


def markdown(found: Sequence[Table]) -> str:
    """As Markdown."""
    return "\n".join(f"## {_markdown_text(each.title)}\n\n{_markdown(each)}" for each in found)


def latex(found: Sequence[Table]) -> str:
    """As LaTeX, for the package booktabs."""
    return "\n".join(_latex(each) for each in found)


def comma_separated(found: Sequence[Table]) -> str:
    """As CSV: the tables one below the other, each with its title in the first column."""
    rows: list[Sequence[object]] = []
    for each in found:
        rows += [("table", *each.headings), *((each.title, *row) for row in each.rows)]
    return csv_lines(rows)


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines of CSV, quoted where they have to be."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def _results(task: str, rows: Sequence[Row], metric: str) -> Table:
    headings = (
        "arm", "seeds", "mean", "95 % (t)", "95 % (bootstrap)", "median", "IQM", "worst", "failed", "steps to 90 %",
    )  # fmt: skip
    shown = [
        (
            row.arm,
            str(len(row.seeds)),
            number(row.mean),
            interval(row.t_interval),
            interval(row.bootstrap_interval),
            number(row.median),
            number(row.interquartile_mean),
            number(min(row.values, default=None)),
            f"{row.failure_rate:.0%}",
            "–" if row.steps_to_90 is None else f"{row.steps_to_90:,.0f}",
        )
        for row in rows
    ]
    return Table(f"{task}: {metric.replace('_', ' ')}, greedy actions", headings, tuple(shown))


def _beside(task: str, rows: Sequence[Row], baseline: str) -> Table:
    tested = any(row.equivalence for row in rows)
    shown = []
    for row in rows:
        variance = row.variance_ratio
        cells = [
            row.arm,
            share(row.ratio),
            shares(row.ratio_interval),
            share(row.improvement),
            "–" if variance is None else f"{variance[0]:.2g}",
            "–" if variance is None else f"{variance[1][0]:.2g} to {variance[1][1]:.2g}",
        ]
        shown.append(tuple([*cells, verdict(row.equivalence)] if tested else cells))
    headings = ("arm", "ratio", "95 %", "P(better)", "variance", "95 %", *(["equivalent"] if tested else []))
    return Table(f"{task}: beside {baseline}", headings, tuple(shown))


def _overall(found: Comparison) -> Table:
    rows = [
        (
            each.arm,
            str(each.tasks),
            share(each.ratio),
            shares(each.ratio_interval),
            share(each.interquartile_mean),
            shares(each.interquartile_mean_interval),
            share(each.baseline_interquartile_mean),
            share(each.improvement),
        )
        for each in found.overall
    ]
    headings = ("arm", "tasks", "geometric mean", "95 %", "interquartile mean", "95 %", "baseline's", "P(better)")
    return Table(f"All tasks: ratios to {found.baseline}", headings, tuple(rows))


def number(value: float | None) -> str:
    """A result in a few digits."""
    if value is None:
        return "–"
    if 0 < abs(value) < 0.0005:  # three decimals would say that it is zero
        return f"{value:.1g}"
    return f"{value:.3f}" if abs(value) < 2 else f"{value:,.1f}"


def interval(found: tuple[float, float] | None) -> str:
    """An interval of results."""
    return "–" if found is None else f"{number(found[0])} to {number(found[1])}"


def share(value: float | None) -> str:
    """A ratio as a percentage."""
    return "–" if value is None else f"{value:.1%}"


def shares(found: tuple[float, float] | None) -> str:
    """An interval of ratios."""
    return "–" if found is None else f"{found[0]:.1%} to {found[1]:.1%}"


def verdict(found: Equivalence | None) -> str:
    """Whether arms are equivalent, and what would decide it."""
    if found is None:
        return "–"
    if found.reason:
        return f"{found.verdict} ({found.reason})"
    if found.verdict != "undecided":
        return found.verdict
    return f"undecided ({found.more})" if found.more else "undecided"


def _word(value: object) -> str:
    return "–" if value is None else elided(value)


def _markdown(table: Table) -> str:
    lines = [[_markdown_text(cell) for cell in line] for line in (table.headings, *table.rows)]
    lines.insert(1, ["---"] * len(table.headings))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown_text(text: str) -> str:
    """Text on one line of which Markdown takes no part for markup: `_` has a meaning around words alone."""
    return re.sub(r"[\\`*<|]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", _one_line(text))


def _one_line(cell: str) -> str:
    """A cell, whose arm may be called anything, on one line."""
    return " ".join(cell.splitlines())


_LATEX = {
    "\\": r"\textbackslash{}",
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # which would be an argument of the line's end before it
    "–": "--",
}


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(letter, letter) for letter in _one_line(cell)) for cell in cells) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{line([table.title])[:-3]}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}",
            r"\toprule",
            line(table.headings),
            r"\midrule",
            *map(line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )

"""`bitrl compare`: the statistics of runs that differ in something."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitrl.cli.output import claim_stdout, json_option, print_json, table
from bitrl.core.errors import UsageError

if TYPE_CHECKING:
    from bitrl.core.studies.comparison import Comparison, Row
    from bitrl.core.studies.results import Result


@click.command(context_settings={"max_content_width": 100})
@click.argument("places", nargs=-1, required=True, metavar="RUNS|STUDY…", type=click.Path(path_type=Path))
@click.option("--baseline", metavar="ARM", help="The arm that others are compared with.  [default: the first]")
@click.option(
    "--metric", default="mean_return", show_default=True, help="A number of the evaluation; higher is better."
)
@click.option(
    "--equivalent-within",
    "margin",
    metavar="5%|X",
    help="Test whether each arm is equivalent to the baseline: within a share of it, or X in units of the metric.",
)
@json_option
def compare(places: tuple[Path, ...], baseline: str | None, metric: str, margin: str | None, as_json: bool) -> None:
    """Compare trained runs: what differs, and whether it matters.

    RUNS are directories of runs, or one that holds them; STUDY is the directory of a study. Runs that differ in their
    seed alone are one arm.
    """
    from bitrl.core.studies.comparison import compare as compared

    stdout = claim_stdout() if as_json else None
    results, own = _results(places)
    found = compared(results, metric=metric, baseline=baseline or own, margin=_margin(margin))
    if as_json:
        print_json(found.as_dict(), stdout)
    else:
        show_comparison(found)


def _results(places: tuple[Path, ...]) -> tuple[list[Result], str | None]:
    """The results in these places, and the baseline that a single study names."""
    from bitrl.core.studies.results import read_results
    from bitrl.core.studies.study import is_study, read_study

    results: list[Result] = []
    baseline = None
    for place in places:
        if is_study(place):
            design, found = read_study(place)
            baseline = design.baseline if len(places) == 1 else None
        else:
            found = read_results([place])
        results += found
    return results, baseline


def _margin(text: str | None) -> tuple[float, bool] | None:
    """`5%` → (0.05, True); `25` → (25.0, False)."""
    if text is None:
        return None
    relative = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value < (100 if relative else float("inf")):
        raise UsageError(f'--equivalent-within "{text}": expected a share such as 5%, or a number above 0')
    return (value / 100 if relative else value), relative


def show_comparison(found: Comparison) -> None:
    """Print a comparison as tables."""
    if len(found.differences) > 1:
        paths = list(dict.fromkeys(path for own in found.differences.values() for path in own))
        rows: list[tuple[str, ...]] = [("arm", *paths)]
        rows += [(arm, *(_word(own.get(path)) for path in paths)) for arm, own in found.differences.items()]
        click.echo("what differs\n" + table(rows) + "\n")
    for task in dict.fromkeys(row.task for row in found.rows):
        here = [row for row in found.rows if row.task == task]
        click.echo(f"{task}: {found.metric.replace('_', ' ')} of greedy actions")
        click.echo(table(_results_table(here)) + "\n")
        if any(row.arm != found.baseline for row in here):
            click.echo(f"  beside {found.baseline}")
            click.echo(table(_beside_table(here, found.baseline)) + "\n")
    if found.overall and len({row.task for row in found.rows}) > 1:
        click.echo(f"over all tasks, as ratios to {found.baseline}")
        rows = [("arm", "tasks", "geometric mean", "95 %", "interquartile mean", "95 %", "P(better)")]
        for each in found.overall:
            rows.append(
                (
                    each.arm,
                    str(each.tasks),
                    _share(each.ratio),
                    _shares(each.ratio_interval),
                    _share(each.interquartile_mean),
                    _shares(each.interquartile_mean_interval),
                    _share(each.improvement),
                )
            )
        click.echo(table(rows) + "\n")
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)


def _results_table(rows: list[Row]) -> list[tuple[str, ...]]:
    shown: list[tuple[str, ...]] = [
        ("arm", "seeds", "mean", "95 % (t)", "95 % (bootstrap)", "median", "IQM", "worst", "failed", "steps to 90 %")
    ]
    for row in rows:
        shown.append(
            (
                row.arm,
                str(len(row.seeds)),
                _number(row.mean),
                _interval(row.t_interval),
                _interval(row.bootstrap_interval),
                _number(row.median),
                _number(row.interquartile_mean),
                _number(min(row.values, default=None)),
                f"{row.failure_rate:.0%}",
                "–" if row.steps_to_90 is None else f"{row.steps_to_90:,.0f}",
            )
        )
    return shown


def _beside_table(rows: list[Row], baseline: str) -> list[tuple[str, ...]]:
    tested = any(row.equivalence for row in rows)
    shown: list[tuple[str, ...]] = [
        ("arm", "ratio", "95 %", "P(better)", "variance", "95 %", *(["equivalent"] if tested else []))
    ]
    for row in rows:
        if row.arm == baseline:
            continue
        variance = row.variance_ratio
        cells = [
            row.arm,
            _share(row.ratio),
            _shares(row.ratio_interval),
            _share(row.improvement),
            "–" if variance is None else f"{variance[0]:.2g}",
            "–" if variance is None else f"{variance[1][0]:.2g} to {variance[1][1]:.2g}",
        ]
        if tested:
            cells.append(_equivalent(row))
        shown.append(tuple(cells))
    return shown


def _equivalent(row: Row) -> str:
    if row.equivalence is None:
        return "–"
    if row.equivalence.reason:
        return f"{row.equivalence.verdict} ({row.equivalence.reason})"
    if row.equivalence.verdict != "undecided":
        return row.equivalence.verdict
    more = row.equivalence.more_seeds
    return "undecided (" + (f"about {more} more seeds" if more else "more seeds are unlikely to decide") + ")"


def _word(value: Any) -> str:
    return "–" if value is None else str(value)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{_number(interval[0])} to {_number(interval[1])}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _shares(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"

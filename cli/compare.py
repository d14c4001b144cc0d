"""`bitrl compare`: the statistics of runs that differ in something."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitrl.cli import completion
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.core.errors import UsageError

if TYPE_CHECKING:
    from bitrl.core.studies.comparison import Comparison
    from bitrl.core.studies.results import Result


places_argument = click.argument(
    "places",
    nargs=-1,
    required=True,
    metavar="RUNS|STUDY…",
    type=click.Path(path_type=Path),
    shell_complete=completion.runs,
)
"""What `results_in` reads: of compare, plot and report."""


@click.command(context_settings={"max_content_width": 100})
@places_argument
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

    RUNS are directories of runs, or one that holds them; STUDY is the directory of a study, or what `bitrl report
    --results` wrote. Runs that differ in their seed alone are one arm.
    """
    from bitrl.core.studies.comparison import compare as compared

    stdout = claim_stdout() if as_json else None
    results, own = results_in(places)
    found = compared(results, metric=metric, baseline=baseline or own, margin=margin_of(margin))
    if as_json:
        print_json(found.as_dict(), stdout)
    else:
        show_comparison(found)


def results_in(places: tuple[Path, ...]) -> tuple[list[Result], str | None]:
    """The results in these places (runs, studies, or files of results), and the baseline that a single study names."""
    from bitrl.core.studies.comparison import begun_baseline
    from bitrl.core.studies.recorded import read_recorded
    from bitrl.core.studies.results import read_results
    from bitrl.core.studies.study import is_study, read_study
    from bitrl.core.wording import warn

    results: list[Result] = []
    baseline = None
    for place in places:
        if is_study(place):
            design, found = read_study(place)
            baseline = begun_baseline(found, design.baseline) if len(places) == 1 else None
            if left := len(design.cells) - len(found):
                warn(f"{place}: {left} of the study's {len(design.cells)} cells have not begun")
        elif place.suffix == ".json":
            found, own = read_recorded(place)
            baseline = own if len(places) == 1 else None
        else:
            found = read_results([place])
        results += found
    return results, baseline


def margin_of(text: str | None) -> tuple[float, bool] | None:
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
    from bitrl.core.studies.tables import tables

    for each in tables(found):
        echo(f"{each.title}\n{table([each.headings, *each.rows])}\n")
    for warning in found.warnings:
        echo(f"warning: {warning}", err=True)

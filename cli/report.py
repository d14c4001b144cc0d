"""`bitrl report`: a comparison as a page, or as tables for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitrl.cli.compare import margin_of, places_argument, results_in
from bitrl.cli.output import echo, json_option, print_json
from bitrl.cli.quoted_command import quoted_command

if TYPE_CHECKING:
    from bitrl.core.studies.results import Result

FORMS = {".html": "html", ".md": "md", ".tex": "latex", ".csv": "csv", ".json": "results"}


@click.command(context_settings={"max_content_width": 100})
@places_argument
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The file to write: .html, .md, .tex, .csv or .json.",
)
@click.option("--html", "form", flag_value="html", help="A page that needs no network.  [default: by FILE's name]")
@click.option("--md", "form", flag_value="md", help="The tables as Markdown.")
@click.option("--latex", "form", flag_value="latex", help="The tables as LaTeX (package booktabs).")
@click.option("--csv", "form", flag_value="csv", help="The tables as CSV.")
@click.option("--results", "form", flag_value="results", help="The runs' results as JSON, to compare or report later.")
@click.option("--baseline", metavar="ARM", help="The arm that others are compared with.  [default: the first]")
@click.option(
    "--metric", default="mean_return", show_default=True, help="A number of the evaluation; higher is better."
)
@click.option("--equivalent-within", "margin", metavar="5%|X", help="Test equivalence, as `bitrl compare` does.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
def report(
    places: tuple[Path, ...],
    out: Path,
    form: str | None,
    baseline: str | None,
    metric: str,
    margin: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Report on trained runs: one page, or tables for a paper.

    Curves, tables with intervals, costs, and what made each number.
    RUNS are directories of runs, or one that holds them; STUDY is the directory of a study, or what --results wrote.
    """
    from bitrl.core.errors import UsageError, unknown
    from bitrl.core.files import write_atomically
    from bitrl.core.studies.comparison import compare, label_runs
    from bitrl.core.studies.recorded import write_recorded
    from bitrl.core.studies.report import html
    from bitrl.core.studies.tables import comma_separated, latex, markdown, tables
    from bitrl.core.wording import warn

    if out.exists() and not force:
        raise UsageError(f"{out}: already exists: choose another name with --out, or replace it with --force")
    form = form or FORMS.get(out.suffix.lower())
    if form is None:
        raise UsageError(
            f"--out {out}: expected a name that ends in {', '.join(FORMS)}, or say which with --html or --md"
        )
    results, own = results_in(places)
    if form == "results":
        if baseline is not None and baseline not in (arms := set(label_runs(results).values())):
            raise unknown("arm", baseline, arms)
        write_recorded(results, out, baseline or own)
        _say(out, form, results, as_json)
        return
    found = compare(results, metric=metric, baseline=baseline or own, margin=margin_of(margin))
    if form == "html":
        place = places[0].absolute()
        name = place.stem if place.suffix == ".json" else place.name
        title = f"Study {name}" if len(places) == 1 else "Comparison of runs"
        text = html(title, found, results, quoted_command(leave_out=("force", "form", "as_json")))
    else:
        text = {"md": markdown, "latex": latex, "csv": comma_separated}[form]([*tables(found)])
        for warning in found.warnings:  # for which a table has no place, as a page has
            warn(warning)
    write_atomically(out, text, "choose another file with --out")
    _say(out, form, results, as_json)


def _say(out: Path, form: str, results: Sequence[Result], as_json: bool) -> None:
    if as_json:
        print_json({"file": str(out), "bytes": out.stat().st_size, "format": form, "runs": len(results)})
    else:
        echo(f"{out}: {out.stat().st_size:,} bytes, {len(results)} run{'s' * (len(results) != 1)}")

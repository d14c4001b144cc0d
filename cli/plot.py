"""`bitrl plot`: the learning curves of runs as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitrl.cli.compare import places_argument, results_in
from bitrl.cli.output import echo, json_option, print_json
from bitrl.core.errors import UsageError
from bitrl.core.installing import is_there, to_install
from bitrl.core.wording import warn

if TYPE_CHECKING:
    from bitrl.core.studies.curves import Curve

FORMATS = (".svg", ".png", ".pdf")


@click.command()
@places_argument
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="FILE.svg, FILE.png or FILE.pdf (png and pdf: extra report).",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
def plot(places: tuple[Path, ...], out: Path, force: bool, as_json: bool) -> None:
    """Draw learning curves.

    Return against environment steps, of evaluations while training where all runs have them (`run.eval_every`), else of
    rollouts.
    Runs that differ in their seed alone are one curve, with its 95 % interval. Runs of one environment only.
    """
    from bitrl.core.studies.comparison import label_runs, refuse_repeated_seeds
    from bitrl.core.studies.curves import evaluated, mean_curve

    check_picture(out, "--out")
    if out.exists() and not force:
        raise UsageError(f"{out}: already exists: choose another name with --out, or replace it with --force")
    results, _ = results_in(places)
    tasks = list(dict.fromkeys(result.task for result in results))
    if len(tasks) > 1:
        raise UsageError(f"runs of {len(tasks)} tasks ({', '.join(tasks[:3])}): plot each alone, or use bitrl report")
    labels = label_runs(results)
    arms = list(dict.fromkeys(labels.values()))
    greedy = evaluated(results)
    groups = {arm: [each for each in results if labels[each.directory] == arm] for arm in arms}
    refuse_repeated_seeds({(tasks[0], arm): group for arm, group in groups.items()})
    found = [mean_curve(arm, group, greedy) for arm, group in groups.items()]
    curves = [curve for curve in found if curve is not None]
    if not curves:
        raise UsageError("no run has finished an episode yet, so there is nothing to draw")
    drawn = 0
    for arm, group in groups.items():
        rows = {each.directory: rows for each in group if (rows := each.evaluations if greedy else each.curve)}
        drawn += len(rows)
        for each in group:
            if each.directory not in rows:
                echo(f"warning: {each.directory}: has no return yet: it is left out", err=True)
        if len({each[-1][0] for each in rows.values()}) > 1:
            shortest = min(rows, key=lambda directory: rows[directory][-1][0])
            end = rows[shortest][-1][0]
            echo(f"warning: {arm}: drawn up to step {end:,}, the last of {shortest}", err=True)
    what = "evaluations (greedy actions)" if greedy else "rollouts (sampled actions)"
    draw(out, f"Learning curves in {tasks[0]}", "environment steps", f"return of {what}", curves)
    if as_json:
        print_json({"file": str(out), "bytes": out.stat().st_size, "arms": [curve.label for curve in curves]})
    else:
        echo(f"{out}: {len(curves)} curve{'s' * (len(curves) != 1)} of {drawn} run{'s' * (drawn != 1)}")


def check_picture(out: Path, option: str) -> None:
    """Refuse a name that is not one of a picture, or one that only a package draws which is not installed."""
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"{option} {out}: expected a name that ends in {', '.join(FORMATS)}")
    if out.suffix.lower() != ".svg" and not is_there("matplotlib"):
        raise UsageError(f"{out.suffix} needs matplotlib: {to_install('matplotlib')}, or name a .svg")


def draw(out: Path, title: str, x_label: str, y_label: str, curves: Sequence[Curve]) -> None:
    """Write a picture of the curves, in the format that its name asks for."""
    from bitrl.core.files import write_atomically
    from bitrl.core.studies.charts import COLOURS, dash_of, line_chart, visible

    if out.suffix.lower() == ".svg":
        picture = line_chart(title, x_label, y_label, curves)
        write_atomically(out, picture, "choose another file with --out")
        return
    import io
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.2), dpi=150)
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        dot = "o" if len(curve.steps) == 1 else ""  # of which no line is seen
        dash = (0, [float(length) for length in dash_of(number).split()]) if dash_of(number) else "-"
        axes.plot(curve.steps, curve.mean, color=colour, marker=dot, linestyle=dash, label=str(number))
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel=x_label, ylabel=y_label, title=_plain(title))
    axes.grid(alpha=0.25)
    low, high = visible(curves)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    axes.set_ylim(low - room, high + room)
    # Texts of the legend, not labels of the lines: of those matplotlib leaves out what begins with "_".
    for text, curve in zip(axes.legend(frameon=False, fontsize=8).get_texts(), curves, strict=True):
        text.set_text(_plain(curve.label))
    data = io.BytesIO()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        figure.tight_layout()
        figure.savefig(data, format=out.suffix[1:].lower())
    plt.close(figure)
    if any("missing from font" in str(each.message) for each in said):
        warn(f"{out}: its font lacks letters of the names, which are boxes: name a .svg, or rename the arms")
    write_atomically(out, data.getvalue(), "choose another file with --out")


def _plain(text: str) -> str:
    """Text of which matplotlib takes no part for a formula."""
    return text.replace("$", r"\$")

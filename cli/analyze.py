"""`bitrl analyze`: what the precision of the language model's weights does to a trained run."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import click

from bitrl.cli import completion
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.cli.quoted_command import quoted_command
from bitrl.core.errors import UsageError
from bitrl.core.runs.display import display
from bitrl.core.runs.progress import progress_display

WIDTH = 100
"""Columns of what is printed."""


@click.command(context_settings={"max_content_width": 100})
@click.argument("directory", metavar="RUN", type=click.Path(path_type=Path), shell_complete=completion.runs)
@click.option(
    "--states",
    type=click.IntRange(min=256),
    default=2048,
    show_default=True,
    metavar="N",
    help="States to visit; more tell a smaller bias from noise.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", help="Random seed of the states.", show_default="the run's"
)
@click.option(
    "--twin",
    metavar="MODEL",
    help="The other model of the pair: full precision beside a ternary model, or ternary beside floats.  "
    "[default: as `bitrl model list` has it]",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write JSON, Markdown and pictures there.")
@click.option("--force", is_flag=True, help="Replace an analysis that is in DIR.")
@json_option
def analyze(
    directory: Path, states: int, seed: int | None, twin: str | None, out: Path | None, force: bool, as_json: bool
) -> None:
    """Measure what quantised weights do to a trained agent.

    RUN is the directory of a run with a language model. On states that its policy visits: the error of weights and
    features in each precision, bias and direction of the policy gradient, values by discount factor, and actions,
    beside what BitRL's theory says of them.
    """
    stdout = claim_stdout() if as_json else None
    if out is not None:
        _check(out, force)
    from bitrl.core.studies.analysis.analysis import analyse
    from bitrl.core.studies.analysis.description import page, pictures, tables, words
    from bitrl.plugins.backbones.tools.precisions import precisions_of

    with progress_display(quiet=True) as tell, display(transient=True) as shown:

        def progress(task: str, done: int, total: int) -> None:
            shown.show(task, done, total, "states", tenths=False)

        found = analyse(directory, partial(precisions_of, twin=twin), states, seed, tell, progress)
    if out is not None:
        from bitrl.core.files import write_atomically

        drawn = pictures(found)
        out.mkdir(parents=True, exist_ok=True)
        command = quoted_command(leave_out=("force",))
        files = drawn | {
            "analysis.json": json.dumps(found.as_dict() | {"words": words(found)}, indent=2) + "\n",
            "analysis.md": page(found, [*drawn], command),
        }
        for name, text in files.items():
            write_atomically(out / name, text, "choose another directory with --out")
    if as_json:
        print_json(found.as_dict() | {"words": words(found)}, stdout)
        return
    for each in tables(found):
        echo(f"{each.title}\n{table([each.headings, *each.rows])}\n")
    echo(click.wrap_text(words(found), WIDTH))
    for note in found.notes:
        echo(click.wrap_text(f"note: {note}", WIDTH))
    if out is not None:
        echo(f"written: {', '.join(files)}\n  in {out}")


def _check(out: Path, force: bool) -> None:
    """Refuse a directory that cannot be written to, or has an analysis."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file: name a directory")
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: {there} is not a writable directory: name another")
    if (out / "analysis.json").exists() and not force:
        raise UsageError(f"{out}: already has an analysis: choose another name with --out, or replace it with --force")

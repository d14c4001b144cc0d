"""`bitrl model quantize`: a model of floats in few bits, and the quantisation error."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from bitrl.cli import completion
from bitrl.cli.model_out import check_paths, model_out_option
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.core.runs.display import display, show_bytes


@click.command()
@click.argument("source", shell_complete=completion.models)
@model_out_option
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    required=True,
    help="Type of the blocks' matrices: ternary (tq2_0), int8 (q8_0), int4 (q4_0), or q4_1, tq1_0.",
)
@click.option("--embeddings", metavar="TYPE", help="Type of embedding and head: f16, q8_0, …  [default: as in SOURCE]")
@click.option("--again", is_flag=True, help="Even if SOURCE is quantised already.")
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@click.option("--activation", help="The feed-forward network's, for a source that does not name it.")
@json_option
def quantize(
    source: str, out: Path, kind: str, embeddings: str | None, again: bool, force: bool, activation: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Quantise a model of floats without training, and report the error of each matrix.

    SOURCE is as in `bitrl model convert`, which keeps weights as they are. The error is relative,
    ‖Q(W) − W‖ / ‖W‖, of what was written. Ternary weights without training have a large one: see `bitrl model train`.
    """
    from bitrl.plugins.backbones.catalogue import hints, resolve
    from bitrl.plugins.backbones.tools.quantize import quantize as write

    path = resolve(source)
    check_paths(path, out, force)
    stdout = claim_stdout() if as_json else None
    activation = activation or hints(source)["activation"]
    with display(transient=True) as shown:
        made = write(path, out, kind, embeddings, again, activation, partial(show_bytes, shown))
    for lack in made.lacks:
        echo(f"{out}: {lack}", err=True)
    if as_json:
        losses = [
            {"name": x.name, "shape": list(x.shape), "from": x.before, "to": x.after, "error": x.error}
            for x in made.losses
        ]
        print_json({"file": str(out), "bytes": out.stat().st_size, "error": made.error, "matrices": losses}, stdout)
        return
    rows = [("matrix", "shape", "from", "to", "relative error")]
    rows += [(x.name, "x".join(map(str, x.shape)), x.before, x.after, f"{x.error:.4f}") for x in made.losses]
    echo(table(rows, indent=""))
    echo(f"\n{out}: {out.stat().st_size:,} bytes; relative error of all matrices {made.error:.4f}")

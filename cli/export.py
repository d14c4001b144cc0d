"""`bitrl export`: a trained agent as a standalone file that acts without torch and without its environment."""

from __future__ import annotations

from pathlib import Path

import click

from bitrl.cli import completion
from bitrl.cli.output import claim_stdout, echo, json_option, print_json
from bitrl.core.terminal import shell_word
from bitrl.core.wording import program


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path), shell_complete=completion.runs)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The agent's file (safetensors)."
)
@click.option("--best", is_flag=True, help="The best checkpoint by the evaluations while training, not the newest.")
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@json_option
def export(directory: Path, out: Path, best: bool, force: bool, as_json: bool) -> None:
    """Export a trained agent to a standalone file.

    DIR is the directory of a run; its newest checkpoint is exported. The file holds the serializer, the backbone's name
    and options, and the trained policy; the language model stays a file of its own. `bitrl act FILE` and, in Python,
    `bitrl.load_agent(FILE)` use it, and need neither torch nor Gymnasium nor the environment.
    """
    from bitrl.cli.model_out import check_paths
    from bitrl.core.runs import export as exporting

    check_paths(directory, out, force)
    stdout = claim_stdout() if as_json else None
    found = exporting.export(directory, out, best=best)
    if as_json:
        print_json(found, stdout)
        return
    reads = "no model" if found["backbone"] is None else f"backbone {found['backbone']}"
    echo(f"{out}: {found['bytes']:,} bytes, {found['env']} after {found['step']:,} steps, reads {reads}")
    call = f"{program()} act {shell_word(out)}"
    echo(f"try it: {call} --example | {call}")

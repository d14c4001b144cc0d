"""`bitrl eval`: play episodes with a trained agent."""

from __future__ import annotations

from pathlib import Path

import click

from bitrl.cli.output import claim_stdout, json_option, print_json
from bitrl.cli.progress import progress
from bitrl.cli.run import evaluation_words


@click.command("eval")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--episodes",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many episodes.",
    show_default="as the run had",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of the episodes.", show_default="the run's")
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def evaluate(directory: Path, episodes: int | None, seed: int | None, as_json: bool, quiet: bool) -> None:
    """Evaluate a trained agent.

    DIR is the directory of a run; its newest checkpoint plays, always taking the action it thinks best.
    """
    from bitrl.core import runner

    stdout = claim_stdout() if as_json else None
    with progress(quiet or as_json) as listener:
        found = runner.evaluate_run(directory, episodes, seed, (listener,))
    if as_json:
        print_json(found, stdout)
    else:
        click.echo(f"{found['env']}: {evaluation_words(found)} (step {found['step']:,}, seed {found['seed']})")

"""`bitrl example-leaderboard`: which finished run is the best."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("runs"))
def leaderboard(directory: Path) -> None:
    """List the finished runs in DIRECTORY by their mean return."""
    summaries = [json.loads(path.read_text()) for path in directory.glob("*/summary.json")]
    evaluated = [summary for summary in summaries if summary["eval"]["episodes"]]
    for summary in sorted(evaluated, key=lambda summary: -summary["eval"]["mean_return"]):
        click.echo(f"{summary['eval']['mean_return']:10.1f}  {summary['run']}")

"""`bitrl study paper`: the paper's claims, each with what was measured and a verdict."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import IO

from bitrl.cli.output import echo, print_json
from bitrl.core.errors import unknown

NAME = "paper"


def is_paper(grid: Path | None) -> bool:
    """Whether a study's name is `paper`, or one of its studies', and no file or directory."""
    return grid is not None and len(grid.parts) == 1 and grid.name.partition("-")[0] == NAME and not grid.exists()


def paper_file(grid: Path) -> Path:
    """The file of one of the paper's studies, by its name: `paper-classic`.

    Raises:
        UsageError: there is no such study.
    """
    from bitrl.core.studies.paper.sources import PREFIX, files

    known = files()
    name = grid.name.removeprefix(PREFIX)
    if name not in known:
        raise unknown("study", grid.name, [PREFIX + each for each in known])
    return known[name]


def show_claims(place: Path, as_json: bool, stdout: IO[str] | None) -> None:
    """Print every claim and its verdict. Studies trained in `place` count instead of those recorded."""
    from bitrl.core.studies.paper.claims import Evidence, judged
    from bitrl.core.studies.paper.sources import PREFIX, analysis, evidence, files

    results, own = evidence(place)
    found = judged(Evidence(results, analysis()))
    if as_json:
        rows = [
            {"claim": claim.id, "words": claim.words, "paper": not claim.ours, "study": claim.study}
            | {"verdict": claim.answer(at), "measured": at.measured, "value": at.value, "interval": at.interval}
            for claim, at in found
        ]
        print_json({"claims": rows, "studies": {name: len(each) for name, each in results.items()}, "own": own}, stdout)
        return
    for ours, title in ((False, "The paper's claims"), (True, "Questions that it leaves open")):
        echo(f"{title}\n")
        for claim, at in found:
            if claim.ours == ours:
                echo(f"  {claim.answer(at):<13} {claim.words}")
                if at.measured:
                    echo(textwrap.fill(at.measured, 100, initial_indent=" " * 18, subsequent_indent=" " * 18))
        echo("")
    runs = sum(map(len, results.values()))
    echo(f"{runs} runs, with greedy actions; intervals are of 95 %. Studies, trained again with bitrl study NAME:")
    for name in files():
        where = f"trained in {place / (PREFIX + name)}" if name in own else "recorded with this bitrl"
        echo(f"  {PREFIX + name:<24} {len(results[name])} runs, {where}" if name in results else f"  {PREFIX + name}")

"""`bitrl watch`: how runs go, as their files say it: curve, speed, losses."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitrl.cli import completion
from bitrl.cli.output import claim_stdout, console, json_option, print_json
from bitrl.core.errors import UsageError
from bitrl.core.runs.display import duration, score
from bitrl.core.sampled_completions import SampledCompletion
from bitrl.core.terminal import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

SECONDS = 1.0
NARROW = 16
"""Characters that a run's column has at least; where the terminal is too narrow for that, each run is a row."""
BLOCKS = "▁▂▃▄▅▆▇█"
LOSSES = (
    "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance", "kl_behaviour", "ess",
    "codes_changed",
)  # fmt: skip


@click.command()
@click.argument(
    "directories",
    nargs=-1,
    required=True,
    metavar="RUN|STUDY…",
    type=click.Path(path_type=Path),
    shell_complete=completion.runs,
)
@click.option("--once", is_flag=True, help="Print how they stand, and exit.")
@json_option
def watch(directories: tuple[Path, ...], once: bool, as_json: bool) -> None:
    """Watch training runs, side by side.

    Of a study, its runs that have not finished.
    Return so far, speed, losses and time left (of training, without evaluations); evaluations while training
    (`run.eval_every`); of a language model its last sampled completion, too.
    Runs may be trained by any process, also on another machine that shares the files. Ends when all have finished
    (of a study, or failed); Ctrl-C stops watching, not the runs.
    """
    runs = _runs(directories)
    if as_json:
        print_json({"runs": [{"run": str(each), **_facts(each)} for each in runs]}, claim_stdout())
        return
    from rich.live import Live

    shown = console()
    if once or not shown.is_terminal:
        shown.print(_drawn(_names(runs), [_facts(each) for each in runs], shown.width))
        return
    with contextlib.suppress(KeyboardInterrupt), Live(console=shown, auto_refresh=False) as live:
        while True:
            over = all(map(_is_over, directories))  # before they are read, so that what is shown last is their end
            runs = _runs(directories)
            live.update(_drawn(_names(runs), [_facts(each) for each in runs], shown.width), refresh=True)
            if over:
                return
            time.sleep(SECONDS)


def _runs(directories: Sequence[Path]) -> list[Path]:
    """The runs that are given; of a study those that have begun and not finished, or else all."""
    from bitrl.core.studies.study import is_study

    runs: list[Path] = []
    for directory in directories:
        if is_study(directory):
            begun = sorted(path.parent for path in directory.glob("runs/*/*/config.toml"))
            if not begun:
                raise UsageError(f"{directory}: no run of this study has begun")
            runs += [run for run in begun if not (run / "summary.json").is_file()] or begun
        elif (directory / "config.toml").is_file():
            runs.append(directory)
        else:
            raise UsageError(f"{directory}: not a run (no config.toml), nor a study: give directories of those")
    return runs


def _is_over(directory: Path) -> bool:
    """Whether a run has finished; of a study all cells, which may also have failed."""
    from bitrl.core.studies.design import read_design
    from bitrl.core.studies.study import FILE, Study, design_in, is_study

    if not is_study(directory):
        return (directory / "summary.json").is_file()
    study = Study(directory, design_in(directory, read_design(directory / FILE)), planned=True)
    return all(study.status(cell) in ("finished", "failed") for cell in study.design.cells)


def _names(runs: Sequence[Path]) -> list[str]:
    """What runs are called: by their directories' names, or where these are alike, as given, without what is common."""
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        given = [str(run) for run in runs]
        with contextlib.suppress(ValueError):  # some are given from the root, some from here
            common = os.path.commonpath(given)
            given = [os.path.relpath(each, common or ".") for each in given]
        names = given
    return [printable(name) for name in names]


def _facts(directory: Path) -> dict[str, Any]:
    """A run, as its files say."""
    from bitrl.core.config import read_toml
    from bitrl.core.runs.store import read_summary

    run = read_toml(directory / "config.toml").get("run", {})
    steps = run.get("steps", 0)
    if not isinstance(steps, int):
        raise UsageError(f"{directory / 'config.toml'}: run.steps: expected an integer, got {steps!r}")
    rows, timings = _rows(directory / "metrics.jsonl", "step"), _rows(directory / "timings.jsonl", "step", "seconds")
    try:
        summary = read_summary(directory)
    except ValueError as error:
        raise UsageError(str(error)) from None
    recent = timings[-11:]
    speed = generated = None
    if len(recent) > 1:
        speed = (recent[-1]["step"] - recent[0]["step"]) / max(recent[-1]["seconds"] - recent[0]["seconds"], 1e-9)
    if seconds := sum(each.get("generation", 0) for each in recent):
        generated = sum(each.get("tokens", 0) for each in recent) / seconds
    samples = _rows(directory / "samples.jsonl", "step", "reward")
    rated = [each for each in _rows(directory / "evaluations.jsonl", "step") if _is_finite(each.get("mean_return"))]
    return {
        "step": rows[-1]["step"] if rows else 0,
        "steps": steps,
        "speed": speed,
        **({} if generated is None else {"tokens_per_second": generated}),
        **({"sample": samples[-1]} if samples else {}),
        "returns": [value for row in rows if _is_finite(value := row.get("episode_return"))],
        "last": rows[-1] if rows else {},
        "evaluations": [{"step": each["step"], "mean_return": each["mean_return"]} for each in rated],
        "finished": summary is not None,
        "evaluation": None if summary is None else summary["eval"],
    }


def _rows(path: Path, *numbers: str) -> list[dict[str, Any]]:
    """The whole rows of a file that another process writes; each has these numbers."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            if not all(math.isfinite(row[name]) for name in numbers):
                break
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            break
        rows.append(row)
    return rows


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _drawn(names: list[str], found: list[dict[str, Any]], width: int) -> Table:
    """The runs as a table: a column for each, or where these would be narrow, a row."""
    from rich.table import Table

    room = (width - 24) // len(found) - 3
    if room < NARROW:
        return _listed(names, found, width)
    drawn = Table(box=None, pad_edge=False)
    drawn.add_column("run")
    for name in names:
        drawn.add_column(name, max_width=room, overflow="fold")
    drawn.add_row("progress", *(f"{each['step']:,} of {each['steps']:,}" for each in found))
    drawn.add_row("sampled return", *(sparkline(each["returns"], room) for each in found))
    drawn.add_row("", *(_returns(each) for each in found))
    if any(each["evaluations"] for each in found):
        greedy = [[row["mean_return"] for row in each["evaluations"]] for each in found]
        drawn.add_row("greedy return", *(sparkline(each, room) for each in greedy))
        drawn.add_row("", *(_evaluations(each["evaluations"]) for each in found))
    drawn.add_row("steps/s", *("–" if each["speed"] is None else f"{each['speed']:,.0f}" for each in found))
    if any("tokens_per_second" in each for each in found):
        drawn.add_row("tokens/s", *(f"{each.get('tokens_per_second', 0):,.0f}" for each in found))
        drawn.add_row("completion length", *(_number(each["last"].get("completion_tokens")) for each in found))
    drawn.add_row("time left", *(_left(each) for each in found))
    for loss in LOSSES:
        if any(loss in each["last"] for each in found):
            drawn.add_row(loss.replace("_", " "), *(_number(each["last"].get(loss)) for each in found))
    drawn.add_row("evaluation", *(_evaluation(each["evaluation"]) for each in found))
    if any("sample" in each for each in found):
        drawn.add_row("last sample", *(_sample(each) for each in found))
    return drawn


def _listed(names: list[str], found: list[dict[str, Any]], width: int) -> Table:
    """The runs as a table: a row for each, with the last rollout's return and that of the last evaluation. Where names,
    which take half of the width at most, leave no room for all columns, the last ones are left out.
    """
    from rich.cells import cell_len
    from rich.table import Table

    rows = [("trained", "sampled", "greedy", "steps/s", "time left")]
    for each in found:
        trained = f"{min(each['step'] / each['steps'], 1):.0%}" if each["steps"] else "–"
        sampled = score(each["returns"][-1]) if each["returns"] else "–"
        greedy = _evaluation(each["evaluation"]).removesuffix(" (greedy)")
        speed = "–" if each["speed"] is None else f"{each['speed']:,.0f}"
        rows.append((trained, sampled, greedy, speed, _left(each)))
    drawn = Table(box=None, pad_edge=False)
    drawn.add_column("run", overflow="fold")
    widths = [2 + max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    room = width - min(max(map(cell_len, ("run", *names))), width // 2)
    while widths and sum(widths) > room:
        widths.pop()
    for name in rows[0][: len(widths)]:
        drawn.add_column(name, no_wrap=True, justify="right")
    for name, row in zip(names, rows[1:], strict=True):
        drawn.add_row(name, *row[: len(widths)])
    return drawn


def sparkline(values: list[float], width: int) -> str:
    """Values as blocks of eight heights, the mean of several in each where there are more than `width`."""
    if not values:
        return "–"
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    return "".join(BLOCKS[int((value - low) / (high - low) * 7.999) if high > low else 3] for value in means)


def _returns(each: dict[str, Any]) -> str:
    if not each["returns"]:
        return "–"
    return f"{score(each['returns'][-1])} now, {score(max(each['returns']))} best"


def _evaluations(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "–"
    best = max(rows, key=lambda row: row["mean_return"])  # of equal ones the first
    return f"{score(rows[-1]['mean_return'])} now, {score(best['mean_return'])} best, at step {best['step']:,}"


def _sample(each: dict[str, Any]) -> Text:
    """The last prompt, completion and reward; as they are, whatever brackets they have."""
    from rich.text import Text

    row = each.get("sample")
    if row is None:
        return Text("–")
    return Text(SampledCompletion(str(row.get("prompt")), str(row.get("completion")), row["reward"]).line())


def _left(each: dict[str, Any]) -> str:
    if each["finished"]:
        return "finished"
    if not each["speed"]:
        return "–"
    return duration(max(each["steps"] - each["step"], 0) / each["speed"])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "–"


def _evaluation(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    if found.get("mean_return") is None:
        return "not evaluated"
    return f"{score(found['mean_return'])} (greedy)"

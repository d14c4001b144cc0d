"""`bitrl study`: train every cell of a grid, and compare its arms."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitrl.cli.output import claim_stdout, console, echo, json_option, print_json, table
from bitrl.cli.paper import NAME, is_paper, paper_file, show_claims
from bitrl.core.config import parse_assignments
from bitrl.core.errors import UsageError
from bitrl.core.installing import to_install
from bitrl.core.runs.display import duration, on_terminal, score
from bitrl.core.terminal import shell_word
from bitrl.core.wording import program

if TYPE_CHECKING:
    from bitrl.core.studies.processes import Executor
    from bitrl.core.studies.running import CellState
    from bitrl.core.studies.study import Changes, Study


@click.command(context_settings={"max_content_width": 100})
@click.argument("grid", required=False, type=click.Path(path_type=Path))
@click.option("--env", "envs", multiple=True, metavar="ID", help="Without GRID: an environment. May be repeated.")
@click.option(
    "--vary",
    "varied",
    multiple=True,
    metavar="OPTION=VALUE,VALUE",
    help="Without GRID: an axis, as backbone=bitnet,int8. May be repeated: every combination is an arm.",
)
@click.option("--seeds", metavar="SEEDS", help="Seeds, as 0-4 or 0,1,2.  [default: the file's, or 0-4]")
@click.option("--steps", type=click.IntRange(min=0), metavar="N", help="Without GRID: environment steps of each cell.")
@click.option("--backbone", metavar="NAME", help="Without GRID: the backbone of every cell.")
@click.option("--serializer", metavar="NAME", help="Without GRID: the serializer of every cell.")
@click.option("--algo", metavar="NAME", help="Without GRID: the algorithm of every cell.")
@click.option(
    "-o",
    "--option",
    "assignments",
    multiple=True,
    metavar="PART.OPTION=VALUE",
    help="Without GRID: an option of every cell. May be repeated.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="The study's directory.  [default: studies/NAME]"
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Cells at once.  [default: one for each CPU]")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where cells run: processes of this machine, or a Ray cluster that shares the directory (extra ray).",
)
@click.option("--dry-run", is_flag=True, help="List the cells, their steps and the time they will take, and exit.")
@click.option("--retry", is_flag=True, help="Run cells that failed once more.")
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def study(
    grid: Path | None,
    envs: tuple[str, ...],
    varied: tuple[str, ...],
    seeds: str | None,
    steps: int | None,
    backbone: str | None,
    serializer: str | None,
    algo: str | None,
    assignments: tuple[str, ...],
    out: Path | None,
    jobs: int | None,
    executor: str,
    dry_run: bool,
    retry: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train every cell of a study, and compare its arms.

    GRID is a TOML file (docs/studies.md), or the directory of a study to go on with; --env and --vary say the same for
    a quick one. The same command again goes on where it was stopped: finished cells never run twice, and others resume
    bit-identically.

    `bitrl study paper` says which of the paper's claims were reproduced; its studies are named there.
    """
    from bitrl.core.studies.processes import Processes
    from bitrl.core.studies.running import run_study
    from bitrl.core.studies.study import Study

    for module in ("arch", "scipy"):  # said now, not when all is trained
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"a study is compared with the package {module}: {to_install(module)}")
    if executor == "ray" and jobs is not None:
        raise UsageError("--jobs: a Ray cluster runs as many cells at once as it has CPUs: leave it out")
    stdout = claim_stdout() if as_json else None
    if is_paper(grid) and grid == Path(NAME):
        show_claims(out or Path("studies"), as_json, stdout)
        return
    chosen = {"steps": steps, "backbone": backbone, "serializer": serializer, "algo": algo}
    data, directory = _wanted(grid, envs, varied, seeds, chosen, assignments, out)
    opened, changes = (Study.plan if dry_run else Study.create)(directory, data)
    try:
        workers: Executor = Processes(jobs, len(opened.design.cells))
        if not quiet:
            _say_changes(changes, opened)
        if dry_run:
            _show_plan(opened, workers, retry, as_json, stdout)
            return
        if executor == "ray":
            from bitrl.core.studies.ray_executor import RayExecutor

            workers = RayExecutor(directory)
        with _shown(quiet or as_json) as show:
            run_study(opened, workers, retry=retry, show=show)
        failed = [cell for cell in opened.design.cells if opened.status(cell) == "failed"]
        _report(opened, as_json, stdout)
    finally:
        opened.close()
    if failed:
        again = f"{program()} study {shell_word(directory)} --retry"
        echo(f"{len(failed)} of {len(opened.design.cells)} cells failed; run them again with: {again}", err=True)
        for cell in failed:
            echo(f"  {cell.name}: {opened.failure(cell)}", err=True)
        sys.exit(1)


def _wanted(
    grid: Path | None,
    envs: tuple[str, ...],
    varied: tuple[str, ...],
    seeds: str | None,
    chosen: dict[str, Any],
    assignments: tuple[str, ...],
    out: Path | None,
) -> tuple[dict[str, Any], Path]:
    """The contents of a study's file, and the directory of the study."""
    from bitrl.core.studies.design import parse_seeds, parse_variation, read_design
    from bitrl.core.studies.study import FILE, is_study

    if grid is not None:
        flags = {f"--{part}": value is not None for part, value in chosen.items()}
        for flag, given in {"--env": envs, "--vary": varied, **flags, "-o": assignments}.items():
            if given:
                raise UsageError(f"{flag}: the study is in {grid}: change it there, or leave out GRID")
        if is_paper(grid):
            data, directory = read_design(paper_file(grid)), out or Path("studies", grid.name)
        elif grid.is_dir():
            if not is_study(grid):
                raise UsageError(f"{grid}: holds no study (no {FILE}): give the directory of one, or a TOML file")
            if out is not None and out != grid:
                raise UsageError(f"--out: the study is in {grid}")
            data, directory = read_design(grid / FILE), grid
        else:
            data, directory = read_design(grid), out or Path("studies", grid.stem)
    else:
        if not envs and not varied:
            raise UsageError(
                "what to compare? Give a TOML file, or --env and --vary, for example --vary backbone=bitnet,mlp"
            )
        if out is None:
            raise UsageError("--out: name a directory for the study, for example --out studies/backbones")
        base: dict[str, dict[str, Any]] = {"run": {part: value for part, value in chosen.items() if value is not None}}
        for part, section in parse_assignments(assignments).items():
            base.setdefault(part, {}).update(section)
        axes: dict[str, list[str]] = {"env": [*envs]} if envs else {}
        for name, values in map(parse_variation, varied):
            if name in axes:
                raise UsageError(f"{name} is varied twice: give all its values at once, as in --vary {name}=A,B")
            part, _, option = name.rpartition(".")
            if option in base.get(part or "run", {}):
                raise UsageError(f"{name} is varied, and given to every cell, too: leave one out")
            axes[name] = values
        data = {"study": {"seeds": "0-4"}, "base": base, "grid": axes}
        directory = out
    if seeds is not None:
        data = {**data, "study": {**data.get("study", {}), "seeds": seeds}}
    parse_seeds(data.get("study", {}).get("seeds", [0]))
    return data, directory


def _say_changes(changes: Changes, opened: Study) -> None:
    for words, names in (("added", changes.added), ("no longer in the study, their runs are kept", changes.removed)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            echo(f"{len(names)} cells {words}: {', '.join(names[:3])}{more}", err=True)
    for line in opened.design.ignored:
        echo(f"{line}: ignored (not an option of its components)", err=True)
    for line in opened.design.same:
        echo(f"warning: {line}", err=True)


def _show_plan(opened: Study, executor: Executor, retry: bool, as_json: bool, stdout: Any) -> None:
    from bitrl.core.studies.estimate import seconds_per_step
    from bitrl.core.studies.study import progress_of

    echo("timing a short training of each arm …", err=True)
    speeds = seconds_per_step(opened, executor, lambda line: echo(line, err=True))
    cells = opened.design.cells
    steps = {cell: cell.arm.config(cell.seed).run.steps for cell in cells}
    status = {cell: opened.status(cell) for cell in cells}
    over = ("finished",) if retry else ("finished", "failed")
    left = {
        cell: 0 if status[cell] in over else max(steps[cell] - progress_of(opened.place(cell))[0], 0) for cell in cells
    }
    seconds = {cell: speeds.get(cell.arm, 0.0) * left[cell] for cell in cells if cell.arm in speeds or not left[cell]}
    workers = [0.0] * executor.capacity  # the next cell goes to the first that is free
    for each in seconds.values():
        workers[workers.index(min(workers))] += each
    total = max(workers)
    if as_json:
        rows = [
            {"cell": cell.name, "steps": steps[cell], "status": status[cell], "seconds": seconds.get(cell)}
            for cell in cells
        ]
        print_json({"cells": rows, "jobs": executor.capacity, "seconds": total}, stdout)
        return
    shown = [("cell", "steps", "status", "training")]
    for cell in cells:
        shown.append(
            (
                cell.name,
                f"{steps[cell]:,}",
                status[cell],
                duration(seconds[cell]) if cell in seconds else "?",
            )
        )
    echo(table(shown, indent=""))
    everything, rest = sum(steps.values()), sum(left.values())
    echo(
        f"\n{len(cells)} cell{'s' * (len(cells) != 1)}, {everything:,} steps"
        f"{'' if rest == everything else f' of which {rest:,} are left'}, about {duration(total)} of training with "
        f"{executor.capacity} at once; evaluations come on top"
    )


@contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[Sequence[CellState]], None]]:
    """A live table on a terminal; elsewhere a line for each cell that ends."""
    if quiet:
        yield lambda states: None
        return
    if not on_terminal():
        done: set[str] = set()

        def lines(states: Sequence[CellState]) -> None:
            for state in states:
                if state.status in ("finished", "failed") and state.cell.name not in done:
                    done.add(state.cell.name)
                    echo(f"{len(done)} of {len(states)}: {' '.join(_row(state))}", err=True)

        yield lines
        return
    from rich.live import Live
    from rich.table import Table

    def draw(states: Sequence[CellState]) -> Table:
        room = max(shutil.get_terminal_size().lines - 5, 3)
        order = {"running": 0, "failed": 1, "stopped": 2, "waiting": 3, "finished": 4}
        first = sorted(states, key=lambda state: order[state.status])[:room]
        drawn = Table(box=None, pad_edge=False)
        for heading in ("cell", "status", "progress", "return so far (sampled)", "time left"):
            drawn.add_column(heading, no_wrap=True, overflow="ellipsis")
        for state in states:
            if state in first:
                drawn.add_row(*_row(state))
        counts = {word: sum(state.status == word for state in states) for word in order}
        drawn.caption = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        return drawn

    with Live(console=console(stderr=True), auto_refresh=False) as live:
        yield lambda states: live.update(draw(states), refresh=True)


def _row(state: CellState) -> tuple[str, ...]:
    """A cell, as the table shows it."""
    returned = "–" if state.mean_return is None else score(state.mean_return)
    left = "–"
    if state.status == "running" and state.step:
        left = duration(state.seconds / state.step * max(state.steps - state.step, 0))
    progress = f"{state.step:,} of {state.steps:,}"
    return state.cell.name, state.status, progress, returned, state.failure or left


def _report(opened: Study, as_json: bool, stdout: Any) -> None:
    """The comparison of a study's arms."""
    from bitrl.cli.compare import show_comparison
    from bitrl.core.studies.comparison import begun_baseline, compare

    results = opened.results()
    if not results:
        return
    found = compare(results, baseline=begun_baseline(results, opened.design.baseline))
    if as_json:
        print_json({"study": str(opened.directory), **found.as_dict()}, stdout)
    else:
        show_comparison(found)

"""Trains what is not recorded yet of a study, and records what was trained of it.

    python benchmarks/recorded_study.py DIR --study language --jobs 2   # trains, records; goes on in its directory
    python benchmarks/recorded_study.py DIR --study language            # records alone, also what another made
    python benchmarks/figures.py                                        # docs/paper.md, docs/results.md

The paper's studies are recorded with the package, those of examples/studies in benchmarks/results/studies.
`bitrl study paper-language` trains all of a study. Only finished cells count; of the same arm, task and seed the one
that was trained later.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bitrl.core.studies.design import Cell, read_design
from bitrl.core.studies.paper.sources import HERE, files
from bitrl.core.studies.processes import Processes
from bitrl.core.studies.recorded import merged, read_recorded, write_recorded
from bitrl.core.studies.results import Result
from bitrl.core.studies.running import CellState, run_study
from bitrl.core.studies.study import Status, Study, read_study

ROOT = Path(__file__).parents[1]
EXAMPLES = ("strangers", "readouts", "readouts-mujoco")


def places(study: str) -> tuple[Path, Path]:
    """A study's design, and where its results are recorded."""
    if study in EXAMPLES:
        return ROOT / f"examples/studies/{study}.toml", ROOT / f"benchmarks/results/studies/{study}.json"
    return files()[study], HERE / "results" / f"{study}.json"


class Unrecorded(Study):
    """A study in which cells that are `recorded` have finished."""

    recorded: Iterable[Result] = ()

    def status(self, cell: Cell) -> Status:
        """How a cell stands."""
        known = {(each.label, each.task, each.seed) for each in self.recorded}
        return "finished" if (cell.arm.label, cell.arm.env, cell.seed) in known else super().status(cell)


def train(
    directory: Path, design: Path, recorded: Iterable[Result], jobs: int, show: Callable[[Sequence[CellState]], None]
) -> None:
    """Train a study's cells that are not recorded."""
    study, _ = Unrecorded.create(directory, read_design(design))
    assert isinstance(study, Unrecorded)
    study.recorded = recorded
    try:
        run_study(study, Processes(jobs, len(study.design.cells)), show=show)
    finally:
        study.close()


def told() -> Callable[[Sequence[CellState]], None]:
    """Says each cell that has finished or failed, once."""
    known: set[str] = set()

    def show(states: Sequence[CellState]) -> None:
        for state in states:
            if state.step and state.status in ("finished", "failed") and state.cell.name not in known:
                known.add(state.cell.name)
                print(f"{state.cell.name}: {state.status} {state.failure}", flush=True)

    return show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="the study's directory")
    parser.add_argument("--study", choices=[*files(), *EXAMPLES], required=True)
    parser.add_argument("--jobs", type=int, default=0, help="cells trained at once; 0: none, what is there is recorded")
    given = parser.parse_args()
    study, file = places(given.study)
    before = read_recorded(file)[0] if file.is_file() else []
    if given.jobs:
        train(given.directory, study, before, given.jobs, told())
    design, results = read_study(given.directory)
    found = merged(before, [each for each in results if each.summary is not None])
    write_recorded(sorted(found, key=lambda each: (each.task, str(each.label), each.seed)), file, design.baseline)
    print(f"{file.name}: {len(found)} runs, {len(before)} before")


if __name__ == "__main__":
    main()

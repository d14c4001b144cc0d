"""Adds what was trained of the paper's studies to what is recorded of them with the package.

    python benchmarks/paper.py studies/paper-language --study language --begin   # what is recorded counts as finished
    bitrl study studies/paper-language                                           # trains the rest, and resumes there
    python benchmarks/paper.py studies/paper-language --study language
    python benchmarks/figures.py                                                 # docs/paper.md

Only finished cells count; of the same arm, task and seed the one that was trained later.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bitrl.core.studies.design import read_design
from bitrl.core.studies.paper.sources import HERE, files
from bitrl.core.studies.recorded import merged, read_recorded, write_recorded
from bitrl.core.studies.results import Result
from bitrl.core.studies.study import Study, read_study


def begin(directory: Path, file: Path, recorded: list[Result]) -> tuple[int, int]:
    """Make a study's directory in which cells that are recorded are not trained again: they have a summary there, and
    no settings, so that results are not read from them. How many these are, and how many are left.
    """
    study, _ = Study.create(directory, read_design(file))
    known = {(each.label, each.task, each.seed) for each in recorded}
    cells = [cell for cell in study.design.cells if (cell.arm.label, cell.arm.env, cell.seed) in known]
    for cell in cells:
        if study.status(cell) == "waiting":
            study.place(cell).mkdir(parents=True, exist_ok=True)
            (study.place(cell) / "summary.json").write_text("{}\n")
    study.close()
    return len(cells), len(study.design.cells) - len(cells)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a study's directory")
    parser.add_argument("--study", choices=[*files()], required=True)
    parser.add_argument("--begin", action="store_true", help="make the directory, for what is not recorded yet")
    given = parser.parse_args(arguments)
    file = HERE / "results" / f"{given.study}.json"
    before = read_recorded(file)[0] if file.is_file() else []
    if given.begin:
        known, left = begin(given.directory, files()[given.study], before)
        print(f"{given.directory}: {known} runs are recorded, {left} are left: bitrl study {given.directory}")
        return
    design, results = read_study(given.directory)
    found = merged(before, [each for each in results if each.summary is not None])
    write_recorded(sorted(found, key=lambda each: (each.task, str(each.label), each.seed)), file, design.baseline)
    print(f"{file.name}: {len(found)} runs, {len(before)} before")


if __name__ == "__main__":
    main()

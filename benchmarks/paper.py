"""Adds what was trained of the paper's studies to what is recorded of them with the package.

    bitrl study paper-language                      # trains in studies/paper-language, and resumes there
    python benchmarks/paper.py studies/paper-language --study language
    python benchmarks/figures.py                    # docs/paper.md

Only finished cells count; of the same arm, task and seed the one that was trained later.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bitrl.core.studies.paper.sources import HERE, files
from bitrl.core.studies.recorded import merged, read_recorded, write_recorded
from bitrl.core.studies.study import read_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a study's directory")
    parser.add_argument("--study", choices=[*files()], required=True)
    given = parser.parse_args()
    design, results = read_study(given.directory)
    file = HERE / "results" / f"{given.study}.json"
    before = read_recorded(file)[0] if file.is_file() else []
    found = merged(before, [each for each in results if each.summary is not None])
    write_recorded(sorted(found, key=lambda each: (each.task, str(each.label), each.seed)), file, design.baseline)
    print(f"{file.name}: {len(found)} runs, {len(before)} before")


if __name__ == "__main__":
    main()

"""A study's directory: study.toml, runs/ARM/seedN (each a run's directory), failures/. Says how each cell stands.

How a cell stands is read from its files alone, so that a process killed at any moment leaves nothing to repair.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from bitrl.core.config import by_part
from bitrl.core.errors import UsageError
from bitrl.core.files import cannot_write, make_directory, remove_unfinished, write_atomically
from bitrl.core.runs.lock import lock
from bitrl.core.runs.store import as_toml
from bitrl.core.studies.design import Arm, Cell, Design, build_design, read_design
from bitrl.core.studies.results import Result, read_result, result_of
from bitrl.core.wording import setting

FILE = "study.toml"

Status = Literal["finished", "failed", "stopped", "waiting"]
"""`stopped`: begun, and not finished. Which cells run is known only to the process that runs them."""


@attrs.frozen
class Changes:
    """What a new version of a study's file changes: names of cells that are new, and of begun ones that are no longer
    in it.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]


class Study:
    """A study's directory, locked for this process while it is open, unless it is only planned."""

    def __init__(self, directory: Path, design: Design, planned: bool = False):
        """See `create` and `plan`."""
        self.directory, self.design = directory, design
        self._lock = None if planned else lock(directory, directory)
        if not planned:
            remove_unfinished(directory)

    @classmethod
    def plan(cls, directory: Path, data: Mapping[str, Any]) -> tuple[Study, Changes]:
        """What `create` would open, with nothing written.

        Raises:
            UsageError: an arm cannot be composed, or something else is there.
        """
        design = design_in(directory, data)
        before = _known_cells(directory)
        if (
            before is None
            and directory.exists()
            and (not directory.is_dir() or any(map(_matters, directory.iterdir())))
        ):
            raise UsageError(f"{directory}: is not empty and holds no study: choose another with {setting('out')}")
        study = cls(directory, design, planned=True)
        if before is None:
            return study, Changes((), ())
        known, wanted = ({cell.path for cell in cells} for cells in (before, design.cells))
        added = tuple(cell.name for cell in design.cells if cell.path not in known)
        begun = (cell for cell in before if cell.path not in wanted and study.status(cell) != "waiting")
        return study, Changes(added, tuple(cell.name for cell in begun))

    @classmethod
    def create(cls, directory: Path, data: Mapping[str, Any]) -> tuple[Study, Changes]:
        """Open a study's directory, made if it is not there, for this file's contents.

        Returns:
            The study, and how its cells differ from those of the contents that the directory had before.

        Raises:
            UsageError: an arm cannot be composed, another process runs the study, or something else is there.
            RunFailed: it cannot be written.
        """
        planned, changes = cls.plan(directory, data)
        try:
            make_directory(directory)
        except OSError as error:
            raise cannot_write(directory, error) from None
        study = cls(directory, planned.design)
        try:
            if _contents(directory) != data:  # else comments in it would be lost for nothing
                write_atomically(directory / FILE, as_toml(data))
        except BaseException:
            study.close()
            raise
        return study, changes

    def close(self) -> None:
        """Release the directory for other processes."""
        if self._lock is not None:
            self._lock.close()

    def place(self, cell: Cell) -> Path:
        """The directory of a cell's run."""
        return self.directory / cell.path

    def status(self, cell: Cell) -> Status:
        """How a cell stands."""
        place = self.place(cell)
        begun = (place / "config.toml").is_file()
        if begun and (place / "summary.json").is_file():
            return "finished"
        if self._failure(cell).is_file():
            return "failed"
        return "stopped" if begun else "waiting"

    def fail(self, cell: Cell, message: str) -> None:
        """Record that a cell failed, and why."""
        self._failure(cell).parent.mkdir(exist_ok=True)
        write_atomically(self._failure(cell), message.strip() + "\n")

    def failure(self, cell: Cell) -> str:
        """Why a cell failed: the last line of what it said."""
        try:
            lines = self._failure(cell).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # somebody has removed it in between
            lines = []
        return lines[-1] if lines else "failed without a message"

    def retry(self, cell: Cell) -> None:
        """Forget that a cell failed."""
        self._failure(cell).unlink(missing_ok=True)

    def results(self) -> list[Result]:
        """The results of all its cells that were begun."""
        return results_of(self.directory, self.design)

    def _failure(self, cell: Cell) -> Path:
        return _failure(self.directory, cell)


def is_study(directory: Path) -> bool:
    """Whether a directory holds a study."""
    return (directory / FILE).is_file()


def design_in(directory: Path, data: Mapping[str, Any]) -> Design:
    """The design of a study's file in its directory. An arm of the same settings as one that is no longer in it has the
    directory of that one: it was called otherwise (renamed, or another value was added beside its only one), and what
    is trained is not trained again.

    Raises:
        UsageError: an arm cannot be composed.
    """
    design = build_design(data)
    own = {arm.folder for arm in design.arms}
    left = {
        path.name.rpartition("-")[2]: path.name for path in sorted(directory.glob("runs/*/")) if path.name not in own
    }

    def placed(arm: Arm) -> Arm:
        if (directory / "runs" / arm.folder).exists():
            return arm
        return attrs.evolve(arm, folder=left.pop(arm.digest, arm.folder))  # of two arms that are alike, one alone

    return attrs.evolve(design, arms=tuple(map(placed, design.arms)))


def read_study(directory: Path) -> tuple[Design, list[Result]]:
    """The design of a study and the results of its cells, without locking it.

    Raises:
        UsageError: no study there, or damaged.
    """
    design = design_in(directory, read_design(directory / FILE))
    return design, results_of(directory, design)


def results_of(directory: Path, design: Design) -> list[Result]:
    """The results of the cells of a study that were begun, in the order of its arms. One that failed before it wrote
    anything is among them: it counts as a failure, as others do.
    """
    results = []
    for cell in (Cell(arm, seed) for arm in design.arms for seed in design.seeds):
        place = directory / cell.path
        if (place / "config.toml").is_file():
            results.append(read_result(place, cell.arm.label))
        elif _failure(directory, cell).is_file():
            # As config.toml would have it: lists, and no option that is None.
            config = by_part(tomllib.loads(as_toml(cell.arm.config(cell.seed).as_dict())))
            results.append(result_of(place, config, cell.arm.label))
    return results


def _failure(directory: Path, cell: Cell) -> Path:
    """Where it is written why a cell failed."""
    return directory / "failures" / f"{cell.arm.folder}-seed{cell.seed}.txt"


def _matters(path: Path) -> bool:
    """Whether a file is more than what a process killed before it wrote study.toml leaves."""
    return not path.name.startswith((".lock", f".{FILE}."))


def progress_of(place: Path) -> tuple[int, float | None, float]:
    """How far a run is, by its files: its last step, the mean return of its last rollout with one, and the seconds that
    it has trained for.
    """
    step, mean_return = 0, None
    for row in _last_rows(place / "metrics.jsonl"):
        step = max(step, int(_number(row.get("step")) or 0))
        found = _number(row.get("episode_return"))
        mean_return = mean_return if found is None else found
    seconds = 0.0
    for row in _last_rows(place / "timings.jsonl"):
        seconds = _number(row.get("seconds")) or seconds
    return step, mean_return, seconds


def _number(value: Any) -> float | None:
    """A number of a file; None where it is none: a damaged file is its own cell's matter."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _last_rows(path: Path, size: int = 8192) -> list[dict[str, Any]]:
    """The whole rows in the last `size` bytes of a file; none if it is not there."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            start = max(file.tell() - size, 0)
            file.seek(start)
            lines = file.read().splitlines()[bool(start) :]
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # not written to its end yet
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _known_cells(directory: Path) -> list[Cell] | None:
    """The cells of the contents that a directory has; none where a component is no longer installed. None without any
    contents.
    """
    if not is_study(directory):
        return None
    try:
        return design_in(directory, read_design(directory / FILE)).cells
    except UsageError:
        return []


def _contents(directory: Path) -> dict[str, Any] | None:
    """The contents of a study's file; None without one, or where it is damaged."""
    try:
        return read_design(directory / FILE)
    except UsageError:
        return None

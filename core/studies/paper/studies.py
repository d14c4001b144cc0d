"""The studies behind the claims: their files, and what was measured, recorded with this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bitrl.core.studies.recorded import read_recorded
from bitrl.core.studies.results import Result
from bitrl.core.studies.study import is_study, read_study

HERE = Path(__file__).parent
PREFIX = "paper-"
"""`bitrl study paper-classic` is the study of classic.toml."""


def files() -> Mapping[str, Path]:
    """Study → its file."""
    return {path.stem: path for path in sorted(HERE.glob("*.toml"))}


def evidence(place: Path) -> tuple[dict[str, list[Result]], list[str]]:
    """The results of every study: of `place`/paper-STUDY where it was trained there, else those recorded here.

    Returns:
        Study → results, and which of them are from `place`.

    Raises:
        UsageError: one in `place` is damaged.
    """
    found, own = {}, []
    for name in files():
        recorded = HERE / "results" / f"{name}.json"
        if is_study(place / (PREFIX + name)):
            found[name] = read_study(place / (PREFIX + name))[1]
            own.append(name)
        elif recorded.is_file():
            found[name] = read_recorded(recorded)[0]
    return found, own

"""The studies behind the claims: their files, and what was measured, recorded with this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def analysis() -> dict[str, Any]:
    """The recorded analysis of a run on the ternary model: `bitrl analyze RUN --json`, to five digits."""
    found: dict[str, Any] = json.loads((HERE / "results" / "analysis.json").read_text(encoding="utf-8"))
    return found

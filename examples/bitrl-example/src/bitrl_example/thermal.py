"""A check of `bitrl doctor`: a hot processor slows down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bitrl


def check(folder: Path = Path("/sys/class/thermal"), limit: float = 80.0) -> Iterator[bitrl.Finding]:
    """One finding for each sensor, in degrees Celsius; machines without sensors have none."""
    for path in sorted(folder.glob("thermal_zone*/temp")):
        degrees = int(path.read_text()) / 1000
        yield bitrl.Finding(path.parent.name, degrees < limit, f"{degrees:.0f} °C", "cool the processor")

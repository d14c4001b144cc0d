"""An energy meter of `bitrl profile`: what a battery gives, in all that the machine draws."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import bitrl


def meters(folder: Path = Path("/sys/class/power_supply")) -> Iterator[bitrl.EnergyMeter]:
    """One meter for each battery, in watts; machines without batteries have none."""
    for path in sorted(folder.glob("*/power_now")):
        yield bitrl.EnergyMeter(name=f"battery {path.parent.name}", watts=partial(watts, path))


def watts(path: Path) -> float:
    """The power in a file of microwatts."""
    return int(path.read_text()) / 1e6

"""Energy meters that Linux shows in /sys: powercap zones, and hwmon's channels of energy and power.

Files are in micro-units (the kernel's documentation of powercap and of hwmon's sysfs interface).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bitrl.core.energy import EnergyMeter

ROOT = Path("/")
_MMIO = "intel-rapl-mmio"
"""Another way to read the package's counter, which is there already."""


def powercap(root: Path = ROOT) -> Iterator[EnergyMeter]:
    """Each zone: `rapl package-0`, and those within it, `rapl package-0 dram`. They start anew at their largest
    value.
    """
    zones = root / "sys/class/powercap"
    for counter in sorted(zones.glob("*/energy_uj")):
        zone = counter.parent.name
        if zone.startswith(_MMIO):
            continue
        names = [_text(zones / part / "name") for part in _with_parents(zone)]
        kind = zone.partition(":")[0].removeprefix("intel-")
        limit = _text(counter.with_name("max_energy_range_uj"))
        yield EnergyMeter(
            name=" ".join((kind, *filter(None, names))),
            joules=partial(_micro, counter),
            wraps_at=int(limit) / 1e6 if limit.isdigit() and int(limit) else None,
        )


def hwmon(root: Path = ROOT) -> Iterator[EnergyMeter]:
    """Each channel of a chip, called by its label where it has one: `ina226 power1`. Power that a chip gives both at
    the moment and as a mean is read at the moment.
    """
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = _text(chip / "name") or chip.name
        for path in sorted(chip.glob("energy*_input")):
            yield EnergyMeter(name=_channel(name, path), joules=partial(_micro, path))
        power = {path.name.partition("_")[0]: path for path in sorted(chip.glob("power*_average"))}
        power |= {path.name.partition("_")[0]: path for path in sorted(chip.glob("power*_input"))}
        for _, path in sorted(power.items()):
            yield EnergyMeter(name=_channel(name, path), watts=partial(_micro, path))


def _with_parents(zone: str) -> list[str]:
    """`intel-rapl:0:1` → `intel-rapl:0`, `intel-rapl:0:1`."""
    parts = zone.split(":")
    return [":".join(parts[:count]) for count in range(2, len(parts) + 1)]


def _channel(chip: str, path: Path) -> str:
    channel = path.name.partition("_")[0]
    return f"{chip} {_text(path.with_name(f'{channel}_label')) or channel}"


def _micro(path: Path) -> float:
    return int(path.read_text()) / 1e6


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

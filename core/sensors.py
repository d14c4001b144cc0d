"""Temperature, clock and throttling of this machine's processor, where Linux's /sys says them.

Every function takes the folder that /sys is looked for in, and returns None where the machine does not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")

_FIRMWARE = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
"""What the bits of a Raspberry Pi's get_throttled say of this moment."""


def temperature(root: Path = ROOT) -> float | None:
    """°C of the hottest thermal zone."""
    return max((value / 1000 for value in _numbers(root, "class/thermal/thermal_zone*/temp")), default=None)


def clock(root: Path = ROOT) -> float | None:
    """MHz of the fastest CPU at this moment."""
    found = _numbers(root, "devices/system/cpu/cpufreq/policy*/scaling_cur_freq")
    return max((value / 1000 for value in found), default=None)


def slowed_down(root: Path = ROOT) -> tuple[str, ...] | None:
    """Why a Raspberry Pi's firmware slows its processor down at this moment; of nothing, an empty tuple."""
    known, found = False, []
    for path in (root / "sys").glob("devices/platform/soc*/*firmware/get_throttled"):
        try:
            bits = int(path.read_text(), 16)
        except (OSError, ValueError):
            continue
        known = True
        found += [word for bit, word in _FIRMWARE.items() if bits >> bit & 1]
    for alarm in _numbers(root, "class/hwmon/hwmon*/in0_lcrit_alarm"):  # where the firmware's file is gone
        known = True
        found += [_FIRMWARE[0]] if alarm else []
    return tuple(dict.fromkeys(found)) if known else None


def heat_throttlings(root: Path = ROOT) -> int | None:
    """How often the CPUs have slowed down for heat since the machine started (x86)."""
    counts = [*_numbers(root, "devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")]
    return int(sum(counts)) if counts else None


def _numbers(root: Path, pattern: str) -> Iterator[float]:
    """The numbers in the files of /sys that match; a sensor that cannot be read is left out."""
    for path in (root / "sys").glob(pattern):
        try:
            yield float(path.read_text())
        except (OSError, ValueError):
            continue

"""Records of the built-in energy meters; imported whenever components are listed."""

from __future__ import annotations

from collections.abc import Iterator

from bitrl.core.hookspecs import hookimpl
from bitrl.core.records import EnergyMeterRecord


@hookimpl
def bitrl_energy_meters() -> Iterator[EnergyMeterRecord]:
    """Meters that Linux shows in /sys."""
    yield EnergyMeterRecord(
        name="powercap",
        summary="the processor's own counters of energy (RAPL), in /sys/class/powercap",
        target="bitrl.plugins.meters.sysfs:powercap",
    )
    yield EnergyMeterRecord(
        name="hwmon",
        summary="counters of energy and meters of power (INA2xx and others), in /sys/class/hwmon",
        target="bitrl.plugins.meters.sysfs:hwmon",
    )

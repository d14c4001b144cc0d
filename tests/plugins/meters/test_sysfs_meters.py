"""Meters in a made-up /sys, as Intel's, AMD's and boards with an INA226 have it."""

from __future__ import annotations

from pathlib import Path

from bitrl.core.energy import Metered
from bitrl.core.registry import registry
from bitrl.plugins.meters.sysfs import hwmon, powercap


def write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        place = root / "sys/class" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n")


def test_every_zone_of_powercap_once_named_with_what_it_is_part_of(tmp_path):
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "psys"}
    files = {f"powercap/{zone}/name": name for zone, name in zones.items()}
    files |= {f"powercap/{zone}/energy_uj": str(5_000_000 + n) for n, zone in enumerate(zones)}
    files |= {f"powercap/{zone}/max_energy_range_uj": "262143328850" for zone in zones}
    files |= {"powercap/intel-rapl-mmio:0/name": "package-0", "powercap/intel-rapl-mmio:0/energy_uj": "7"}
    write(tmp_path, files)
    found = {meter.name: meter for meter in powercap(tmp_path)}
    assert [*found] == ["rapl package-0", "rapl package-0 core", "rapl package-0 dram", "rapl psys"]
    assert found["rapl package-0"].read() == 5.0
    assert found["rapl psys"].read() == 5.000003
    assert found["rapl package-0 dram"].wraps_at == 262143.32885


def test_a_counter_of_powercap_starts_anew(tmp_path):
    files = {"name": "package-0", "energy_uj": "999000", "max_energy_range_uj": "1000000"}
    write(tmp_path, {f"powercap/intel-rapl:0/{name}": text for name, text in files.items()})
    [meter] = powercap(tmp_path)
    seen = Metered(meter)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("4000\n")
    seen.read()
    assert round(seen.joules, 9) == 0.005


def test_channels_of_hwmon_are_counters_and_powers(tmp_path):
    files = {
        "hwmon0/name": "amd_energy", "hwmon0/energy1_input": "1500000", "hwmon0/energy1_label": "Esocket0",
        "hwmon1/name": "ina226", "hwmon1/power1_input": "3250000", "hwmon1/in1_input": "5000",
        "hwmon2/name": "power_meter", "hwmon2/power1_average": "40000000",
        "hwmon3/name": "amdgpu", "hwmon3/power1_average": "8000000", "hwmon3/power1_input": "9000000",
        "hwmon4/name": "cpu_thermal", "hwmon4/temp1_input": "48000",
    }  # fmt: skip
    write(tmp_path, {f"hwmon/{path}": text for path, text in files.items()})
    assert [(meter.name, "joules" if meter.joules else "watts", meter.read()) for meter in hwmon(tmp_path)] == [
        ("amd_energy Esocket0", "joules", 1.5),
        ("ina226 power1", "watts", 3.25),
        ("power_meter power1", "watts", 40.0),
        ("amdgpu power1", "watts", 9.0),
    ]


def test_a_machine_without_any(tmp_path):
    assert [*powercap(tmp_path), *hwmon(tmp_path)] == []
    assert {"powercap", "hwmon"} <= {entry.record.name for entry in registry().entries["energy-meter"]}

"""Sensors in a made-up /sys, and in none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitrl.core import sensors


def write(root: Path, **files: str) -> None:
    for path, text in files.items():
        place = root / "sys" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def test_a_machine_that_says_nothing(tmp_path):
    assert sensors.temperature(tmp_path) is None
    assert sensors.clock(tmp_path) is None
    assert sensors.slowed_down(tmp_path) is None
    assert sensors.heat_throttlings(tmp_path) is None


def test_the_hottest_zone_and_the_fastest_cpu(tmp_path):
    zones = {f"class/thermal/thermal_zone{n}/temp": text for n, text in enumerate(["48700\n", "51200\n", "none\n"])}
    policies = {
        f"devices/system/cpu/cpufreq/policy{n}/scaling_cur_freq": text for n, text in ((0, "600000"), (4, "1500000"))
    }
    write(tmp_path, **zones, **policies)
    assert sensors.temperature(tmp_path) == 51.2
    assert sensors.clock(tmp_path) == 1500


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\n", ()),
        ("50000\n", ()),  # what has happened since it started, and is over
        ("50005\n", ("under-voltage", "throttled")),
        ("a\n", ("clock capped", "soft temperature limit")),
    ],
)
def test_what_the_firmware_of_a_raspberry_pi_says(tmp_path, text, words):
    write(tmp_path, **{"devices/platform/soc/soc:firmware/get_throttled": text})
    assert sensors.slowed_down(tmp_path) == words


def test_where_the_firmwares_file_is_gone_hwmon_has_its_alarm(tmp_path):
    write(tmp_path, **{"class/hwmon/hwmon1/in0_lcrit_alarm": "1\n"})
    assert sensors.slowed_down(tmp_path) == ("under-voltage",)


def test_throttlings_of_all_cpus_are_counted(tmp_path):
    counts = {"cpu0/thermal_throttle/core_throttle_count": "3", "cpu1/thermal_throttle/package_throttle_count": "4"}
    write(tmp_path, **{f"devices/system/cpu/{path}": text for path, text in counts.items()})
    assert sensors.heat_throttlings(tmp_path) == 7

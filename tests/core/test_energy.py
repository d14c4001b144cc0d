"""Joules from readings, worked out by hand: counters that start anew, power that is sampled, meters that fail."""

from __future__ import annotations

import pytest

from bitrl.core.energy import EnergyMeter, Metered, installed_meters
from bitrl.core.records import EnergyMeterRecord
from bitrl.core.registry import Registry


def metered(readings, times, **fields) -> Metered:
    """A meter that gives `readings`, one at each of `times`, read to the end."""
    values, clock = iter(readings), iter(times)
    of = {"watts": lambda: next(values)} if "watts" in fields else {"joules": lambda: next(values)}
    found = Metered(EnergyMeter(name="test", **{**fields, **of}), lambda: next(clock))
    for _ in times[1:]:
        found.read()
    return found


def test_a_counter_that_starts_anew_has_gone_on_by_the_difference_modulo_its_range():
    """262143.3 → 10.2 of 262144 J: 0.7 to the end and 10.2 more."""
    found = metered([262_140.0, 262_143.3, 10.2, 11.2], [0.0, 1.0, 2.0, 3.0], wraps_at=262_144.0)
    assert found.joules == pytest.approx(3.3 + 10.9 + 1.0)
    assert (found.seconds, found.failure) == (3.0, "")


def test_power_is_integrated_by_the_mean_of_two_readings():
    """4 W to 6 W over 2 s and 6 W to 3 W over 1 s: 10 J and 4.5 J."""
    found = metered([4.0, 6.0, 3.0], [10.0, 12.0, 13.0], watts=None)
    assert (found.joules, found.seconds) == (14.5, 3.0)


def test_a_counter_that_goes_back_without_a_range_is_no_meter():
    found = metered([5.0, 7.0, 6.0, 9.0], [0.0, 1.0, 2.0, 3.0])
    assert (found.joules, found.seconds) == (2.0, 1.0)
    assert found.failure == "ValueError: its counter went back from 7.0 to 6.0 J"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), "may not be read by this user: run as root"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (SystemExit("bye"), "SystemExit: bye"),
    ],
)
def test_a_meter_that_fails_is_not_read_again(error, words):
    calls = []

    def fail():
        calls.append(1)
        raise error

    found = Metered(EnergyMeter(name="test", watts=fail))
    found.read()
    assert found.failure.startswith(words)
    assert len(calls) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_no_number_is_no_reading(value):
    assert "is no counter of joules" in Metered(EnergyMeter(name="test", joules=lambda: value)).failure


@pytest.mark.parametrize(
    "fields", [{}, {"joules": float, "watts": float}, {"joules": 3}, {"joules": float, "wraps_at": 0}]
)
def test_a_meter_is_a_counter_or_a_power(fields):
    with pytest.raises(ValueError, match="expected"):
        EnergyMeter(name="test", **fields)


def two():
    yield EnergyMeter(name="supply", watts=lambda: 1.0)
    yield EnergyMeter(name="supply", watts=lambda: 2.0)


def broken():
    yield EnergyMeter(name="lamp", watts=lambda: 3.0)
    raise RuntimeError("no\nbus")


def none():
    return None


def odd():
    return ["3 W"]


def test_a_plugin_that_fails_leaves_the_meters_of_the_others(monkeypatch):
    class Plugin:
        pass

    def records():
        for name in ("broken", "odd", "none", "two"):
            yield EnergyMeterRecord(name=name, summary="test", target=f"{__name__}:{name}")
        yield EnergyMeterRecord(name="gone", summary="test", target="nowhere_at_all:meters")

    from bitrl.core.hookspecs import hookimpl

    plugin = Plugin()
    plugin.bitrl_energy_meters = hookimpl(records)
    found = Registry()
    found.add(plugin, "bitrl-usb")
    assert found.problems == []
    monkeypatch.setattr("bitrl.core.registry.registry", lambda: found)
    meters, failed = installed_meters()
    assert [(meter.name, meter.read()) for meter in meters] == [("lamp", 3.0), ("supply", 1.0), ("supply (2)", 2.0)]
    assert failed[0] == "broken of package bitrl-usb: RuntimeError: no bus"
    assert failed[1] == "odd of package bitrl-usb: TypeError: expected bitrl.EnergyMeter objects, got '3 W'"
    assert failed[2].startswith("gone of package bitrl-usb: UsageError: ")
    assert len(failed) == 3


def test_the_kit_reads_a_meter_and_names_what_is_wrong():
    from bitrl.testing.extras import energy_meter_outcomes

    def outcomes(name):
        return [
            (each.passed, each.failure or each.note)
            for each in energy_meter_outcomes(
                EnergyMeterRecord(name=name, summary="a meter", target=f"{__name__}:{name}")
            )
        ]

    assert outcomes("two") == [(True, None), (True, None)]
    assert outcomes("none")[1] == (True, "this machine has none of it, so nothing was read")
    assert outcomes("odd")[1] == (False, "expected bitrl.EnergyMeter objects, got '3 W'")
    assert outcomes("broken")[1] == (False, "raised RuntimeError: no bus")

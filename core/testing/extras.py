"""Checks of what else a plugin brings: commands, checks of the doctor, energy meters."""

from __future__ import annotations

from collections.abc import Iterator

import click

from bitrl.core.energy import EnergyMeter, Metered
from bitrl.core.findings import Finding
from bitrl.core.records import CommandRecord, DoctorCheckRecord, EnergyMeterRecord
from bitrl.testing.outcomes import Outcome, expect, run_checks
from bitrl.testing.record_checks import is_named_in_one_word


def command_outcomes(record: CommandRecord) -> Iterator[Outcome]:
    """The outcome of every check of a command."""
    yield from run_checks(f'command "{record.name}"', record, (is_named_in_one_word, is_a_click_command))


def doctor_check_outcomes(record: DoctorCheckRecord) -> Iterator[Outcome]:
    """The outcome of every check of a check of the doctor's."""
    yield from run_checks(f'doctor-check "{record.name}"', record, (is_named_in_one_word, yields_findings))


def energy_meter_outcomes(record: EnergyMeterRecord) -> Iterator[Outcome]:
    """The outcome of every check of an energy meter."""
    checks = (is_named_in_one_word, yields_meters_that_can_be_read)
    yield from run_checks(f'energy-meter "{record.name}"', record, checks)


def is_a_click_command(record: CommandRecord) -> None:
    """Its target is a click command."""
    command = record.load()
    expect(isinstance(command, click.Command), f"expected a click command, got {command!r}")


def yields_findings(record: DoctorCheckRecord) -> None:
    """It yields bitrl.Finding objects, with a remedy for each that is not ok."""
    for finding in record.load()():
        expect(isinstance(finding, Finding), f"expected bitrl.Finding objects, got {finding!r}")
        expect(finding.ok or finding.remedy, f'"{finding.name}" is wrong, but no remedy is named')


def yields_meters_that_can_be_read(record: EnergyMeterRecord) -> str | None:
    """It yields bitrl.EnergyMeter objects, which can be read."""
    meters = [*(record.load()() or ())]
    for meter in meters:
        expect(isinstance(meter, EnergyMeter), f"expected bitrl.EnergyMeter objects, got {meter!r}")
        read = Metered(meter)
        read.read()
        expect(not read.failure, f"{meter.name}: {read.failure}")
    return None if meters else "this machine has none of it, so nothing was read"

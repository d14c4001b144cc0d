"""The commands and checks of bitrl itself as a plugin's: they are listed, and no plugin takes their names unseen."""

from __future__ import annotations

from collections.abc import Iterator

from bitrl.cli import COMMANDS
from bitrl.core.hookspecs import hookimpl
from bitrl.core.records import CommandRecord, DoctorCheckRecord

CHECKS = {
    "python": "is Python new enough",
    "packages": "are bitrl's dependencies installed, new enough and importable",
    "engine": "does the C engine load, and what can it run here",
    "starter_models": "are the starter models there and whole",
    "disk": "can a run be written from here",
    "plugins": "what every plugin brings, and does it import",
}
"""The checks of bitrl.cli.doctor, which runs them without the help of this table, since that might be broken."""


@hookimpl
def bitrl_commands() -> Iterator[CommandRecord]:
    """The commands of `bitrl --help`."""
    for name, (target, summary) in COMMANDS.items():
        yield CommandRecord(name=name, summary=summary, target=target)


@hookimpl
def bitrl_doctor_checks() -> Iterator[DoctorCheckRecord]:
    """The checks of `bitrl doctor`."""
    for name, summary in CHECKS.items():
        yield DoctorCheckRecord(name=name.replace("_", "-"), summary=summary, target=f"bitrl.cli.doctor:_{name}")

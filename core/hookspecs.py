"""Every hook a plugin may implement. Most yield records; each docstring contains a complete example plugin."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from bitrl.core.events import Event
from bitrl.core.records import (
    AlgorithmRecord,
    BackboneRecord,
    CommandRecord,
    DoctorCheckRecord,
    EnergyMeterRecord,
    EnvironmentRecord,
    LoggerRecord,
    SerializerRecord,
)

PROJECT = "bitrl"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def bitrl_serializers() -> Iterable[SerializerRecord]:  # type: ignore[empty-body]
    """Serializers: write states as text or vectors.

    Example:
        import bitrl

        @bitrl.hookimpl
        def bitrl_serializers():
            yield bitrl.SerializerRecord(name="hex", summary="numbers in base 16", target="my_plugin.hex:Hex")
    """


@hookspec
def bitrl_backbones() -> Iterable[BackboneRecord]:  # type: ignore[empty-body]
    """Backbones: compute features from texts or vectors.

    Example:
        import bitrl

        @bitrl.hookimpl
        def bitrl_backbones():
            yield bitrl.BackboneRecord(
                name="hashing", summary="hashed words", target="my_plugin.hashing:Hashing", accepts=("text",)
            )
    """


@hookspec
def bitrl_algorithms() -> Iterable[AlgorithmRecord]:  # type: ignore[empty-body]
    """Algorithms: train a policy.

    Example:
        import bitrl

        @bitrl.hookimpl
        def bitrl_algorithms():
            yield bitrl.AlgorithmRecord(name="reinforce", summary="REINFORCE", target="my_plugin.reinforce:Reinforce")
    """


@hookspec
def bitrl_environments() -> Iterable[EnvironmentRecord]:  # type: ignore[empty-body]
    """Environments other than those with a Gymnasium id, which need no plugin.

    Example:
        import bitrl

        @bitrl.hookimpl
        def bitrl_environments():
            yield bitrl.EnvironmentRecord(
                name="Corridor-v0", summary="walk right", target="my_plugin.corridor:CorridorEnvironment"
            )
    """


@hookspec
def bitrl_loggers() -> Iterable[LoggerRecord]:  # type: ignore[empty-body]
    """Loggers: receive a run's metrics as they are produced, in addition to metrics.jsonl.

    Example:
        import bitrl

        @bitrl.hookimpl
        def bitrl_loggers():
            yield bitrl.LoggerRecord(name="sqlite", summary="rows of a database", target="my_plugin.sqlite:Sqlite")
    """


@hookspec
def bitrl_commands() -> Iterable[CommandRecord]:  # type: ignore[empty-body]
    """Subcommands of `bitrl`, each a click command.

    Example:
        import bitrl

        @bitrl.hookimpl
        def bitrl_commands():
            yield bitrl.CommandRecord(name="report", summary="Report on a run.", target="my_plugin.report:report")
    """


@hookspec
def bitrl_doctor_checks() -> Iterable[DoctorCheckRecord]:  # type: ignore[empty-body]
    """Checks of `bitrl doctor`.

    Example:
        import bitrl

        @bitrl.hookimpl
        def bitrl_doctor_checks():
            yield bitrl.DoctorCheckRecord(name="camera", summary="is it plugged in", target="my_plugin.camera:check")
    """


@hookspec
def bitrl_energy_meters() -> Iterable[EnergyMeterRecord]:  # type: ignore[empty-body]
    """Energy meters, which `bitrl profile` reads.

    Example:
        import bitrl

        @bitrl.hookimpl
        def bitrl_energy_meters():
            yield bitrl.EnergyMeterRecord(name="usb-meter", summary="a meter on USB", target="my_plugin.usb:meters")
    """


@hookspec
def bitrl_event(event: Event) -> None:
    """Called with each event of a run (bitrl.core.events), in the training process: return quickly.

    What an event holds is the listener's own copy. `RolloutStepped`, which comes at every step, is sent only to
    listeners marked with `@bitrl.every_step`. A listener with options is a logger (`bitrl_loggers`).

    Example:
        import bitrl
        from bitrl.core.events import RunFinished

        @bitrl.hookimpl
        def bitrl_event(event):
            if isinstance(event, RunFinished):
                print("finished", event.summary["run"])
    """

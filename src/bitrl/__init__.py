"""bitrl: reinforcement-learning agents that perceive through a frozen 1-bit language model.

The public face. Everything here is imported when it is first used, so `import bitrl` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitrl.core.acting.agents import Agent, load_agent
    from bitrl.core.acting.cache import cached
    from bitrl.core.acting.loading import load_backbone
    from bitrl.core.acting.states import States
    from bitrl.core.energy import EnergyMeter
    from bitrl.core.environments.collector import Collector, Rollout
    from bitrl.core.environments.environment import Environment
    from bitrl.core.environments.feature_wrappers import FeatureObservation, VectorFeatureObservation
    from bitrl.core.environments.loading import load_environment, load_serializer
    from bitrl.core.environments.prompt_task import PromptTask
    from bitrl.core.errors import BitrlError, RunFailed, UsageError
    from bitrl.core.events import every_step
    from bitrl.core.findings import Finding
    from bitrl.core.hookspecs import hookimpl
    from bitrl.core.interfaces import Algorithm, Backbone, Field, Logger, ObservationSpec, Serializer, Task
    from bitrl.core.options import above, at_least, between, option, options
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
    from bitrl.core.runs.evaluate import evaluate
    from bitrl.core.runs.export import export
    from bitrl.core.runs.learn_on import learn_on
    from bitrl.core.runs.listing import list_runs
    from bitrl.core.runs.train import resume, run
    from bitrl.core.schedules import Schedule, value_at

__version__ = "0.2.0"  # the only place: pyproject.toml reads it from here

_HOME = {
    "bitrl.core.acting.agents": ("Agent", "load_agent"),
    "bitrl.core.acting.cache": ("cached",),
    "bitrl.core.acting.loading": ("load_backbone",),
    "bitrl.core.acting.states": ("States",),
    "bitrl.core.energy": ("EnergyMeter",),
    "bitrl.core.environments.collector": ("Collector", "Rollout"),
    "bitrl.core.environments.environment": ("Environment",),
    "bitrl.core.environments.feature_wrappers": ("FeatureObservation", "VectorFeatureObservation"),
    "bitrl.core.environments.loading": ("load_environment", "load_serializer"),
    "bitrl.core.environments.prompt_task": ("PromptTask",),
    "bitrl.core.errors": ("BitrlError", "RunFailed", "UsageError"),
    "bitrl.core.events": ("every_step",),
    "bitrl.core.findings": ("Finding",),
    "bitrl.core.hookspecs": ("hookimpl",),
    "bitrl.core.interfaces": ("Algorithm", "Backbone", "Field", "Logger", "ObservationSpec", "Serializer", "Task"),
    "bitrl.core.options": ("above", "at_least", "between", "option", "options"),
    "bitrl.core.records": (
        "AlgorithmRecord",
        "BackboneRecord",
        "CommandRecord",
        "DoctorCheckRecord",
        "EnergyMeterRecord",
        "EnvironmentRecord",
        "LoggerRecord",
        "SerializerRecord",
    ),
    "bitrl.core.runs.evaluate": ("evaluate",),
    "bitrl.core.runs.export": ("export",),
    "bitrl.core.runs.learn_on": ("learn_on",),
    "bitrl.core.runs.listing": ("list_runs",),
    "bitrl.core.runs.train": ("resume", "run"),
    "bitrl.core.schedules": ("Schedule", "value_at"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Agent",
    "Algorithm",
    "AlgorithmRecord",
    "Backbone",
    "BackboneRecord",
    "BitrlError",
    "Collector",
    "CommandRecord",
    "DoctorCheckRecord",
    "EnergyMeter",
    "EnergyMeterRecord",
    "Environment",
    "EnvironmentRecord",
    "FeatureObservation",
    "Field",
    "Finding",
    "Logger",
    "LoggerRecord",
    "ObservationSpec",
    "PromptTask",
    "Rollout",
    "RunFailed",
    "Schedule",
    "Serializer",
    "SerializerRecord",
    "States",
    "Task",
    "UsageError",
    "VectorFeatureObservation",
    "above",
    "at_least",
    "between",
    "cached",
    "evaluate",
    "every_step",
    "export",
    "hookimpl",
    "learn_on",
    "list_runs",
    "load_agent",
    "load_backbone",
    "load_environment",
    "load_serializer",
    "option",
    "options",
    "resume",
    "run",
    "value_at",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bitrl' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])

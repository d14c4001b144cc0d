"""The events of a run, as plain records: progress displays, loggers and plugins listen to them."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Event:
    """Base of all events; `directory` is the run's."""

    directory: Path


@attrs.frozen
class RunStarted(Event):
    """Training is about to start, or to continue from `step` after a resume."""

    config: Mapping[str, Any]
    step: int
    total_steps: int


@attrs.frozen
class RolloutStepped(Event):
    """Environment steps were taken within a rollout; frequent, for live displays only."""

    step: int


@attrs.frozen
class Updated(Event):
    """A rollout was collected and learned from; `metrics` is the row just written to metrics.jsonl."""

    step: int
    metrics: Mapping[str, Any]


@attrs.frozen
class CheckpointSaved(Event):
    """A checkpoint was written to disk."""

    step: int
    path: Path


@attrs.frozen
class Interrupted(Event):
    """A signal (`signum`) arrived, Ctrl-C's or another: the run stops once the current update is finished and saved."""

    signum: int = signal.SIGINT


@attrs.frozen
class CheckpointSkipped(Event):
    """A checkpoint was damaged and the one before it is used; `reason` says why."""

    path: Path
    reason: str


@attrs.frozen
class Warned(Event):
    """Something that the user should know and that does not stop the run; `message` is one line."""

    message: str


@attrs.frozen
class Evaluating(Event):
    """`done` of `episodes` evaluation episodes have ended; all have taken `steps` steps so far. Also told now and then
    while none ends.
    """

    done: int
    episodes: int
    steps: int = 0


@attrs.frozen
class RunFinished(Event):
    """Training and evaluation are done; `summary` is summary.json."""

    summary: Mapping[str, Any]

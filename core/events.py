"""What happens in a run, as plain records: progress displays, loggers and plugins listen to these."""

from __future__ import annotations

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
    """Training is about to start, or to go on from `step` after a resume."""

    config: Mapping[str, Any]
    step: int
    total_steps: int


@attrs.frozen
class RolloutStepped(Event):
    """Some environment steps were taken, inside a rollout; comes often, for a live display only."""

    step: int


@attrs.frozen
class Updated(Event):
    """A rollout was collected and learned from; `metrics` is the row just written to metrics.jsonl."""

    step: int
    metrics: Mapping[str, Any]


@attrs.frozen
class CheckpointSaved(Event):
    """A checkpoint stands complete on disk."""

    step: int
    path: Path


@attrs.frozen
class Interrupted(Event):
    """Ctrl-C was pressed: the run stops once the update under way has ended and is saved."""


@attrs.frozen
class CheckpointSkipped(Event):
    """A checkpoint was damaged and the one before it is used; `reason` says what was wrong."""

    path: Path
    reason: str


@attrs.frozen
class Evaluating(Event):
    """`done` of `episodes` evaluation episodes have ended."""

    done: int
    episodes: int


@attrs.frozen
class RunFinished(Event):
    """Training and evaluation are done; `summary` is summary.json."""

    summary: Mapping[str, Any]

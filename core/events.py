"""The events of a run, as plain records: progress displays, loggers and plugins listen to them."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from bitrl.core.sampled_completions import SampledCompletion


@attrs.frozen
class Event:
    """Base of all events; `directory` is the run's."""

    directory: Path


@attrs.frozen
class RunStarted(Event):
    """Training is about to start, or to continue from `step` after a resume. Where the environment gives `prompts`, a
    step is a completion.
    """

    config: Mapping[str, Any]
    step: int
    total_steps: int
    prompts: bool = False


@attrs.frozen
class RolloutStepped(Event):
    """The environments have taken a step within a rollout, the run's `step`-th in all. Very frequent: only listeners
    marked with `every_step` receive it.
    """

    step: int


@attrs.frozen
class Updated(Event):
    """A rollout was collected and learned from; `metrics` is the row just written to metrics.jsonl, `timings` what the
    algorithm says of the time that it took (Algorithm.timings).
    """

    step: int
    metrics: Mapping[str, Any]
    timings: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen
class Sampled(Event):
    """A language model's completion of a prompt while it trains; told once for each update."""

    step: int
    sample: SampledCompletion


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
class Chosen(Event):
    """What a new run has chosen for itself by evidence, and by which; `message` is one line."""

    message: str


@attrs.frozen
class MemoryPlanned(Event):
    """A run with a memory limit is about to start or to go on: `plan` has the limit and the bytes planned for each
    part, and `message` says so in a line.
    """

    plan: Mapping[str, int]
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


E = TypeVar("E", bound=Event)
F = TypeVar("F", bound=Callable[..., Any])


def every_step(listener: F) -> F:
    """Decorator: this listener also receives `RolloutStepped`, at every step of the environments.

    The rollout waits for it, so it must return within microseconds.
    """
    listener.every_step = True  # type: ignore[attr-defined]
    return listener


def wants(listener: Callable[..., Any], event: Event) -> bool:
    """Whether `listener` receives `event`."""
    return not isinstance(event, RolloutStepped) or getattr(listener, "every_step", False)


def own_copy(event: E) -> E:
    """`event`, whose receiver may change what is in it: nobody else gets this copy."""
    held = {field.name: getattr(event, field.name) for field in attrs.fields(type(event))}
    changeable = {name: copy.deepcopy(value) for name, value in held.items() if isinstance(value, Mapping)}
    return type(event)(**{**held, **changeable}) if changeable else event

"""What a run shows while it goes on. Knows a run by its events alone."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bitrl.core import events
from bitrl.core.events import Event
from bitrl.core.runs.display import Display, display, duration, score, silence
from bitrl.core.terminal import tell
from bitrl.core.wording import warn

if TYPE_CHECKING:
    from bitrl.core.runs.listeners import Listener


SAMPLES = 20
"""Of a language model's completions, about so many are shown in a run."""


class TrainingProgress:
    """How far training is, how fast it goes and how good the agent is."""

    def __init__(self) -> None:
        self.step = self.total = 0
        self.prompts = False
        self.mean_return: float | None = None
        self.tokens: float | None = None
        # Collecting and learning alternate, so speed is measured between updates: over the last ten.
        self._updates: deque[tuple[float, int]] = deque(maxlen=11)
        self._generated: deque[tuple[float, float]] = deque(maxlen=10)
        self._sampled = -1

    def hear(self, event: Event, now: float) -> None:
        """Take in one event, which came at `now` (seconds on a monotonic clock)."""
        if isinstance(event, events.RunStarted):
            self.step, self.total, self.prompts = event.step, event.total_steps, event.prompts
            self._updates.append((now, event.step))
        elif isinstance(event, (events.RolloutStepped, events.Updated)):
            self.step = event.step
            self.total = max(self.total, event.step)  # the last rollout is finished
        if isinstance(event, events.Updated):
            self.mean_return = event.metrics.get("episode_return", self.mean_return)
            self.tokens = event.metrics.get("completion_tokens", self.tokens)
            self._updates.append((now, event.step))
            if {"tokens", "generation"} <= event.timings.keys():
                self._generated.append((event.timings["tokens"], event.timings["generation"]))

    def steps_per_second(self) -> float | None:
        """Over the last ten updates; None before the first."""
        if len(self._updates) < 2:
            return None
        (began, first), (ended, last) = self._updates[0], self._updates[-1]
        return (last - first) / max(ended - began, 1e-9)

    def tokens_per_second(self) -> float | None:
        """Of generation alone, over the last ten updates; None where it is not measured."""
        tokens, seconds = (sum(each) for each in zip(*self._generated, strict=True)) if self._generated else (0, 0)
        return tokens / seconds if seconds else None

    @property
    def unit(self) -> str:
        """What is counted."""
        return "completions" if self.prompts else "steps"

    def shows(self, event: events.Sampled) -> bool:
        """Whether a sample is due: the first one, then one at each `SAMPLES`th of the run."""
        part = int(SAMPLES * event.step // max(self.total, 1))
        due, self._sampled = part > self._sampled, max(part, self._sampled)
        return due

    def words(self) -> tuple[str, ...]:
        """Speed, return and time left, as they are shown; "–" for what is not known yet. Of completions: their mean
        reward and length, and the speed of generation.
        """
        speed = self.steps_per_second()
        left = duration(max(self.total - self.step, 0) / speed) if speed else "–"
        if self.prompts:
            reward = "–" if self.mean_return is None else f"{self.mean_return:.3f}"
            length = "–" if self.tokens is None else f"{self.tokens:.0f}"
            generated = self.tokens_per_second()
            tokens = "–" if generated is None else f"{generated:,.0f}"
            return f"reward {reward}", f"length {length}", f"{tokens} tokens/s", f"{left} left"
        returned = "–" if self.mean_return is None else score(self.mean_return)
        return f"{'–' if speed is None else f'{speed:,.0f}'} steps/s", f"sampled return {returned}", f"{left} left"


@contextmanager
def progress_display(quiet: bool) -> Iterator[Listener]:
    """A listener that shows a run's progress on stderr within the context; if `quiet`, only warnings."""
    if quiet:
        with silence():
            yield _warn
        return
    with display() as shown:
        yield _listener(shown)


def _warn(event: Event) -> None:
    if isinstance(event, events.CheckpointSkipped):
        warn(f"{event.path} is damaged ({event.reason}): going on from the one before it")
    elif isinstance(event, events.Warned):
        warn(event.message)
    elif isinstance(event, (events.Chosen, events.MemoryPlanned)):
        tell(event.message)
    elif isinstance(event, events.Interrupted):
        again = (
            "Ctrl-C again" if event.signum == signal.SIGINT else f"{signal.Signals(event.signum).name}; a second one"
        )
        tell(f"stopping once this update is done and saved ({again}: at once)")


def _opening(event: events.RunStarted) -> str:
    run = event.config["run"]
    critic = run.get("critic_backbone", "none")
    backbone = run["backbone"] + (f" (critic: {critic})" if critic != "none" else "")
    parts = " → ".join((run["env"], run["serializer"], backbone, run["algo"]))
    start = f", from step {event.step:,}" if event.step else ""
    return f"{parts}, seed {run['seed']}{start}, in {event.directory}"


def _listener(shown: Display) -> Listener:
    training = TrainingProgress()

    @events.every_step
    def listener(event: Event) -> None:
        _warn(event)
        training.hear(event, time.monotonic())
        if isinstance(event, events.RunStarted):
            shown.say(_opening(event))
        elif isinstance(event, (events.RolloutStepped, events.Updated)):
            shown.show(
                "training",
                training.step,
                training.total,
                training.unit,
                training.words(),
                tenths=isinstance(event, events.Updated),
            )
        elif isinstance(event, events.Sampled):
            if training.shows(event):
                shown.say(f"step {event.step:,}, {event.sample.line()}")
        elif isinstance(event, events.Evaluating):
            facts = (f"{event.steps:,} steps",) if event.steps else ()
            shown.show("evaluation", event.done, event.episodes, "episodes", facts, tenths=False)

    return listener

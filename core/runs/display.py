"""How far something is, on stderr: live bars on a terminal, elsewhere a line now and then.

Knows nothing of what goes on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from bitrl.core.terminal import printable, tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

QUIET_SECONDS = 30.0
"""Without a terminal: the longest silence between two lines of a task, beyond those at each tenth."""


class Display(Protocol):
    """Where work says how far it is."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def show(
        self, task: str, done: float, total: float, unit: str, facts: Sequence[str] = (), tenths: bool = True
    ) -> None:
        """`done` of `total` (in `unit`) of a task are done.

        Args:
            task: its name; another name is another bar.
            done, total: shown without decimals.
            unit: "steps", "MB" …
            facts: what else to show beside it: speed, losses, time left.
            tenths: without a terminal, print a line at each tenth; else only after `QUIET_SECONDS` of silence.
        """


_open: list[Display] = []
"""The display in use, if any: a terminal has room for one."""


@contextmanager
def display(transient: bool = False) -> Iterator[Display]:
    """The display for this stderr; within another's context, that one. `transient`: bars vanish at the end."""
    if _open:
        yield _open[-1]
        return
    with _display(transient) as shown, _in_use(shown):
        yield shown


@contextmanager
def silence() -> Iterator[None]:
    """Within, displays show nothing: who asked for quiet means all that goes on underneath, too."""
    with _in_use(SilentDisplay()):
        yield


@contextmanager
def _in_use(shown: Display) -> Iterator[None]:
    _open.append(shown)
    try:
        yield
    finally:
        _open.remove(shown)


@contextmanager
def _display(transient: bool) -> Iterator[Display]:
    if not on_terminal() or os.environ.get("TERM") == "dumb":
        yield LineDisplay()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[facts]}", markup=False),
        # Narrower than the terminal: the "^C" that it echoes must not break the line that is redrawn.
        console=Console(
            file=cast("TextIO", _Unfailing(sys.stderr)),
            highlight=False,
            width=max(shutil.get_terminal_size().columns - 4, 20),
        ),
        expand=True,
        transient=transient,
    )
    with bars:
        yield BarDisplay(bars)


def on_terminal() -> bool:
    """Whether somebody reads stderr as it is written."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def announce(what: str) -> None:
    """What comes next, on a terminal alone: for work that cannot say how far it is."""
    if on_terminal():
        tell(f"{what} …")


class _Unfailing:
    """A stream that nobody may be able to read any more (a terminal that was closed): then work goes on unseen."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class SilentDisplay:
    """Shows nothing."""

    def say(self, line: str) -> None:
        """See `Display`."""

    def show(
        self, task: str, done: float, total: float, unit: str, facts: Sequence[str] = (), tenths: bool = True
    ) -> None:
        """See `Display`."""


class LineDisplay:
    """A line at each tenth, or after a long silence."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._tenths: dict[str, int] = {}

    def say(self, line: str) -> None:
        """See `Display`."""
        tell(line)

    def show(
        self, task: str, done: float, total: float, unit: str, facts: Sequence[str] = (), tenths: bool = True
    ) -> None:
        """See `Display`."""
        now, tenth = time.monotonic(), int(10 * done // max(total, 1))
        if (tenths and tenth > self._tenths.get(task, 0)) or now - self._at > QUIET_SECONDS:
            self._at = now
            self._tenths[task] = tenth if tenths else self._tenths.get(task, 0)
            self.say("   ".join((f"{task}: {done:,.0f} of {total:,.0f} {unit}".rstrip(), *facts)))


class BarDisplay:
    """A bar for each task."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        """See `Display`."""
        self._bars.console.print(printable(line), markup=False, soft_wrap=True)

    def show(
        self, task: str, done: float, total: float, unit: str, facts: Sequence[str] = (), tenths: bool = True
    ) -> None:
        """See `Display`."""
        count, words = f"{done:,.0f}/{total:,.0f} {unit}", " · ".join(facts)
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(task, count=count, facts=words)
        self._bars.update(self._tasks[task], total=max(total, 1), completed=done, count=count, facts=words)


class ModelTraining(Protocol):
    """How far the training of a language model is."""

    step: int
    tokens: int
    seconds: float

    @property
    def means(self) -> Mapping[str, float]:
        """A running mean of each loss."""


def show_model_training(shown: Display, progress: ModelTraining, steps: int) -> None:
    """Show its losses, its speed and the time left."""
    speed = progress.tokens / max(progress.seconds, 1e-9)
    left = progress.seconds / progress.step * (steps - progress.step)
    losses = " ".join(f"{name} {value:.3f}" for name, value in progress.means.items())
    shown.show("training", progress.step, steps, "steps", (losses, f"{speed:,.0f} tokens/s", f"{duration(left)} left"))


def show_count(shown: Display, task: str, done: int, total: int) -> None:
    """Show how much of a task is done; behind a colon its name has what of it is under way."""
    name, _, part = task.partition(": ")
    shown.show(name, done, total, "", (part,) if part else (), tenths=False)


def show_bytes(shown: Display, done: int, total: int) -> None:
    """Show how many of a file's bytes are written."""
    shown.show("writing", done / 1e6, total / 1e6, "MB", tenths=False)


def score(value: float, beside: float | None = None) -> str:
    """A return or reward: `487.1`, `0.347` where it is of the size of 1, `8e+30` and `2.1e-05` where digits would be
    many or none; with the decimals of the one `beside` it.
    """
    size = abs(value if beside is None else beside)
    if size >= 1e9 or 0 < size < 0.0005:
        return f"{value:.3g}"
    return f"{value:.1f}" if size >= 10 or size == 0 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """`2:07` or `1:02:07`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"

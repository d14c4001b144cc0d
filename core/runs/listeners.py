"""The listeners to the events of a run: callers in this process, plugins and the run's loggers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bitrl.core import events
from bitrl.core.config import ChosenLogger, Config
from bitrl.core.interfaces import Logger
from bitrl.core.registry import one_line, registry
from bitrl.core.terminal import tell

Listener = Callable[[events.Event], None]


def teller(listeners: tuple[Listener, ...]) -> Listener:
    """One listener that notifies the given ones and the plugins, whose failures are reported once each on stderr."""
    reported: set[str] = set()

    def tell(event: events.Event) -> None:
        for listener in listeners:
            if events.wants(listener, event):
                listener(events.own_copy(event))
        for problem in registry().send(event):
            if problem.message not in reported:
                reported.add(problem.message)
                _warn(problem.package, problem.message)

    return tell


@contextmanager
def open_loggers(config: Config, directory: Path) -> Iterator[Listener]:
    """The loggers of a run as one listener; each is closed at the end, however the run ends.

    One that fails is reported on stderr, and the run continues without it.

    Raises:
        UsageError: the code of one cannot be imported.
    """
    opened = [OpenLogger(chosen, directory) for chosen in config.loggers]

    def hear(event: events.Event) -> None:
        for each in opened:
            each.hear(events.own_copy(event))

    if any(each.every_step for each in opened):
        events.every_step(hear)

    try:
        yield hear
    finally:
        for each in opened:
            each.call("close")


class OpenLogger:
    """An open logger, made when training starts. After a failed call it is not called again."""

    def __init__(self, chosen: ChosenLogger, directory: Path):
        self.chosen, self.directory = chosen, directory
        self._target: Callable[..., Logger] = chosen.record.load()
        self._logger: Logger | None = None
        self._failed = False
        self.every_step: bool = getattr(getattr(self._target, "event", None), "every_step", False)

    def hear(self, event: events.Event) -> None:
        """Call the method that an event has, or `event` for one that has none."""
        if isinstance(event, events.RunStarted):
            self.call("start", event.config, event.step)
        elif isinstance(event, events.Updated):
            self.call("log", event.metrics)
        elif isinstance(event, events.RunFinished):
            self.call("finish", event.summary)
        elif self.every_step or not isinstance(event, events.RolloutStepped):
            self.call("event", event)

    def call(self, method: str, *arguments: object) -> None:
        """Call one of its methods; one that fails is reported, and the logger closed."""
        if self._failed or (self._logger is None and method == "close"):
            return
        try:
            if self._logger is None:
                self._logger = self._target(self.chosen.options, self.directory)
            getattr(self._logger, method)(*arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._failed = True
            package = registry().package(self.chosen.record) or self.chosen.name
            failure = f'logger "{self.chosen.name}" failed in {method}: {one_line(error)}'
            _warn(package, failure + ("" if method == "close" else ": the run continues without it"))
            if self._logger is not None and method != "close":
                with contextlib.suppress(Exception, SystemExit):
                    self._logger.close()


def _warn(package: str, message: str) -> None:
    tell(f"warning: plugin {package}: {message}")

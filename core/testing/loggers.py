"""Checks of a logger: it takes a run from start to end, and one that is stopped and resumed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Logger
from bitrl.core.options import parse
from bitrl.core.records import LoggerRecord
from bitrl.testing.outcomes import Check, Outcome, demand, examine, expect
from bitrl.testing.record_checks import RECORD_CHECKS, resolve

CONFIG: dict[str, dict[str, Any]] = {"run": {"env": "CartPole-v1", "steps": 96, "seed": 0}}
ROWS = [{"step": 32, "loss": 0.5}, {"step": 64, "loss": 0.25, "episode_return": 12.0}, {"step": 96, "loss": 0.125}]
SUMMARY = {"env": "CartPole-v1", "steps": 96, "eval": {"episodes": 2, "mean_return": 20.0, "std_return": 1.5}}


@attrs.frozen
class Subject:
    """A logger's record and the options it is tried with."""

    record: LoggerRecord
    options: Any

    def make(self, directory: Path) -> Logger:
        """A new logger over a run's directory, in which two of the run's own files lie."""
        for name in ("config.toml", "metrics.jsonl"):
            (directory / name).write_text("the run's own\n", encoding="utf-8")
        logger: Logger = self.record.load()(self.options, directory)
        return logger


def check_logger(component: str | LoggerRecord, **options: Any) -> None:
    """Check a logger, by its name or record.

    Raises:
        UsageError: there is none of that name. ConformanceError: the contract is broken.
    """
    demand(logger_outcomes(component, **options))


def logger_outcomes(component: str | LoggerRecord, **options: Any) -> Iterator[Outcome]:
    """The outcome of every check; of a logger that lacks a package that it names, only that."""
    record = resolve(LoggerRecord, component)

    def build() -> Subject:
        """Its code is imported, and its options are accepted."""
        record.load()
        return Subject(record, parse(record.options, options, f"logger.{record.name}"))

    name = f'logger "{record.name}"'
    try:
        record.check_needs()
    except UsageError as error:
        yield Outcome(name, "What it needs is installed", str(error))
        return
    yield from examine(name, build, CHECKS)


def has_a_good_record(subject: Subject) -> None:
    """Its name is one word, its summary one line, and its options have help texts and valid defaults."""
    for check in RECORD_CHECKS:
        check(subject.record)


def takes_a_whole_run(subject: Subject) -> None:
    """It accepts a whole run, and modifies neither the run's own files nor the rows."""
    with tempfile.TemporaryDirectory() as folder:
        logger = subject.make(Path(folder))
        logger.start(CONFIG, 0)
        for row in ROWS:
            given = dict(row)
            logger.log(given)
            expect(given == row, f"log changed the row it was given: {given}")
        logger.finish(SUMMARY)
        logger.close()
        for name in ("config.toml", "metrics.jsonl"):
            text = Path(folder, name).read_text(encoding="utf-8")
            expect(text == "the run's own\n", f"it wrote to {name}, which is the run's own")


def goes_on_where_a_run_was_stopped(subject: Subject) -> None:
    """A new logger over the same directory continues from an earlier step."""
    with tempfile.TemporaryDirectory() as folder:
        logger = subject.make(Path(folder))
        logger.start(CONFIG, 0)
        for row in ROWS[:2]:
            logger.log(dict(row))
        logger.close()
        again = subject.make(Path(folder))
        again.start(CONFIG, ROWS[0]["step"])  # type: ignore[arg-type]
        for row in ROWS[1:]:
            again.log(dict(row))
        again.finish(SUMMARY)
        again.close()


CHECKS: tuple[Check[Subject], ...] = (has_a_good_record, takes_a_whole_run, goes_on_where_a_run_was_stopped)

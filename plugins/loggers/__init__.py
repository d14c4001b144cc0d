"""The built-in loggers: their options and records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from bitrl.core.hookspecs import hookimpl
from bitrl.core.options import option, options
from bitrl.core.records import LoggerRecord


@options
class CsvOptions:
    """Options of the CSV logger."""

    delimiter: Literal[",", ";", "tab"] = option(",", "column separator")


@hookimpl
def bitrl_loggers() -> Iterator[LoggerRecord]:
    """A table, and TensorBoard."""
    yield LoggerRecord(
        name="csv",
        summary="metrics.csv: a row per update, a column per metric",
        target="bitrl.plugins.loggers.csv:Csv",
        options=CsvOptions,
    )
    yield LoggerRecord(
        name="tensorboard",
        summary="event files of TensorBoard: a scalar per metric, by environment step",
        target="bitrl.plugins.loggers.tensorboard:TensorBoard",
        needs={"tensorboardX": "bitrl[tensorboard]"},
    )

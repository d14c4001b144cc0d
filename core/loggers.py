"""What a logger is: something that is told a run's metrics as they come. A plugin's logger derives from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Logger:
    """Takes the rows of metrics.jsonl as they are written.

    A run that is stopped and resumed makes a logger again, over the same directory. Whatever a logger raises is
    reported once, and the run goes on without it.

    Args:
        options: its options object.
        directory: the run's directory, which exists; a logger's files lie there under names of their own.
    """

    def __init__(self, options: Any, directory: Path):
        self.options, self.directory = options, directory

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Training begins, or goes on from the checkpoint at `step` (environment steps; 0 in a new run).

        The rows after `step` will come again: what was kept of them is to be dropped.

        Args:
            config: all options by section, as config.toml holds them.
            step: the last step whose row is to be kept.
        """

    def log(self, row: Mapping[str, Any]) -> None:
        """An update is done. `row` holds its `step` and its metrics; not all of them need be in every row.

        Keep it before you return: the process may be killed at any time.
        """

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Training and evaluation are done; `summary` is summary.json."""

    def close(self) -> None:
        """Nothing more will come, whether the run is done, was stopped or failed."""

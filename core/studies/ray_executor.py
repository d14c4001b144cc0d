"""Runs cells on a Ray cluster whose nodes share the study's directory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitrl.core.errors import BitrlError, RunFailed, UsageError
from bitrl.core.installing import to_install
from bitrl.core.studies.design import Cell
from bitrl.core.studies.processes import Ended
from bitrl.core.studies.study import FILE
from bitrl.core.studies.worker import work


class RayExecutor:
    """An `Executor` of a Ray cluster: the one that RAY_ADDRESS names or that runs here, else a new local one.

    A cell takes one CPU. The cells of a node that is lost are reported as lost, and go on elsewhere.
    """

    def __init__(self, study: Path):
        """Of the study in this directory.

        Raises:
            UsageError: Ray is not installed. RunFailed: its cluster cannot be reached.
        """
        try:
            import ray
        except ImportError:
            raise UsageError(f"--executor ray needs Ray: {to_install('ray')}") from None
        self._ray: Any = ray
        self._study = study.resolve()
        try:
            with contextlib.suppress(ConnectionError):  # no cluster runs here: a local one is started
                ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
            if not ray.is_initialized():
                ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
        except Exception as error:
            raise RunFailed(f"Ray's cluster cannot be reached: {_last_line(error)}: check RAY_ADDRESS") from None
        self._task = ray.remote(num_cpus=1, max_retries=0)(_train)
        self._running: dict[Any, Cell] = {}

    @property
    def capacity(self) -> int:
        """As many as the cluster has CPUs now."""
        return max(int(self._ray.cluster_resources().get("CPU", 1)), 1)

    def start(self, cell: Cell, place: Path) -> None:
        """See `Executor`."""
        values = cell.arm.config(cell.seed).as_dict()
        self._running[self._task.remote(values, str(place.resolve()), str(self._study))] = cell

    def ended(self) -> list[Ended]:
        """See `Executor`."""
        if not self._running:
            return []
        done, _ = self._ray.wait([*self._running], num_returns=len(self._running), timeout=0)
        return [self._outcome(each, self._running.pop(each)) for each in done]

    def _outcome(self, reference: Any, cell: Cell) -> Ended:
        exceptions = self._ray.exceptions
        try:
            message = self._ray.get(reference)
        except exceptions.RayTaskError as error:
            return Ended(cell, str(error), lost=False, ok=False)
        except (exceptions.RayError, exceptions.TaskCancelledError) as error:  # its node or its process is gone
            return Ended(cell, _last_line(error), lost=True, ok=False)
        return Ended(cell, message, lost=False, ok=not message)

    def interrupt(self) -> None:
        """See `Executor`."""
        for reference in self._running:
            self._ray.cancel(reference)

    def close(self) -> None:
        """See `Executor`."""
        for reference in self._running:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()


def _train(values: Mapping[str, Mapping[str, Any]], place: str, study: str) -> str:
    """Train a cell on the node where this runs; return "", or why it failed."""
    if not Path(study, FILE).is_file():
        return f"{study}: is not there on one of the nodes: put the study where all nodes see it"
    try:
        work(values, Path(place))
    except BitrlError as error:
        return f"Error: {error}"
    return ""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

"""Event files for TensorBoard, in the folder tensorboard of the run's directory: `tensorboard --logdir runs`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitrl.core.interfaces import Logger


class TensorBoard(Logger):
    """A scalar per metric, and the final evaluation's, by environment step."""

    def __init__(self, options: Any, directory: Path):
        super().__init__(options, directory)
        self.folder = directory / "tensorboard"
        self.step = 0

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Begin an event file, which tells TensorBoard to purge events of older files beyond `step`."""
        # tensorboardX's SummaryWriter writes in a thread of its own, so that a killed process would lose metrics.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.step = step
        self.folder.mkdir(exist_ok=True)
        if step == 0:  # a new run, perhaps in place of another one
            for path in self.folder.glob("events.out.tfevents.*"):
                path.unlink()
        # The name holds the second it is made in, and another run of this process may have started in the same second.
        self.writer = EventsWriter(str(self.folder / "events"), f".{step:012}.{os.getpid()}")
        start = SessionLog(status=SessionLog.START)
        self.writer.write_event(Event(step=step + 1, wall_time=time.time(), session_log=start))
        self.writer.flush()

    def log(self, row: Mapping[str, Any]) -> None:
        """Write the metrics of an update."""
        self.step = row["step"]
        self._write({name: value for name, value in row.items() if name != "step"})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the metrics of the evaluation, and those that the environment and the algorithm reported of it."""
        for group, reported in (
            ("evaluation", summary["eval"]),
            ("evaluation/env", summary["eval"].get("metrics", {})),
            ("algorithm", summary.get("algorithm", {})),
        ):
            numbers = {name: value for name, value in reported.items() if isinstance(value, (int, float))}
            self._write({f"{group}/{name}": value for name, value in numbers.items()})

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()

    def _write(self, scalars: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in scalars.items():
            self.writer.write_event(Event(step=self.step, wall_time=time.time(), summary=scalar(name, value)))
        self.writer.flush()

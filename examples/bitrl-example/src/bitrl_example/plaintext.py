"""A run's metrics as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bitrl


class PlainText(bitrl.Logger):
    """log.txt in the run's directory: "entropy=0.69 step=2048", a line per update."""

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Keep the lines up to `step`: the later ones will come again. One without an end was cut off."""
        self.path = self.directory / "log.txt"
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and step_of(line) <= step]
        self.path.write_text("".join(kept))

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a line."""
        with open(self.path, "a") as file:
            file.write(" ".join(f"{name}={value:.6g}" for name, value in row.items() if name != "step"))
            file.write(f" step={row['step']}\n")


def step_of(line: str) -> int:
    """The step at the end of a line."""
    return int(line.rpartition("step=")[2])

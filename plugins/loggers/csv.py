"""metrics.csv in the run's directory: the rows of metrics.jsonl as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitrl.core.files import write_atomically
from bitrl.core.interfaces import Logger
from bitrl.plugins.loggers import CsvOptions


class Csv(Logger):
    """A row per update. A metric gets its column when it first appears; earlier cells are empty."""

    def __init__(self, options: CsvOptions, directory: Path):
        super().__init__(options, directory)
        self.path = directory / "metrics.csv"
        self.delimiter = "\t" if options.delimiter == "tab" else options.delimiter
        self.columns: list[str] = []

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Keep the rows up to `step`, and the columns that are not empty."""
        rows = [row for row in self._rows() if int(row["step"]) <= step]
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        self._rewrite(rows)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row; where it has new columns, rewrite the whole table."""
        new = [name for name in row if name not in self.columns]
        if new:
            rows = self._rows()
            self.columns += new
            self._rewrite([*rows, row])
            return
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(self._lines([row]))

    def _rows(self) -> list[dict[str, str]]:
        """The complete rows of the file, without their empty cells; a process killed while writing leaves half a
        row.
        """
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        table = csv.DictReader(io.StringIO(whole, newline=""), delimiter=self.delimiter)
        return [{name: cell for name, cell in row.items() if cell} for row in table]

    def _rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        head = [{name: name for name in self.columns}] if self.columns else []
        write_atomically(self.path, self._lines([*head, *rows]))

    def _lines(self, rows: Iterable[Mapping[str, Any]]) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns, delimiter=self.delimiter, lineterminator="\n").writerows(rows)
        return text.getvalue()

"""A run's directory: config.toml, metrics.jsonl, timings.jsonl, samples.jsonl, checkpoints/, summary.json.
Knows nothing of learning.

metrics.jsonl depends on the configuration alone, byte for byte; wall-clock times are in timings.jsonl. Both are flushed
to disk before a checkpoint that covers their rows is written, and the checkpoint says how many rows those are.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bitrl.core.config import Config, load_toml, provenance_in
from bitrl.core.errors import UsageError
from bitrl.core.files import (
    cannot_write,
    make_directory,
    remove,
    remove_unfinished,
    sync,
    sync_directory,
    write_atomically,
)
from bitrl.core.runs.lock import lock
from bitrl.core.wording import program, resuming, setting

METRICS, TIMINGS, CHECKPOINTS, SUMMARY = "metrics.jsonl", "timings.jsonl", "checkpoints", "summary.json"
EVALUATIONS, BEST, SAMPLES = "evaluations.jsonl", "best.safetensors", "samples.jsonl"


class RunStore:
    """One run's directory, locked for this process while it is open.

    Attributes:
        directory: as it was given, for what users read.
        place: where it is, from the root: an environment may change the process's working directory.
    """

    def __init__(self, directory: Path, here: Path | None = None):
        self.directory = directory
        self.place = (here or working_directory()) / directory
        self.checkpoints = self.place / CHECKPOINTS
        self._lock = lock(self.place, self.directory)
        self._rows, self._digest = 0, hashlib.sha256()
        self._lasting: set[str] = set()  # files whose names are on the disk
        for place in (self.place, self.checkpoints):
            remove_unfinished(place)

    @classmethod
    def create(
        cls,
        out: Path | None,
        config: Config,
        provenance: Mapping[str, Any],
        force: bool,
        here: Path | None = None,
        first: Callable[[RunStore], object] = lambda store: None,
    ) -> RunStore:
        """Make the directory of a new run and write its configuration, without which it is no run.

        Args:
            out: the directory; None picks a fresh name under `runs/`.
            config: written to config.toml, defaults included.
            provenance: what else it takes to repeat the run (versions, identities); written beside it.
            force: replace a run that is already there.
            here: what `out` is relative to; None: the working directory.
            first: writes what the run cannot go on without, before the configuration is written.

        Raises:
            UsageError: the directory holds a run (and not `force`), or something that is not a run.
            RunFailed: it cannot be written, or the run that it replaces cannot be removed.
        """
        text = as_toml({**config.as_dict(), "provenance": provenance})
        here = here or working_directory()
        directory = out if out is not None else _fresh_name(config, here)
        place = here / directory
        if place.is_file():
            raise UsageError(f"{directory}: is a file: choose another directory with {setting('out')}")
        try:
            # A run killed before it wrote its configuration left nothing that matters, where its lock says that it was
            # a run.
            nothing = (".lock", ".config.toml.", *((CHECKPOINTS,) if (place / ".lock").is_file() else ()))
            occupied = place.is_dir() and any(not path.name.startswith(nothing) for path in place.iterdir())
        except OSError as error:
            raise cannot_write(directory, error) from None
        if occupied and not (place / "config.toml").exists() and not (place / ".lock").is_file():
            raise UsageError(
                f"{directory}: is not empty and does not hold a run: choose another directory with {setting('out')}"
            )
        if occupied and not force:
            raise UsageError(
                f"{directory}: already holds a run: continue it with {resuming(directory)}, or replace it with "
                f"{setting('force')}"
            )
        try:
            make_directory(place)
        except OSError as error:
            raise cannot_write(directory, error) from None
        store = cls(directory, here)
        try:
            # The configuration first: without it, what cannot be removed is no run that could be resumed or evaluated.
            for name in ("config.toml", SUMMARY, METRICS, TIMINGS, EVALUATIONS, SAMPLES, BEST, CHECKPOINTS):
                remove(store.place / name)
            store._sync()  # or a power cut might leave what was there beside the new configuration
            first(store)
            write_atomically(store.place / "config.toml", text)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, directory: Path) -> RunStore:
        """Open an existing run, to continue it.

        Raises:
            UsageError: there is no run, or another process has it open.
        """
        require_run(directory)
        return cls(directory)

    def close(self) -> None:
        """Release the directory for other processes."""
        self._lock.close()

    def log(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl and one to timings.jsonl."""
        for name, row in ((METRICS, metrics), (TIMINGS, timing)):
            line = json.dumps(row) + "\n"
            self.append(name, line)
            if name == METRICS:
                self._rows += 1
                self._digest.update(line.encode())

    def append(self, name: str, line: str) -> None:
        """Append a line to one of the run's files. Raises RunFailed if it cannot be written."""
        path = self.place / name
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise cannot_write(path, error) from None

    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of evaluations.jsonl, without those that were edited to hold no result."""
        rows = [json.loads(row) for row in _rows(_read(self.place / EVALUATIONS), None)]
        return [row for row in rows if isinstance(row.get("mean_return"), (int, float))]

    def covered(self) -> dict[str, Any]:
        """Flush the rows to disk, for the checkpoint that covers them → what it says of metrics.jsonl: how many rows it
        has, and their SHA-256.

        Raises:
            RunFailed: the disk is full, or a file has gone.
        """
        others = [name for name in (EVALUATIONS, SAMPLES) if (self.place / name).exists()]
        logged = (METRICS, TIMINGS) if self._rows else ()  # a run that learns on has a checkpoint before its first row
        for name in (*logged, *others):
            self._sync(name)
        if not self._lasting.issuperset((*logged, *others)):  # a file's own sync may leave its name behind
            self._sync()
            self._lasting |= {*logged, *others}
        return {"rows": self._rows, "sha256": self._digest.hexdigest()}

    def _sync(self, name: str = "") -> None:
        """Flush one of the run's files or directories to disk, by default its own directory."""
        path = self.place / name
        try:
            (sync_directory if path.is_dir() else sync)(path)
        except OSError as error:
            raise cannot_write(path, error) from None

    def rewind(self, step: int, covered: Mapping[str, Any] | None) -> list[str]:
        """Forget the rows written after the checkpoint at `step`, which will be written again, and what is no row.

        Args:
            step: 0 for a start from the beginning.
            covered: what the checkpoint says of metrics.jsonl (`covered()`, or at least `rows`); None where there is no
                checkpoint.

        Returns:
            What is missing, a line for each file.
        """
        missing = []
        for name in (EVALUATIONS, SAMPLES):
            data = _read(self.place / name)
            if data and (text := b"".join(_rows(data, step))) != data:
                write_atomically(self.place / name, text)
        for name in (METRICS, TIMINGS):
            path = self.place / name
            data, kept = _read(path), _rows(_read(path), step)
            text = b"".join(kept)
            if text != data:
                write_atomically(path, text)
            lost = (covered or {}).get("rows", 0) - len(kept)
            if name == METRICS:
                self._rows, self._digest = len(kept), hashlib.sha256(text)
            if lost > 0:
                what = "" if name == METRICS else "; the times and speeds of the summary are without them"
                missing.append(
                    f"{self.directory / name}: {lost:,} of the {lost + len(kept):,} rows up to step {step:,} are "
                    f"missing or damaged (a power cut, an edit?): training goes on exactly, without these rows{what}"
                )
            elif (
                name == METRICS
                and covered
                and covered.get("sha256", self._digest.hexdigest()) != (self._digest.hexdigest())
            ):
                missing.append(
                    f"{self.directory / name}: its rows up to step {step:,} are not those that the run wrote: training "
                    "goes on exactly, behind these rows"
                )
        return missing

    @property
    def rows(self) -> int:
        """How many rows metrics.jsonl has."""
        return self._rows

    def seconds(self) -> float:
        """The seconds that training has taken, by timings.jsonl."""
        rows = _rows(_read(self.place / TIMINGS), None)
        seconds = json.loads(rows[-1]).get("seconds") if rows else None
        return float(seconds) if isinstance(seconds, (int, float)) and math.isfinite(seconds) else 0.0

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json: the run is complete, and no one removes superfluous checkpoints any more."""
        if self.checkpoints.is_dir():
            self._sync(CHECKPOINTS)
        write_atomically(self.place / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def extend(self, steps: int) -> None:
        """Make it a run of `steps` steps, which is not complete; its provenance keeps how many it had."""
        written = load_toml(self.place / "config.toml")
        run = written.setdefault("run", {})
        if (before := run.get("steps")) != steps:
            provenance = written.setdefault("provenance", {})
            if before is not None:
                provenance["extended_from"] = [*provenance.get("extended_from", []), before]
            run["steps"] = steps
            write_atomically(self.place / "config.toml", as_toml(written))
        remove(self.place / SUMMARY)

    def set_memory_limit(self, limit: str | None) -> None:
        """Write another memory limit into its config.toml."""
        written = load_toml(self.place / "config.toml")
        written.setdefault("run", {})["memory_limit"] = "none" if limit is None else limit
        write_atomically(self.place / "config.toml", as_toml(written))


def as_toml(data: Mapping[str, Any]) -> str:
    """Plain data as TOML. Imported here: reading a run needs no writer of it."""
    import tomli_w

    return tomli_w.dumps(data)


def require_run(directory: Path) -> None:
    """Refuse a directory that is not a run."""
    if not (directory / "config.toml").is_file():
        raise UsageError(
            f"{directory}: not a run (no config.toml): give the directory of a run, as printed by {program()} run"
        )


def read_provenance(directory: Path) -> dict[str, Any]:
    """The `[provenance]` section of a run's config.toml."""
    return provenance_in(directory / "config.toml")


def read_summary(directory: Path) -> dict[str, Any] | None:
    """A run's summary.json; None while the run is not complete.

    Raises:
        ValueError: it is damaged; the message says so in a line.
    """
    path = directory / SUMMARY
    try:
        summary = json.loads(path.read_bytes())
        mean = summary["eval"]["mean_return"]
        if not math.isfinite((0 if mean is None else mean) + summary["steps"]):  # None: it was not evaluated
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: is damaged") from None
    found: dict[str, Any] = summary
    return found


def last_step(directory: Path) -> int:
    """The step of the last whole row of metrics.jsonl; 0 before the first."""
    rows = _rows(_read(directory / METRICS), None)
    return int(json.loads(rows[-1])["step"]) if rows else 0


def _read(path: Path) -> bytes:
    """The file's bytes; none where there is no such file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


def _rows(data: bytes, up_to_step: int | None) -> list[bytes]:
    """The lines that are whole rows, those beyond `up_to_step` left out.

    A process that is killed leaves half a line at the end; a power cut leaves zeros, and parts of lines.
    """
    rows = []
    for line in data.splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
            if isinstance(step, int) and line.endswith(b"\n") and (up_to_step is None or step <= up_to_step):
                rows.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return rows


def working_directory() -> Path:
    """The working directory, from the root; as relative paths have it where it was deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()


def _fresh_name(config: Config, here: Path) -> Path:
    """runs/CartPole-v1-bitnet-json-ppo-seed0, with -2, -3 … behind it if taken."""
    run = config.run
    critic = () if run.critic_backbone is None else ("critic", run.critic_backbone)
    parts = (run.env, run.backbone, *critic, run.serializer, run.algo, f"seed{run.seed}")
    name = "-".join(re.sub(r"[^A-Za-z0-9_.-]+", "_", str(part)) for part in parts)
    try:
        make_directory(here / "runs")
    except OSError as error:
        raise cannot_write(Path("runs"), error) from None
    number = 1
    while True:
        directory = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            (here / directory).mkdir()
            sync_directory(here / directory.parent)
            return directory
        except FileExistsError:
            number += 1
        except OSError as error:
            raise cannot_write(directory, error) from None

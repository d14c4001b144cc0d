"""A run's directory: config.toml, metrics.jsonl, timings.jsonl, checkpoints/, summary.json. Knows nothing of learning.

metrics.jsonl depends on the configuration alone, byte for byte; wall-clock times are in timings.jsonl.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import tomli_w

from bitrl.core.config import Config, read_toml
from bitrl.core.errors import UsageError
from bitrl.core.files import cannot_write, remove_unfinished, write_atomically
from bitrl.core.wording import program, resuming, setting

FILES = ("config.toml", "metrics.jsonl", "timings.jsonl", "summary.json", ".lock")


class RunStore:
    """One run's directory, locked for this process while it is open."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.checkpoints = directory / "checkpoints"
        self._lock = self._take_lock()
        for place in (self.directory, self.checkpoints):
            remove_unfinished(place)

    @classmethod
    def create(cls, out: Path | None, config: Config, provenance: Mapping[str, Any], force: bool) -> RunStore:
        """Make the directory of a new run and write its configuration.

        Args:
            out: the directory; None picks a fresh name under `runs/`.
            config: written to config.toml, defaults included.
            provenance: what else it takes to repeat the run (versions, identities); written beside it.
            force: replace a run that is already there.

        Raises:
            UsageError: the directory holds a run (and not `force`), or something that is not a run.
            RunFailed: it cannot be written.
        """
        directory = out if out is not None else _fresh_name(config)
        if directory.is_file():
            raise UsageError(f"{directory}: is a file: choose another directory with {setting('out')}")
        # A run killed before it wrote its configuration left nothing that matters.
        nothing = (".lock", ".config.toml.")
        occupied = directory.is_dir() and any(not path.name.startswith(nothing) for path in directory.iterdir())
        if occupied and not (directory / "config.toml").is_file() and not (directory / ".lock").is_file():
            raise UsageError(
                f"{directory}: is not empty and does not hold a run: choose another directory with {setting('out')}"
            )
        if occupied and not force:
            raise UsageError(
                f"{directory}: already holds a run: continue it with {resuming(directory)}, or replace it with "
                f"{setting('force')}"
            )
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(directory, error) from None
        store = cls(directory)
        for name in FILES[:-1]:
            (directory / name).unlink(missing_ok=True)
        shutil.rmtree(store.checkpoints, ignore_errors=True)
        data = {**config.as_dict(), "provenance": provenance}
        write_atomically(directory / "config.toml", tomli_w.dumps(data))
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

    def provenance(self) -> dict[str, Any]:
        """The `[provenance]` that the run was created with."""
        return read_provenance(self.directory)

    def log(self, metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Append one row to metrics.jsonl and one to timings.jsonl."""
        for name, row in (("metrics.jsonl", metrics), ("timings.jsonl", timing)):
            path = self.directory / name
            try:
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise cannot_write(path, error) from None

    def rows(self, name: str, up_to_step: int | None = None) -> list[dict[str, Any]]:
        """The whole rows of metrics.jsonl or timings.jsonl, those beyond `up_to_step` left out."""
        path = self.directory / name
        rows: list[dict[str, Any]] = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                row = json.loads(line)
            except ValueError:
                break  # the process was killed while it wrote this line
            if up_to_step is None or row["step"] <= up_to_step:
                rows.append(row)
        return rows

    def rewind(self, step: int) -> None:
        """Forget the rows written after the checkpoint at `step`: they will be written again."""
        for name in ("metrics.jsonl", "timings.jsonl"):
            rows = self.rows(name, step)
            write_atomically(self.directory / name, "".join(json.dumps(row) + "\n" for row in rows))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json: the run is complete."""
        write_atomically(self.directory / "summary.json", json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """summary.json, or None while the run is not complete."""
        path = self.directory / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _take_lock(self) -> IO[str]:
        path = self.directory / ".lock"
        try:
            lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held open as long as the lock)
        except OSError as error:
            raise cannot_write(path, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise UsageError(f"{self.directory}: is in use by process {holder}: wait for it, or stop it") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        return lock


def require_run(directory: Path) -> None:
    """Refuse a directory that is not a run."""
    if not (directory / "config.toml").is_file():
        raise UsageError(
            f"{directory}: not a run (no config.toml): give the directory of a run, as printed by {program()} run"
        )


def read_provenance(directory: Path) -> dict[str, Any]:
    """The `[provenance]` section of a run's config.toml."""
    import tomllib

    read_toml(directory / "config.toml")  # reports what is wrong, if anything
    written = tomllib.loads((directory / "config.toml").read_text(encoding="utf-8"))
    provenance: dict[str, Any] = written.get("provenance", {})
    return provenance


def _fresh_name(config: Config) -> Path:
    """runs/CartPole-v1-bitnet-json-ppo-seed0, with -2, -3 … behind it if taken."""
    run = config.run
    critic = () if run.critic_backbone is None else ("critic", run.critic_backbone)
    parts = (run.env, run.backbone, *critic, run.serializer, run.algo, f"seed{run.seed}")
    name = "-".join(re.sub(r"[^A-Za-z0-9_.-]+", "_", str(part)) for part in parts)
    number = 1
    while True:
        directory = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            directory.mkdir(parents=True)
            return directory
        except FileExistsError:
            number += 1
        except OSError as error:
            raise cannot_write(directory, error) from None

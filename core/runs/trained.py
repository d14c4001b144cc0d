"""A trained run: its newest intact checkpoint, restored for acting."""

from __future__ import annotations

from pathlib import Path

from bitrl.core import events
from bitrl.core.acting import checkpoints
from bitrl.core.acting.checkpoints import Checkpoint
from bitrl.core.config import Config, read_toml, resolve, without_loggers
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Algorithm
from bitrl.core.runs.listeners import Listener
from bitrl.core.runs.parts import Parts, begin, build, identities
from bitrl.core.runs.store import read_provenance
from bitrl.core.wording import resuming, setting


def trained(directory: Path, tell: Listener) -> tuple[Config, Parts, Algorithm]:
    """The configuration, parts and algorithm of a run, from its newest intact checkpoint, for acting without learning.

    Raises:
        UsageError: no checkpoint there, or its model is not the one it was trained with.
        RunFailed: every checkpoint is damaged.
    """
    config = resolve(without_loggers(read_toml(directory / "config.toml")), saved=True)
    checkpoint = newest_good(directory, tell)
    if checkpoint is None:
        raise UsageError(
            f"{directory}: has no checkpoint yet: let it train longer, or continue it with {resuming(directory)}"
        )
    parts = build(config)
    check_identity(directory, parts)
    algorithm = begin(config, parts, checkpoint, to_learn=False)
    algorithm.task.collector.envs.close()
    return config, parts, algorithm


def newest_good(directory: Path, tell: Listener) -> Checkpoint | None:
    """The newest intact checkpoint, or None if there is none at all; damaged ones are reported and skipped.

    Raises:
        RunFailed: there are checkpoints, and all are damaged.
    """
    found = list(checkpoints.newest_first(directory / "checkpoints"))
    for path, checkpoint in found:
        if isinstance(checkpoint, checkpoints.Checkpoint):
            return checkpoint
        tell(events.CheckpointSkipped(directory, path, str(checkpoint)))
    if found:
        raise RunFailed(
            f"{directory / 'checkpoints'}: every checkpoint is damaged: start the run again with {setting('force')}"
        )
    return None


def check_identity(directory: Path, parts: Parts) -> None:
    """Refuse to continue with features other than those the run was started with."""
    provenance, now = read_provenance(directory), identities(parts)
    for name, part in (("features", "its backbone"), ("critic_features", "its critic's backbone")):
        old, new = provenance.get(name, {}), now.get(name, {})
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if changed:
            raise UsageError(
                f"{directory}: {part} is not the one it was trained with ({', '.join(changed)} changed): "
                "restore the original model, or train again"
            )

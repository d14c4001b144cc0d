"""A trained run: its newest intact checkpoint, restored for acting."""

from __future__ import annotations

import json
from pathlib import Path

from bitrl.core import events
from bitrl.core.acting import checkpoints
from bitrl.core.acting.checkpoints import Checkpoint
from bitrl.core.acting.states import identity_changes
from bitrl.core.config import Config, read_toml, resolve, without_loggers
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Algorithm
from bitrl.core.options import shown
from bitrl.core.provided import announce_module, check_provided
from bitrl.core.runs.checkpoint_checks import check
from bitrl.core.runs.listeners import Listener
from bitrl.core.runs.memory_limit import MemoryLimit
from bitrl.core.runs.parts import Parts, begin, build, identities_of_run
from bitrl.core.runs.store import BEST, last_step, read_provenance
from bitrl.core.wording import resuming, setting

MOST_CHANGES = 3
"""How many changed options an error names."""


def trained(
    directory: Path, tell: Listener, best: bool = False, memory_limit: str | None = None
) -> tuple[Config, Parts, Algorithm, MemoryLimit]:
    """The configuration, parts and algorithm of a run, for acting without learning, and the limit of memory that they
    fit into, the run's own or another: from its newest intact checkpoint, or from that of the best evaluation while
    training.

    Raises:
        UsageError: no checkpoint there, its model is not the one it was trained with, or memory is too little.
        RunFailed: every checkpoint is damaged.
    """
    config = configuration(directory, memory_limit=memory_limit, loggers=False)
    checkpoint = _best(directory, config) if best else newest_good(directory, tell)
    if checkpoint is None:
        raise UsageError(
            f"{directory}: has no checkpoint yet: let it train longer, or continue it with {resuming(directory)}"
        )
    check_options(directory, config, checkpoint)
    memory = MemoryLimit(config, learns=False)
    parts = build(config)
    memory.measure("model")
    check_identity(directory, parts)
    algorithm = begin(config, parts, checkpoint, to_learn=False)
    algorithm.task.collector.envs.close()
    memory.measure("learner")
    memory.complete(algorithm)
    return config, parts, algorithm, memory


def _best(directory: Path, config: Config) -> Checkpoint:
    """The checkpoint of the best evaluation while training."""
    path = directory / BEST
    if not path.is_file():
        every, step = config.run.eval_every, last_step(directory)
        train = f"train with {setting('run.eval_every', 'STEPS')}"
        if every is not None and step < every:
            train = f"it has trained for {step:,} steps, and is evaluated every {every:,} (run.eval_every)"
        elif every is not None:
            train = f"no evaluation while training has ended yet, or {BEST} was removed"
        raise UsageError(
            f"{directory}: has no best checkpoint: {train}; leave out {setting('best')} for the newest one"
        )
    try:
        found = checkpoints.read(path)
        if not isinstance(found.meta, dict) or type(found.meta.get("step")) is not int:
            raise checkpoints.DamagedCheckpoint("it does not say its step")
        check(found)
        return found
    except checkpoints.DamagedCheckpoint as error:
        raise RunFailed(f"{path}: is damaged ({error}): leave out {setting('best')} for the newest one") from None


def configuration(
    directory: Path, *, steps: int | None = None, memory_limit: str | None = None, loggers: bool = True
) -> Config:
    """The resolved configuration of a run: with other `steps` and another `memory_limit` if given, and with its loggers
    if it is trained on.

    Raises:
        UsageError: its config.toml is wrong, or a plugin that it names is not installed.
    """
    file = directory / "config.toml"
    values = read_toml(file)
    check_provided(f"{directory}: the run", values.get("run", {}), read_provenance(directory))
    announce_module(file, values)
    given = {"steps": steps, "memory_limit": memory_limit}
    values.setdefault("run", {}).update({name: value for name, value in given.items() if value is not None})
    return resolve(values if loggers else without_loggers(values), saved=True)


def check_options(directory: Path, config: Config, checkpoint: Checkpoint) -> None:
    """Refuse a configuration whose options, but the free ones, are not those that the checkpoint was trained with."""
    # Before 0.2 a checkpoint did not say more of them.
    before = checkpoint.meta.get("options", {"run": {"num_envs": len(checkpoint.meta["starts"])}})
    now = json.loads(json.dumps(config.kept()))
    changed = [
        f"{part}.{name} was {shown(old)} and is {shown(now[part][name])}"
        for part, options in before.items()
        for name, old in options.items()
        if name in now.get(part, {}) and now[part][name] != old
    ]
    if changed:
        more = f" and {len(changed) - MOST_CHANGES} more" if len(changed) > MOST_CHANGES else ""
        raise UsageError(
            f"{directory / 'config.toml'}: was edited since the run began: {', '.join(changed[:MOST_CHANGES])}{more}: "
            f"write back what was there, or start a new run with {setting('config')}"
        )


def newest_good(directory: Path, tell: Listener) -> Checkpoint | None:
    """The newest intact checkpoint, or None if there is none at all; damaged ones are reported and skipped.

    Raises:
        RunFailed: there are checkpoints, and all are damaged.
    """
    damaged = False
    for path, checkpoint in checkpoints.newest_first(directory / "checkpoints"):
        if isinstance(checkpoint, checkpoints.Checkpoint):
            try:
                check(checkpoint)
                return checkpoint
            except checkpoints.DamagedCheckpoint as error:
                checkpoint = error
        damaged = True
        tell(events.CheckpointSkipped(directory, path, str(checkpoint)))
    if damaged:
        raise RunFailed(
            f"{directory / 'checkpoints'}: every checkpoint is damaged: start the run again with {setting('force')}"
        )
    return None


def check_identity(directory: Path, parts: Parts) -> None:
    """Refuse to continue with features, or an environment's files, other than those the run was started with."""
    provenance, now = read_provenance(directory), identities_of_run(parts)
    for name, part, original in (
        ("features", "its backbone", "model"),
        ("critic_features", "its critic's backbone", "model"),
        ("environment", "its environment", "file"),
    ):
        old, new = provenance.get(name, {}), now.get(name, {})
        if name == "environment" and name not in provenance:
            continue  # before 0.2 it was not recorded
        if new and name not in provenance:
            raise UsageError(
                f"{directory / 'config.toml'}: lacks [provenance.{name}], which says what {part} was when it was "
                "trained (was the file edited?): write back what was there, or train again"
            )
        if changed := identity_changes(old, new):
            raise UsageError(
                f"{directory}: {part} is not the one it was trained with ({', '.join(changed)} changed): "
                f"restore the original {original}, or train again"
            )

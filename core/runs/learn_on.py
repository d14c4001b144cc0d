"""Learns on from an exported agent: in another process, on another machine, in another environment that gives the same
kind of observations. A robot that was trained in simulation goes on in its own surroundings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from bitrl.core import events
from bitrl.core.acting import agents, checkpoints
from bitrl.core.acting.agent_checks import LEARNER
from bitrl.core.acting.checkpoints import Checkpoint, with_prefix
from bitrl.core.acting.states import identity_changes
from bitrl.core.config import Config, overlay, resolve
from bitrl.core.errors import BitrlError, UsageError, cause
from bitrl.core.interfaces import Algorithm
from bitrl.core.options import shown
from bitrl.core.provided import announce_module, check_provided
from bitrl.core.runs.interrupts import stopped_at_once
from bitrl.core.runs.listeners import Listener, teller
from bitrl.core.runs.memory_limit import MemoryLimit
from bitrl.core.runs.parts import Parts, begin, build, checkpoint_of, closed_unless_done, identities
from bitrl.core.runs.progress import progress_display
from bitrl.core.runs.store import RunStore, working_directory
from bitrl.core.runs.train import settings_of, stored, train
from bitrl.core.terminal import printable
from bitrl.core.wording import program, setting

REPLACED = ("serializer", "backbone", "critic_backbone", "algo")
"""Components whose options another one does not have."""
KEPT = (*REPLACED, "history", "history_tokens")
"""Options of a run on which it depends what an agent's weights mean."""


def learn_on(
    agent: str | Path,
    *,
    env: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    with_optimizer: bool = False,
    listeners: tuple[Listener, ...] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """Learn on from an agent that `bitrl.export` wrote, in a new run that begins at the agent's step; return its
    summary.

    Args:
        agent: its file.
        env: another environment than the agent's; its observations must have the same names and shapes.
        steps: train until so many environment steps have been taken, those of the agent included.
        seed: another random seed of the environments.
        out, force, options, listeners, progress: as `bitrl.run`.
        with_optimizer: refuse an agent that was exported without its optimizer, instead of beginning with a new one.

    Raises:
        UsageError: no agent there, it cannot learn on here, or an argument is wrong. RunFailed: training could not go
            on.
    """
    given = settings_of({"env": env, "steps": steps, "seed": seed}, options)
    with progress_display(quiet=not progress) as display:
        place = None if out is None else Path(out)
        return go_on_from(Path(agent), given, {}, place, force, with_optimizer, (*listeners, display))


@stopped_at_once()
def go_on_from(
    path: Path,
    given: Mapping[str, Mapping[str, Any]],
    text: Mapping[str, frozenset[str]],
    out: Path | None,
    force: bool,
    with_optimizer: bool,
    listeners: tuple[Listener, ...] = (),
) -> dict[str, Any]:
    """Learn on from the agent in a file with `given` settings; `text` as in `resolve`. See `learn_on`."""
    here = working_directory()
    file = agents.read(path)
    learner = _learner(path, file, with_optimizer)
    step: int = file.meta["step"]
    config = _configuration(path, file, learner["config"], given, text)
    if config.run.steps <= step:
        asked = setting("steps", "N")
        raise UsageError(f"{path}: has already learned for {step:,} steps: ask for more with {asked}")
    memory = MemoryLimit(config)
    parts = build(config)
    memory.measure("model")
    _check_parts(path, file, learner, parts)
    for chosen in config.loggers:
        chosen.record.load()
    algorithm = _restored(path, file, config, parts, step)
    origin = {"file": printable(path.name, keep=""), "sha256": file.sha256, "step": step}
    del file  # its arrays are the algorithm's by now
    begun: list[Mapping[str, Any]] = []

    def first(store: RunStore) -> None:
        """So that a run that is stopped before its first update goes on from the agent, too."""
        checkpoint = checkpoint_of(config, algorithm, 0, store.covered())
        checkpoints.write(store.checkpoints, step, checkpoint)
        begun.append(checkpoint.meta)

    with closed_unless_done(algorithm.task.collector.envs):
        memory.measure("learner")
        memory.complete(algorithm)
        with stored(config, parts, out, force, {"agent": origin}, here, first) as (store, logger):
            tell = teller((*listeners, logger))
            if not learner["optimizer"]:
                told = f"{path}: was exported without its optimizer: a new one begins"
                tell(events.Chosen(store.directory, told))
            return train(config, parts, store, algorithm, begun[0], (*listeners, logger), memory)


def _learner(path: Path, file: Checkpoint, with_optimizer: bool) -> Mapping[str, Any]:
    """What the file says of how its agent learned."""
    learner = file.meta.get(LEARNER)
    if learner is None:
        raise UsageError(
            f"{path}: holds nothing to learn on from: export its run again with {program()} export, without "
            f"{setting('bitdelta')}"
        )
    try:
        sections = learner["config"]
        features = learner["features"]
        tables = (features, *features.values(), sections, sections["run"], *sections.values())
        whole = all(isinstance(each, dict) for each in tables)
        whole = whole and type(learner["optimizer"]) is bool and type(file.meta["step"]) is int
    except (TypeError, KeyError, AttributeError):
        whole = False
    if not whole or file.meta["step"] < 0:
        raise UsageError(f"{path}: what it says of how its agent learned is damaged: export its run again")
    if with_optimizer and not learner["optimizer"]:
        raise UsageError(
            f"{path}: was exported without its optimizer: export its run again with {setting('with_optimizer')}, or "
            f"begin with a new optimizer by leaving out {setting('with_optimizer')} here"
        )
    found: Mapping[str, Any] = learner
    return found


def _configuration(
    path: Path,
    file: Checkpoint,
    saved: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Mapping[str, Any]],
    text: Mapping[str, frozenset[str]],
) -> Config:
    """The agent's configuration with what is given in its place.

    Raises:
        UsageError: what is given would change how the agent reads states, or what its weights are.
    """
    check_provided(f"{path}: the agent", saved.get("run", {}), file.meta)
    for name, value in given.get("run", {}).items():
        if name in REPLACED and value != saved["run"].get(name):
            raise _stays(path, f"run.{name}", saved["run"].get(name), value)
    values, _ = overlay(saved, given)
    if given.get("run", {}).get("env") is None:
        announce_module(path, values)
    config = resolve(values, text, saved=True)
    now = json.loads(json.dumps(config.kept()))
    for part in ("run", "serializer", "backbone", "critic_backbone"):
        before = saved.get(part, {})
        for name, value in now.get(part, {}).items():
            if (part != "run" or name in KEPT) and before.get(name, value) != value:
                raise _stays(path, f"{part}.{name}", before[name], value)
    return config


def _stays(path: Path, name: str, before: Any, now: Any) -> UsageError:
    return UsageError(
        f"{path}: learned with {name} {shown(before)}, and cannot go on with {shown(now)}: leave that out, or train a "
        "new agent"
    )


def _check_parts(path: Path, file: Checkpoint, learner: Mapping[str, Any], parts: Parts) -> None:
    """Refuse an environment that gives other observations, and a backbone that gives other features."""
    recorded = file.meta["observation"]
    here = json.loads(json.dumps(attrs.asdict(parts.environment.observation_spec())))
    differing = [name for name in here if name not in ("env", "env_options") and recorded.get(name) != here[name]]
    if differing:
        raise UsageError(
            f"{path}: reads observations of {str(file.meta.get('env'))[:80]}, and those of {parts.environment.id} "
            f"differ in {', '.join(differing)}: choose an environment whose numbers have the same names and bounds"
        )
    now = identities(parts)
    for name in learner["features"].keys() | now.keys():
        changed = identity_changes(learner["features"].get(name, {}), now.get(name, {}))
        if changed:
            raise UsageError(
                f"{path}: its backbone is not the one it learned with ({', '.join(changed)} changed): give its model "
                f"file with {setting('backbone.model', 'FILE')}"
            )


def _restored(path: Path, file: Checkpoint, config: Config, parts: Parts, step: int) -> Algorithm:
    """The algorithm as the agent's file has it, in environments that have just been reset."""
    serializer: Any = parts.reader.serializer
    with _fitting(path):
        if config.serializer.learns:
            serializer.load_state(with_prefix(file.arrays, "serializer."))
    algorithm = begin(config, parts)
    algorithm.task.collector.steps = step
    with closed_unless_done(algorithm.task.collector.envs), _fitting(path):
        algorithm.load_state(with_prefix(file.arrays, f"{LEARNER}."))
    return algorithm


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Within, what a component says of weights that are not its own is the fault of the file, or of options."""
    try:
        yield
    except (BitrlError, MemoryError):
        raise
    except Exception as error:
        raise UsageError(
            f"{path}: cannot be restored ({cause(error)[:200]}): its weights do not fit this configuration: leave out "
            "options that change the networks, or export its run again"
        ) from error

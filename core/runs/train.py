"""Training a run, from the beginning or from where it stopped: update, checkpoint, evaluate, summarise."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitrl.core import events
from bitrl.core.acting import checkpoints
from bitrl.core.config import COMPONENTS, Config, overlay, read_toml, resolve
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Algorithm
from bitrl.core.records import BackboneRecord
from bitrl.core.runs.evaluate import play, reported, statistics
from bitrl.core.runs.interrupts import interrupts
from bitrl.core.runs.listeners import Listener, open_loggers, teller
from bitrl.core.runs.parts import Parts, begin, build, checkpoint_of, identities
from bitrl.core.runs.progress import progress_display
from bitrl.core.runs.provenance import git_commit, packages_of, peak_rss_mb, versions
from bitrl.core.runs.store import RunStore
from bitrl.core.runs.trained import check_identity, newest_good
from bitrl.core.wording import resuming


def run(
    env: str | None = None,
    *,
    backbone: str | None = None,
    critic_backbone: str | None = None,
    serializer: str | None = None,
    algo: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    loggers: tuple[str, ...] | None = None,
    listeners: tuple[Listener, ...] = (),
    progress: bool = False,
) -> dict[str, Any]:
    """Train an agent, evaluate it, and return its summary (the same as summary.json in the run's directory).

    Args:
        env, backbone, critic_backbone, serializer, algo: names as `bitrl list` prints them; unset ones take the
            defaults, which for the critic is the policy's backbone.
        steps: environment steps to train for.
        seed: random seed.
        out: the run's directory; None picks a fresh one under `runs/`.
        config: a TOML file; the other arguments take precedence over it. Where they name another component,
            options of the file that this component does not have are ignored.
        options: more settings by path, for example `{"algo.clip_coef": 0.2}`.
        force: replace a run that is already in `out`.
        loggers: names of loggers that receive the metrics, for example ("csv", "tensorboard").
        listeners: called with every event (bitrl.core.events); with those of every single step if marked by
            `bitrl.every_step`.
        progress: show how far it is on stderr.

    Raises:
        UsageError: an argument is wrong. RunFailed: training could not go on.
    """
    values: dict[str, dict[str, Any]] = {}
    named = {
        "env": env,
        "backbone": backbone,
        "critic_backbone": critic_backbone,
        "serializer": serializer,
        "algo": algo,
        "steps": steps,
        "seed": seed,
        "loggers": loggers,
    }
    for path, value in (options or {}).items():
        part, dot, name = path.rpartition(".")
        if not dot:
            raise UsageError(f'option "{path}": expected part.option, for example "algo.clip_coef"')
        values.setdefault(part, {})[name] = value
    values.setdefault("run", {}).update({name: value for name, value in named.items() if value is not None})
    values, _ = overlay(read_toml(Path(config)) if config else {}, values)
    with progress_display(quiet=not progress) as shown:
        return start(resolve(values), Path(out) if out is not None else None, force, (*listeners, shown))


def start(config: Config, out: Path | None, force: bool, listeners: tuple[Listener, ...] = ()) -> dict[str, Any]:
    """Run a resolved configuration from the beginning. Nothing is written before all its parts are built."""
    parts = build(config)
    if config.serializer.learns:  # it learns now, and fails now if it cannot
        serializer: Any = parts.reader.serializer
        serializer.state()
    for chosen in config.loggers:
        chosen.record.load()
    algorithm = begin(config, parts)
    try:
        # Everything is imported by now, so import errors are reported before anything is written.
        provenance = {"versions": versions(packages_of(config)), **identities(parts), **git_commit()}
        store = RunStore.create(out, config, provenance, force)
    except BaseException:
        algorithm.task.collector.envs.close()
        raise
    try:
        with open_loggers(config, store.directory) as logger:
            return _train(config, parts, store, algorithm, 0, (*listeners, logger))
    finally:
        store.close()


def resume(run: str | Path, listeners: tuple[Listener, ...] = (), progress: bool = False) -> dict[str, Any]:
    """Resume a stopped run: it continues bit-identically to an uninterrupted one. A complete run returns its summary.

    Args:
        run: its directory.
        listeners, progress: see `run`.

    Raises:
        UsageError: no run there, it is in use, or its model is not the one it was started with.
        RunFailed: every checkpoint is damaged, or the environment cannot be restored.
    """
    with progress_display(quiet=not progress) as shown:
        return go_on(Path(run), (*listeners, shown))


def go_on(directory: Path, listeners: tuple[Listener, ...] = ()) -> dict[str, Any]:
    """Go on with the run in a directory; see `resume`."""
    store = RunStore.open(directory)
    try:
        done = store.summary()
        if done is not None:
            return done
        checkpoints.drop_old(store.checkpoints)  # it may have been killed before it did this
        config = resolve(read_toml(directory / "config.toml"), saved=True)
        parts = build(config)
        check_identity(directory, parts)
        checkpoint = newest_good(directory, teller(listeners))
        algorithm = begin(config, parts, checkpoint)
        updates = checkpoint.meta["updates"] if checkpoint is not None else 0
        with open_loggers(config, directory) as logger:
            return _train(config, parts, store, algorithm, updates, (*listeners, logger))
    finally:
        store.close()


def _train(
    config: Config,
    parts: Parts,
    store: RunStore,
    algorithm: Algorithm,
    updates: int,
    listeners: tuple[Listener, ...],
) -> dict[str, Any]:
    """Train from where `algorithm` stands, after `updates` updates, to the end; evaluate; write the summary."""
    directory, run = store.directory, config.run
    tell = teller(listeners)
    with interrupts(lambda: tell(events.Interrupted(directory))) as interrupted:
        algorithm.task.collector.progress = lambda step: tell(events.RolloutStepped(directory, step))
        store.rewind(algorithm.step)
        timings = store.rows("timings.jsonl")
        seconds = timings[-1]["seconds"] if timings else 0.0
        tell(events.RunStarted(directory, config.as_dict(), algorithm.step, run.steps))
        try:
            while algorithm.step < run.steps:
                began = time.perf_counter()
                metrics = algorithm.update()
                seconds += time.perf_counter() - began
                updates += 1
                own = algorithm.task.collector.episode_metrics.take()
                row = {"step": algorithm.step, **metrics, **{f"env.{name}": value for name, value in own.items()}}
                store.log(row, {"step": algorithm.step, "seconds": seconds})
                tell(events.Updated(directory, algorithm.step, row))
                finished = algorithm.step >= run.steps
                if finished or interrupted() or updates % run.checkpoint_every == 0:
                    saved = checkpoint_of(config, algorithm, updates)
                    path = checkpoints.write(store.checkpoints, algorithm.step, saved)
                    tell(events.CheckpointSaved(directory, algorithm.step, path))
                if interrupted() and not finished:
                    raise RunFailed(f"stopped at step {algorithm.step}; continue with: {resuming(directory)}")
        finally:
            algorithm.task.collector.envs.close()
        returns = play(parts, algorithm, run.eval_episodes, run.seed, directory, tell, interrupted)
        if len(returns) < run.eval_episodes:
            raise RunFailed(f"stopped before the evaluation was done; continue with: {resuming(directory)}")
    summary = {
        "run": str(directory),
        **{name: getattr(run, name) for name in (*COMPONENTS, "seed")},
        "steps": algorithm.step,
        "train_seconds": round(seconds, 3),
        "steps_per_second": round(algorithm.step / seconds, 1) if seconds else 0.0,
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "eval": statistics(returns),
        **reported(config, algorithm),
        # Of this process: a resumed run starts with empty caches.
        **_cache_statistics("cache", config.backbone, parts.reader.backbone),
        **_cache_statistics("critic_cache", config.critic_backbone, parts.reader.critic),
    }
    store.finish(summary)
    tell(events.RunFinished(directory, summary))
    return summary


def _cache_statistics(name: str, record: BackboneRecord | None, backbone: Any) -> dict[str, Any]:
    """`{name: …}` if there is a backbone with a feature cache."""
    kept = record is not None and backbone is not None and "cache" in record.provides
    return {name: backbone.cache.statistics()} if kept else {}

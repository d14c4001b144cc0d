"""Training a run, from the beginning or from where it stopped: update, checkpoint, evaluate, summarise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from bitrl.core import events
from bitrl.core.acting import checkpoints
from bitrl.core.acting.contracts import calling, check_metrics
from bitrl.core.config import COMPONENTS, Config, overlay, read_toml, resolve
from bitrl.core.environments.evidence import choose
from bitrl.core.errors import RunFailed, RunStopped, UsageError
from bitrl.core.interfaces import Algorithm
from bitrl.core.provided import check_file
from bitrl.core.records import BackboneRecord
from bitrl.core.runs.evaluate import play, reported, statistics
from bitrl.core.runs.interrupts import interrupts, stopped_at_once
from bitrl.core.runs.listeners import Listener, open_loggers, teller
from bitrl.core.runs.memory_limit import MemoryLimit
from bitrl.core.runs.parts import Parts, begin, build, checkpoint_of, closed_unless_done, identities_of_run
from bitrl.core.runs.periodic import PeriodicEvaluations
from bitrl.core.runs.progress import progress_display
from bitrl.core.runs.provenance import (
    changes_since,
    git_commit,
    packages_of,
    peak_rss_mb,
    plugins_of,
    versions,
)
from bitrl.core.runs.store import SAMPLES, RunStore, read_provenance, read_summary, require_run, working_directory
from bitrl.core.runs.trained import check_identity, check_options, configuration, newest_good
from bitrl.core.schedules import Schedule
from bitrl.core.wording import resuming, setting

MOST_CHANGES = 6
"""How many changed packages a warning names."""


def run(
    env: str | None = None,
    *,
    backbone: str | None = None,
    critic_backbone: str | None = None,
    serializer: str | None = None,
    algo: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    memory_limit: str | None = None,
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
        memory_limit: resident memory that this process may take, as "300MB": planned for, and kept to.
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
    named = {
        "env": env,
        "backbone": backbone,
        "critic_backbone": critic_backbone,
        "serializer": serializer,
        "algo": algo,
        "steps": steps,
        "seed": seed,
        "memory_limit": memory_limit,
        "loggers": loggers,
    }
    values = settings_of(named, options)
    values, _ = overlay(read_toml(Path(config)) if config else {}, values)
    if config:
        check_file(Path(config), values, named)
    with progress_display(quiet=not progress) as shown:
        return start(resolve(values), Path(out) if out is not None else None, force, (*listeners, shown))


def settings_of(named: Mapping[str, Any], options: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Arguments by name, of which None is unset, and options by path, as settings: part → option → value."""
    values: dict[str, dict[str, Any]] = {}
    for path, value in (options or {}).items():
        part, dot, name = path.rpartition(".")
        if not dot:
            raise UsageError(f'option "{path}": expected part.option, for example "algo.clip_coef"')
        values.setdefault(part, {})[name] = value
    values.setdefault("run", {}).update({name: value for name, value in named.items() if value is not None})
    return values


@stopped_at_once()
def start(config: Config, out: Path | None, force: bool, listeners: tuple[Listener, ...] = ()) -> dict[str, Any]:
    """Run a resolved configuration from the beginning. Nothing is written before all its parts are built."""
    here = working_directory()
    memory = MemoryLimit(config)
    config, choices = choose(config)
    parts = build(config)
    memory.measure("model")
    if config.serializer.learns:  # it learns now, and fails now if it cannot
        serializer: Any = parts.reader.serializer
        serializer.state()
    for chosen in config.loggers:
        chosen.record.load()
    algorithm = begin(config, parts)
    with closed_unless_done(algorithm.task.collector.envs):
        memory.measure("learner")
        memory.complete(algorithm)
        with stored(config, parts, out, force, {}, here) as (store, logger):
            tell = teller((*listeners, logger))
            for line in choices:
                tell(events.Chosen(store.directory, line))
            return train(config, parts, store, algorithm, None, (*listeners, logger), memory)


@contextmanager
def stored(
    config: Config,
    parts: Parts,
    out: Path | None,
    force: bool,
    origin: Mapping[str, Any],
    here: Path,
    first: Callable[[RunStore], object] = lambda store: None,
) -> Iterator[tuple[RunStore, Listener]]:
    """The directory of a new run, once all that it needs is built, and its loggers. What it came from is written beside
    its provenance, after what `first` writes.
    """
    # Everything is imported by now, so import errors are reported before anything is written.
    plugins = {"plugins": code} if (code := plugins_of(config)) else {}
    provenance = {
        "versions": versions(packages_of(config)),
        **plugins,
        **identities_of_run(parts),
        **git_commit(),
        **origin,
    }
    store = RunStore.create(out, config, provenance, force, here, first)
    try:
        with open_loggers(config, store.place) as logger:
            yield store, logger
    finally:
        store.close()


def resume(
    run: str | Path,
    listeners: tuple[Listener, ...] = (),
    progress: bool = False,
    *,
    steps: int | None = None,
    memory_limit: str | None = None,
) -> dict[str, Any]:
    """Resume a stopped run: it continues bit-identically to an uninterrupted one. A complete run returns its summary.

    Args:
        run: its directory.
        listeners, progress: see `run`.
        steps: train on to this many environment steps instead of the run's own, a complete run too. Without schedules
            (`linear:3e-4:0`, `algo.anneal`) it ends as one that was started with them; a schedule is from here on that
            of the new length.
        memory_limit: another one from here on; "none" for none.

    Raises:
        UsageError: no run there, it is in use, its model is not the one it was started with, an option that changes
            what it learns was edited in its config.toml, or it has already trained for more than `steps`.
        RunFailed: every checkpoint is damaged, or the environment cannot be restored.
        RunStopped: a signal stopped it.
    """
    with progress_display(quiet=not progress) as shown:
        return go_on(Path(run), (*listeners, shown), steps, memory_limit)


@stopped_at_once()
def go_on(
    directory: Path,
    listeners: tuple[Listener, ...] = (),
    steps: int | None = None,
    memory_limit: str | None = None,
) -> dict[str, Any]:
    """Go on with the run in a directory; see `resume`."""
    require_run(directory)
    tell = teller(listeners)
    written = read_toml(directory / "config.toml").get("run", {}).get("steps")
    done = _finished(directory, tell)
    if done is not None and steps in (None, written) and not (isinstance(written, int) and done["steps"] < written):
        return {**done, "run": str(directory)}  # it may have been moved
    store = RunStore.open(directory)
    try:
        checkpoints.drop_old(store.checkpoints)  # it may have been killed before it did this
        config = configuration(directory, steps=steps, memory_limit=memory_limit)
        checkpoint = newest_good(directory, tell)
        reached = checkpoint.meta["step"] if checkpoint is not None else 0
        if steps is not None and steps < reached:
            raise UsageError(f"{directory}: has already trained for {reached:,} steps: ask for more")
        if checkpoint is None and "agent" in read_provenance(directory):
            again = f"{setting('out', str(directory))} and {setting('force')}"
            raise UsageError(
                f"{directory}: has no checkpoint of the agent that it learns on from: begin again from the agent's "
                f"file, with {again}"
            )
        if checkpoint is None and done is not None:
            raise UsageError(f"{directory}: has no checkpoint to go on from: start the run again with more steps")
        if checkpoint is None:
            tell(events.Warned(directory, f"{directory}: has no checkpoint: it starts from the beginning"))
        else:
            check_options(directory, config, checkpoint)
        memory = MemoryLimit(config)
        parts = build(config)
        memory.measure("model")
        check_identity(directory, parts)
        algorithm = begin(config, parts, checkpoint)
        meta = None if checkpoint is None else checkpoint.meta
        del checkpoint
        with closed_unless_done(algorithm.task.collector.envs):
            memory.measure("learner")
            memory.complete(algorithm)
            if memory_limit is not None:
                store.set_memory_limit(config.run.memory_limit)
            for told in _changed(directory, config):
                tell(events.Warned(directory, f"{directory}: {told}"))
            if config.run.steps != written or done is not None:
                store.extend(config.run.steps)
                if _has_schedules(config):
                    told = f"its schedules are from here on those of {config.run.steps:,} steps: it ends otherwise than"
                    tell(events.Warned(directory, f"{directory}: {told} a run started with them"))
            with open_loggers(config, store.place) as logger:
                return train(config, parts, store, algorithm, meta, (*listeners, logger), memory)
    finally:
        store.close()


def _changed(directory: Path, config: Config) -> Iterator[str]:
    """What is to be told of packages that have changed since a run began, if any have."""
    if changes := changes_since(read_provenance(directory), config):
        more = f" and {len(changes) - MOST_CHANGES} more" if len(changes) > MOST_CHANGES else ""
        yield (
            f"changed since the run began: {', '.join(changes[:MOST_CHANGES])}{more}: it goes on, but may end "
            "otherwise than it would have"
        )


def _finished(directory: Path, tell: Listener) -> dict[str, Any] | None:
    """The summary of a complete run; a damaged one is told of, and made again."""
    try:
        return read_summary(directory)
    except ValueError as error:
        tell(events.Warned(directory, f"{error}: the run is evaluated again"))
        return None


def train(
    config: Config,
    parts: Parts,
    store: RunStore,
    algorithm: Algorithm,
    meta: Mapping[str, Any] | None,
    listeners: tuple[Listener, ...],
    memory: MemoryLimit,
) -> dict[str, Any]:
    """Train from where `algorithm` stands to the end; evaluate; write the summary. `meta` is what the checkpoint that
    left it there says of itself: its arrays are not held while the algorithm learns on, nor are those that are saved.
    """
    directory, run = store.directory, config.run
    tell = teller(listeners)
    updates = 0 if meta is None else meta["updates"]
    # Before 0.2 checkpoints did not say what they cover: a row for each update.
    covered = None if meta is None else meta.get("metrics", {"rows": updates})
    # An agent that learns on here learned its first steps elsewhere.
    elsewhere = read_provenance(store.place).get("agent", {}).get("step", 0)

    def save() -> None:
        checkpoint = checkpoint_of(config, algorithm, updates, store.covered(), evaluations.due)
        path = checkpoints.write(store.checkpoints, algorithm.step, checkpoint)
        tell(events.CheckpointSaved(directory, algorithm.step, path))

    def evaluate() -> None:
        try:
            evaluations(algorithm, updates, lambda: interrupted() > 0)
        except RunFailed as error:  # which takes nothing from what was learned
            save()
            told = f"the evaluation at step {algorithm.step:,} failed: {error}; saved; continue with: "
            raise RunFailed(told + resuming(directory)) from error

    with interrupts(lambda signum: tell(events.Interrupted(directory, signum))) as interrupted:
        algorithm.task.collector.progress = lambda step: tell(events.RolloutStepped(directory, step))
        for missing in store.rewind(algorithm.step, covered):
            tell(events.Warned(directory, missing))
        seconds = store.seconds()
        evaluations = PeriodicEvaluations(config, parts, store, tell, memory)
        evaluations.resumed(algorithm.step, meta is not None and meta.get("evaluation_due", False))
        prompts = parts.environment.observation_spec().prompt
        tell(events.RunStarted(directory, config.as_dict(), algorithm.step, run.steps, prompts))
        if memory.plan is not None:
            tell(events.MemoryPlanned(directory, memory.plan.as_dict(), str(memory.plan)))
        if run.eval_every is not None and run.eval_every > run.steps:
            few = f"run.eval_every: {run.eval_every:,} steps are more than the run's {run.steps:,}: no evaluation comes"
            tell(events.Warned(directory, f"{few} before its end"))
        try:
            evaluate()
            while algorithm.step < run.steps and not evaluations.due:
                began, before = time.perf_counter(), algorithm.step
                metrics = updated(algorithm, before)
                seconds += time.perf_counter() - began
                updates += 1
                own = algorithm.task.collector.episode_metrics.take()
                row = {"step": algorithm.step, **metrics, **{f"env.{name}": value for name, value in own.items()}}
                timings = algorithm.timings()
                store.log(row, {"step": algorithm.step, "seconds": seconds, **timings})
                tell(events.Updated(directory, algorithm.step, row, timings))
                if (sample := algorithm.task.collector.sample) is not None:
                    store.append(SAMPLES, json.dumps({"step": algorithm.step, **attrs.asdict(sample)}) + "\n")
                    tell(events.Sampled(directory, algorithm.step, sample))
                evaluations.stepped(before, algorithm.step)
                evaluate()
                finished = algorithm.step >= run.steps
                gave_way, too_much = memory.exceeded(parts.reader)
                if gave_way:
                    tell(events.Warned(directory, gave_way))
                if finished or too_much or interrupted() or updates % run.checkpoint_every == 0:
                    save()
                if too_much:
                    more = resuming(directory, memory_limit=memory.more())
                    raise RunFailed(f"stopped at step {algorithm.step:,}, saved: {too_much}; go on with more: {more}")
                if interrupted() and not finished:
                    stopped = f"stopped at step {algorithm.step}; continue with: {resuming(directory)}"
                    raise RunStopped(stopped, interrupted())
        finally:
            algorithm.task.collector.envs.close()
        returns = play(
            parts,
            algorithm,
            run.eval_episodes,
            run.seed,
            directory,
            tell,
            lambda: interrupted() > 0,
            max_steps=run.eval_max_steps,
            memory=memory,
        )
        if len(returns) < run.eval_episodes or evaluations.due:
            stopped = f"stopped before the evaluation was done; continue with: {resuming(directory)}"
            raise RunStopped(stopped, interrupted())
    summary = {
        "run": str(directory),
        **{name: getattr(run, name) for name in (*COMPONENTS, "seed")},
        "steps": algorithm.step,
        "train_seconds": round(seconds, 3),
        "steps_per_second": round((algorithm.step - elsewhere) / seconds, 1) if seconds else 0.0,
        "peak_rss_mb": round(peak_rss_mb(), 1),
        **memory.summary(),
        "eval": statistics(returns),
        **({} if evaluations.best is None else {"best_while_training": dict(evaluations.best)}),
        **reported(config, algorithm),
        # Of a run that lost some of its log, and went on.
        **({"metrics_rows_lost": lost} if (lost := updates - store.rows) > 0 else {}),
        # Of this process: a resumed run starts with empty caches.
        **_cache_statistics("cache", config.backbone, parts.reader.backbone),
        **_cache_statistics("critic_cache", config.critic_backbone, parts.reader.critic),
    }
    store.finish(summary)
    tell(events.RunFinished(directory, summary))
    return summary


def _has_schedules(config: Config) -> bool:
    """Whether what is learned depends on how many steps the run has: by a schedule, or by `anneal`."""
    values = attrs.asdict(config.algo_options, recurse=False)
    scheduled = [each for each in values.values() if isinstance(each, Schedule) and each.shape != "constant"]
    return bool(scheduled or values.get("anneal"))


def updated(algorithm: Algorithm, before: int) -> dict[str, float | int]:
    """The metrics of one update of an algorithm that stands at the step `before`.

    Raises:
        RunFailed: it took no environment step, or its metrics are not finite numbers.
    """
    collector = algorithm.task.collector
    with calling(collector.who):
        metrics = algorithm.update()
    metrics = check_metrics(collector.who, metrics)
    if algorithm.step != collector.steps or algorithm.step <= before:
        raise RunFailed(
            f"{collector.who}: update() went from step {before} to {algorithm.step}, while the environments took "
            f"{collector.steps - before} steps: step them by task.collector in every update, and leave `step` to it"
        )
    return metrics


def _cache_statistics(name: str, record: BackboneRecord | None, backbone: Any) -> dict[str, Any]:
    """`{name: …}` if there is a backbone with a feature cache."""
    kept = record is not None and backbone is not None and "cache" in record.provides
    return {name: backbone.cache.statistics()} if kept else {}

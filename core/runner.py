"""Runs: train, checkpoint, resume, evaluate, summarise. The only module that sees all parts at once."""

from __future__ import annotations

import platform
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bitrl.core import events
from bitrl.core.config import Config, read_toml, resolve
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.loading import Parts, build
from bitrl.core.registry import registry
from bitrl.core.store import RunStore, read_provenance, require_run

Listener = Callable[[events.Event], None]

# Every use of randomness has its own stream, so that asking for more of one never shifts another.
ENVIRONMENTS, ALGORITHM, EVALUATION = 0, 1, 2


def run(
    env: str | None = None,
    *,
    backbone: str | None = None,
    serializer: str | None = None,
    algo: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    listeners: tuple[Listener, ...] = (),
) -> dict[str, Any]:
    """Train an agent, evaluate it, and return its summary (the same as summary.json in the run's directory).

    Args:
        env, backbone, serializer, algo: names as `bitrl list` prints them; unset ones take the defaults.
        steps: environment steps to train for.
        seed: of everything random.
        out: the run's directory; None picks a fresh one under `runs/`.
        config: a TOML file to start from; the other arguments win over it.
        options: more settings by path, as `{"algo.clip_coef": 0.2}`.
        force: replace a run that is already in `out`.
        listeners: called with every event (bitrl.core.events).

    Raises:
        UsageError: an argument is wrong. RunFailed: training could not go on.
    """
    values = {part: dict(section) for part, section in (read_toml(Path(config)) if config else {}).items()}
    named = {"env": env, "backbone": backbone, "serializer": serializer, "algo": algo, "steps": steps, "seed": seed}
    for path, value in (options or {}).items():
        part, dot, name = path.partition(".")
        if not dot:
            raise UsageError(f'option "{path}": write it as part.option, for example "algo.clip_coef"')
        values.setdefault(part, {})[name] = value
    values.setdefault("run", {}).update({name: value for name, value in named.items() if value is not None})
    return start(resolve(values), Path(out) if out is not None else None, force, listeners)


def start(config: Config, out: Path | None, force: bool, listeners: tuple[Listener, ...] = ()) -> dict[str, Any]:
    """Run a resolved configuration from the beginning. Nothing is written before all its parts are built."""
    parts = build(config)
    provenance = {"versions": versions(), "features": dict(parts.features.identity), **_commit()}
    store = RunStore.create(out, config, provenance, force)
    try:
        return _train(config, parts, store, listeners)
    finally:
        store.close()


def resume(directory: Path, listeners: tuple[Listener, ...] = ()) -> dict[str, Any]:
    """Go on with a run that was stopped; it ends as if it had not been. A complete one only gives its summary again.

    Raises:
        UsageError: no run there, it is in use, or its model is not the one it was started with.
        RunFailed: every checkpoint is damaged, or the environment does not come back to where it was.
    """
    store = RunStore.open(directory)
    try:
        done = store.summary()
        if done is not None:
            return done
        config = resolve(read_toml(directory / "config.toml"))
        parts = build(config)
        _check_identity(directory, parts)
        return _train(config, parts, store, listeners)
    finally:
        store.close()


def evaluate_run(
    directory: Path, episodes: int | None = None, seed: int | None = None, listeners: tuple[Listener, ...] = ()
) -> dict[str, Any]:
    """Evaluate the newest good checkpoint of a run; returns run, env, step, seed, episodes, mean_return, std_return, returns.

    Raises:
        UsageError: no run or no checkpoint there, or its model is not the one it was trained with.
    """
    from bitrl.core import replay
    from bitrl.core.evaluation import evaluate
    from bitrl.core.interfaces import Task

    require_run(directory)
    config = resolve(read_toml(directory / "config.toml"))
    parts = build(config)
    _check_identity(directory, parts)
    tell = _teller(listeners)
    checkpoint = _newest_good(directory, tell)
    if checkpoint is None:
        raise UsageError(f"{directory}: has no checkpoint yet: let it train for longer, or go on with --resume")
    episodes = config.run.eval_episodes if episodes is None else episodes
    seed = config.run.seed if seed is None else seed
    envs = replay.vectorise(parts.environment.make, config.run.num_envs)
    try:
        observations, _ = envs.reset(seed=0)
        algorithm = config.algorithm.load()(
            config.algo_options,
            Task(envs=envs, observations=observations, features=parts.features, seed=0, progress=lambda step: None),
        )
        algorithm.load_state(_algorithm_arrays(checkpoint.arrays))
    finally:
        envs.close()
    returns = evaluate(
        parts.environment.make,
        lambda observations: algorithm.act(parts.features(observations)),
        episodes,
        _stream(seed, EVALUATION),
        lambda done: tell(events.Evaluating(directory, done, episodes)),
    )
    return {
        "run": str(directory),
        "env": config.run.env,
        "backbone": config.run.backbone,
        "serializer": config.run.serializer,
        "algo": config.run.algo,
        "step": checkpoint.meta["step"],
        "seed": seed,
        **_statistics(returns),
        "returns": returns,
    }


def _train(config: Config, parts: Parts, store: RunStore, listeners: tuple[Listener, ...]) -> dict[str, Any]:
    import numpy as np

    from bitrl.core import checkpoints, replay
    from bitrl.core.evaluation import evaluate
    from bitrl.core.interfaces import Task

    directory, run_options = store.directory, config.run
    tell = _teller(listeners)
    checkpoint = _newest_good(directory, tell)

    envs = replay.vectorise(parts.environment.make, run_options.num_envs)
    try:
        if checkpoint is None:
            seeds = np.random.SeedSequence([run_options.seed, ENVIRONMENTS]).generate_state(run_options.num_envs)
            observations, _ = envs.reset(seed=seeds.tolist())
        else:
            observations = checkpoint.arrays["observations"]
            replay.restore(envs, checkpoint.arrays, checkpoint.meta["starts"], observations)
        algorithm = config.algorithm.load()(
            config.algo_options,
            Task(
                envs=envs,
                observations=observations,
                features=parts.features,
                seed=_stream(run_options.seed, ALGORITHM),
                progress=lambda step: tell(events.RolloutStepped(directory, step)),
            ),
        )
        seconds = 0.0
        if checkpoint is not None:
            algorithm.load_state(_algorithm_arrays(checkpoint.arrays))
        store.rewind(algorithm.step)
        timings = store.rows("timings.jsonl")
        seconds = timings[-1]["seconds"] if timings else 0.0

        def save() -> None:
            actions, starts = replay.save(envs)
            arrays = {f"algorithm.{name}": array for name, array in algorithm.state().items()}
            arrays |= {"observations": algorithm.task.observations, **actions}
            meta = {"step": algorithm.step, "updates": updates, "starts": starts}
            tell(
                events.CheckpointSaved(
                    directory,
                    algorithm.step,
                    checkpoints.write(store.checkpoints, algorithm.step, checkpoints.Checkpoint(arrays, meta)),
                )
            )

        tell(events.RunStarted(directory, config.as_dict(), algorithm.step, run_options.steps))
        updates = checkpoint.meta["updates"] if checkpoint is not None else 0
        with _interrupts() as interrupted:
            while algorithm.step < run_options.steps:
                began = time.perf_counter()
                metrics = algorithm.update()
                seconds += time.perf_counter() - began
                updates += 1
                row = {"step": algorithm.step, **metrics}
                store.log(row, {"step": algorithm.step, "seconds": seconds})
                tell(events.Updated(directory, algorithm.step, row))
                finished = algorithm.step >= run_options.steps
                if finished or interrupted() or updates % run_options.checkpoint_every == 0:
                    save()
                if interrupted() and not finished:
                    raise RunFailed(f"stopped at step {algorithm.step}; go on with: bitrl run --resume {directory}")
            returns = evaluate(
                parts.environment.make,
                lambda observations: algorithm.act(parts.features(observations)),
                run_options.eval_episodes,
                _stream(run_options.seed, EVALUATION),
                lambda done: tell(events.Evaluating(directory, done, run_options.eval_episodes)),
                interrupted,
            )
            if interrupted():
                raise RunFailed(f"stopped before the evaluation was done; go on with: bitrl run --resume {directory}")
    finally:
        envs.close()
    summary = {
        "run": str(directory),
        "env": run_options.env,
        "backbone": run_options.backbone,
        "serializer": run_options.serializer,
        "algo": run_options.algo,
        "seed": run_options.seed,
        "steps": algorithm.step,
        "train_seconds": round(seconds, 3),
        "steps_per_second": round(algorithm.step / seconds, 1) if seconds else 0.0,
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "eval": _statistics(returns),
    }
    store.finish(summary)
    tell(events.RunFinished(directory, summary))
    return summary


def versions() -> dict[str, str]:
    """The versions that a result depends on: Python, the platform, and the packages that computed it."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    for package in ("bitrl", "torch", "numpy", "gymnasium", "mujoco", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_rss_mb() -> float:
    """The most memory this process has held so far, in MB (2**20 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _statistics(returns: list[float]) -> dict[str, Any]:
    """Episodes, mean and standard deviation (over the episodes, n in the denominator); null where there are none."""
    import numpy as np

    mean, std = (float(np.mean(returns)), float(np.std(returns))) if returns else (None, None)
    return {"episodes": len(returns), "mean_return": mean, "std_return": std}


def _stream(seed: int, use: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, use]).generate_state(1, np.uint64)[0] >> 1)


def _teller(listeners: tuple[Listener, ...]) -> Listener:
    """One listener that tells all: the given ones, and the plugins', whose failures are said once each on stderr."""
    said: set[str] = set()

    def tell(event: events.Event) -> None:
        for listener in listeners:
            listener(event)
        for problem in registry().send(event):
            if problem.message not in said:
                said.add(problem.message)
                print(f"warning: plugin {problem.package}: {problem.message}", file=sys.stderr)

    return tell


def _newest_good(directory: Path, tell: Listener) -> Any:
    """The newest checkpoint that reads well, or None if there is none at all; damaged ones are told of and skipped.

    Raises:
        RunFailed: there are checkpoints, and all are damaged.
    """
    from bitrl.core import checkpoints

    found = list(checkpoints.newest_first(directory / "checkpoints"))
    for path, checkpoint in found:
        if isinstance(checkpoint, checkpoints.Checkpoint):
            return checkpoint
        tell(events.CheckpointSkipped(directory, path, str(checkpoint)))
    if found:
        raise RunFailed(f"{directory / 'checkpoints'}: every checkpoint is damaged: start the run anew with --force")
    return None


def _algorithm_arrays(arrays: Mapping[str, Any]) -> dict[str, Any]:
    prefix = "algorithm."
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _check_identity(directory: Path, parts: Parts) -> None:
    """Refuse to go on with features other than those the run was started with."""
    before, now = read_provenance(directory).get("features", {}), dict(parts.features.identity)
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if changed:
        raise UsageError(
            f"{directory}: its backbone is not the one it was trained with ({', '.join(changed)} changed): "
            "put the original model back, or train anew"
        )


def _commit() -> dict[str, str]:
    """The git commit of the directory the run is started in, if it is in a repository."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"git_commit": answer.stdout.strip()} if answer.returncode == 0 else {}


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C only sets a flag, so that the update under way ends and is saved. A second Ctrl-C stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def handler(signum: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)

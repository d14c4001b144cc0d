"""Runs: train, checkpoint, resume, evaluate, summarise. The only module that sees all parts at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitrl.core import events
from bitrl.core.config import COMPONENTS, Config, overlay, read_toml, resolve
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Algorithm, Task
from bitrl.core.interrupts import interrupts
from bitrl.core.loading import Parts, build
from bitrl.core.provenance import git_commit, peak_rss_mb, versions
from bitrl.core.registry import registry
from bitrl.core.store import RunStore, read_provenance, require_run

if TYPE_CHECKING:
    import gymnasium
    import numpy as np
    from gymnasium.vector import VectorEnv

    from bitrl.core.checkpoints import Checkpoint
    from bitrl.core.evaluation import Return
    from bitrl.core.features import FeatureExtractor
    from bitrl.core.watching import Step

Listener = Callable[[events.Event], None]

# Every use of randomness has its own stream, so that asking for more of one never shifts another.
ENVIRONMENTS, ALGORITHM, EVALUATION = 0, 1, 2


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
    listeners: tuple[Listener, ...] = (),
) -> dict[str, Any]:
    """Train an agent, evaluate it, and return its summary (the same as summary.json in the run's directory).

    Args:
        env, backbone, critic_backbone, serializer, algo: names as `bitrl list` prints them; unset ones take the
            defaults, which for the critic is the policy's backbone.
        steps: environment steps to train for.
        seed: of everything random.
        out: the run's directory; None picks a fresh one under `runs/`.
        config: a TOML file to start from; the other arguments win over it, and where they name another component,
            options of the file's that it does not have are left out.
        options: more settings by path, as `{"algo.clip_coef": 0.2}`.
        force: replace a run that is already in `out`.
        listeners: called with every event (bitrl.core.events).

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
    }
    for path, value in (options or {}).items():
        part, dot, name = path.partition(".")
        if not dot:
            raise UsageError(f'option "{path}": write it as part.option, for example "algo.clip_coef"')
        values.setdefault(part, {})[name] = value
    values.setdefault("run", {}).update({name: value for name, value in named.items() if value is not None})
    values, _ = overlay(read_toml(Path(config)) if config else {}, values)
    return start(resolve(values), Path(out) if out is not None else None, force, listeners)


def start(config: Config, out: Path | None, force: bool, listeners: tuple[Listener, ...] = ()) -> dict[str, Any]:
    """Run a resolved configuration from the beginning. Nothing is written before all its parts are built."""
    parts = build(config)
    _learnt(parts)  # a serializer that learns from states does so now, and says now why it cannot
    provenance = {"versions": versions(), **_identities(parts), **git_commit()}
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
    from bitrl.core import checkpoints

    store = RunStore.open(directory)
    try:
        done = store.summary()
        if done is not None:
            return done
        checkpoints.drop_old(store.checkpoints)  # it may have been killed before it did
        config = resolve(read_toml(directory / "config.toml"))
        parts = build(config)
        _check_identity(directory, parts)
        return _train(config, parts, store, listeners)
    finally:
        store.close()


def evaluate_run(
    directory: Path,
    episodes: int | None = None,
    seed: int | None = None,
    listeners: tuple[Listener, ...] = (),
    show: Callable[[Step], None] | None = None,
    video: Path | None = None,
    states: Path | None = None,
) -> dict[str, Any]:
    """Evaluate the newest good checkpoint of a run.

    Args:
        directory: the run's.
        episodes: how many; None takes the run's own `eval_episodes`.
        seed: of the episodes; None takes the run's own, which repeats the evaluation at its end.
        listeners: called with every event.
        show: called with every step of the first episode (bitrl.core.watching).
        video: an mp4 or gif of the first episode is written there.
        states: the numbers of all states met are written there (bitrl.core.states).

    Returns:
        run, env, backbone, critic_backbone, serializer, algo, step, seed, episodes, mean_return, std_return, returns.

    Raises:
        UsageError: no run or no checkpoint there, its model is not the one it was trained with, or what it plays in
            cannot be filmed.
        RunFailed: every checkpoint is damaged, or the film cannot be made.
    """
    from bitrl.core import film, watching

    require_run(directory)
    if video is not None:
        film.check(video)
    tell = _teller(listeners)
    config, parts, algorithm = _trained(directory, tell)
    met: list[np.ndarray] = []
    if states is not None:
        from bitrl.core.states import record, write_states

        parts, met = record(parts, states)
    seed = config.run.seed if seed is None else seed
    episodes = config.run.eval_episodes if episodes is None else episodes
    if show is None and video is None:
        returns = _evaluate(parts, algorithm, episodes, seed, directory, tell)
    elif not episodes:
        raise UsageError("no episode is played, so there is none to be seen: ask for one with --episodes 1")
    else:
        first = watching.watch(parts, show, video)
        returns = _evaluate(parts, algorithm, episodes, seed, directory, tell, first=first)
        if first.film is not None:
            first.film.save()
    if states is not None and met:
        write_states(states, met)
    return {
        "run": str(directory),
        **{name: getattr(config.run, name) for name in COMPONENTS},
        "step": algorithm.step,
        "seed": seed,
        **_statistics(returns),
        "returns": returns,
    }


def export(run: str | Path, file: str | Path, listeners: tuple[Listener, ...] = ()) -> dict[str, Any]:
    """Write the newest good checkpoint of a run as an agent that acts by itself (bitrl.core.agents).

    Args:
        run: its directory.
        file: the agent's, which is replaced if it is there.
        listeners: called with every event.

    Returns:
        file, bytes, run, env, step, serializer, backbone.

    Raises:
        UsageError: no run or no checkpoint there, its model is not the one it was trained with, or its algorithm or
            trainable backbone cannot be exported.
        RunFailed: every checkpoint is damaged, or the file cannot be written.
    """
    import attrs

    from bitrl.core import agents
    from bitrl.core.history import newest_of

    directory, path = Path(run), Path(file)
    require_run(directory)
    config, parts, algorithm = _trained(directory, _teller(listeners))
    chosen, sections = config.run, config.as_dict()
    trained = parts.features.trainable
    facts = {
        "env": chosen.env,
        "step": algorithm.step,
        "serializer": {"name": chosen.serializer, "options": sections["serializer"]},
        "backbone": None if trained else {"name": chosen.backbone, "options": sections["backbone"]},
        "identity": {} if trained else _identities(parts)["features"],
        "history": chosen.history,
        "history_tokens": chosen.history_tokens,
        "observation": attrs.asdict(parts.environment.observation_spec()),
        "versions": read_provenance(directory).get("versions", {}),
    }
    seen = newest_of(algorithm.task.observations, chosen.history)
    agents.write(path, facts, algorithm.plain_policy(), _learnt(parts), seen)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "run": str(directory),
        "env": chosen.env,
        "step": algorithm.step,
        "serializer": chosen.serializer,
        "backbone": None if trained else chosen.backbone,
    }


def _trained(directory: Path, tell: Listener) -> tuple[Config, Parts, Algorithm]:
    """The configuration, parts and algorithm of a run, as its newest good checkpoint has them, to act and not to learn.

    Raises:
        UsageError: no checkpoint there, or its model is not the one it was trained with.
        RunFailed: every checkpoint is damaged.
    """
    config = resolve(read_toml(directory / "config.toml"))
    checkpoint = _newest_good(directory, tell)
    if checkpoint is None:
        raise UsageError(f"{directory}: has no checkpoint yet: let it train for longer, or go on with --resume")
    parts = build(config)
    _check_identity(directory, parts)
    envs, observations = _environments(config, parts, None)  # to act, it only needs to know what they look like
    algorithm = _algorithm(config, parts, envs, observations, checkpoint)
    envs.close()
    return config, parts, algorithm


def _train(config: Config, parts: Parts, store: RunStore, listeners: tuple[Listener, ...]) -> dict[str, Any]:
    """Train from the newest good checkpoint, or from the start, to the end; evaluate; write the summary."""
    directory, run = store.directory, config.run
    tell = _teller(listeners)
    with interrupts(lambda: tell(events.Interrupted(directory))) as interrupted:
        checkpoint = _newest_good(directory, tell)
        envs, observations = _environments(config, parts, checkpoint)
        progress: Callable[[int], None] = lambda step: tell(events.RolloutStepped(directory, step))  # noqa: E731
        algorithm = _algorithm(config, parts, envs, observations, checkpoint, progress)
        store.rewind(algorithm.step)
        timings = store.rows("timings.jsonl")
        seconds = timings[-1]["seconds"] if timings else 0.0
        updates = checkpoint.meta["updates"] if checkpoint is not None else 0
        tell(events.RunStarted(directory, config.as_dict(), algorithm.step, run.steps))
        try:
            while algorithm.step < run.steps:
                began = time.perf_counter()
                metrics = algorithm.update()
                seconds += time.perf_counter() - began
                updates += 1
                row = {"step": algorithm.step, **metrics}
                store.log(row, {"step": algorithm.step, "seconds": seconds})
                tell(events.Updated(directory, algorithm.step, row))
                finished = algorithm.step >= run.steps
                if finished or interrupted() or updates % run.checkpoint_every == 0:
                    path = _save(store, parts, algorithm, envs, updates)
                    tell(events.CheckpointSaved(directory, algorithm.step, path))
                if interrupted() and not finished:
                    raise RunFailed(f"stopped at step {algorithm.step}; go on with: bitrl run --resume {directory}")
        finally:
            envs.close()
        returns = _evaluate(parts, algorithm, run.eval_episodes, run.seed, directory, tell, interrupted)
        if len(returns) < run.eval_episodes:
            raise RunFailed(f"stopped before the evaluation was done; go on with: bitrl run --resume {directory}")
    summary = {
        "run": str(directory),
        **{name: getattr(run, name) for name in (*COMPONENTS, "seed")},
        "steps": algorithm.step,
        "train_seconds": round(seconds, 3),
        "steps_per_second": round(algorithm.step / seconds, 1) if seconds else 0.0,
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "eval": _statistics(returns),
        # Of this process: a resumed run starts with empty caches.
        **_cache_statistics("cache", parts.features),
        **_cache_statistics("critic_cache", parts.critic_features),
    }
    store.finish(summary)
    tell(events.RunFinished(directory, summary))
    return summary


def begin(config: Config, parts: Parts) -> tuple[Algorithm, VectorEnv]:
    """The algorithm and its environments as a run of `config` starts them, for who calls `update` without a run."""
    envs, observations = _environments(config, parts, None)
    return _algorithm(config, parts, envs, observations, None), envs


def _environments(config: Config, parts: Parts, checkpoint: Checkpoint | None) -> tuple[VectorEnv, np.ndarray]:
    """The run's environments and their observations, as the run starts them or as `checkpoint` left them."""
    from bitrl.core import crashes, replay

    envs = replay.vectorise(crashes.reporting(parts.environment.make, parts.environment.id), config.run.num_envs)
    if checkpoint is None:
        seeds: list[int | None] = [*_seeds(config.run.seed, ENVIRONMENTS, config.run.num_envs)]
        return envs, envs.reset(seed=seeds)[0]
    observations = checkpoint.arrays["observations"]
    replay.restore(envs, checkpoint.arrays, checkpoint.meta["starts"], observations)
    return envs, observations


def _algorithm(
    config: Config,
    parts: Parts,
    envs: VectorEnv,
    observations: np.ndarray,
    checkpoint: Checkpoint | None,
    progress: Callable[[int], None] = lambda step: None,
) -> Algorithm:
    """The algorithm, new or as `checkpoint` left it."""
    from bitrl.core.checkpoints import with_prefix

    if checkpoint is not None and (learnt := with_prefix(checkpoint.arrays, "serializer.")):
        serializer: Any = parts.features.serializer  # one that learns
        serializer.load_state(learnt)
    [seed] = _seeds(config.run.seed, ALGORITHM, 1)
    task = Task(
        envs=envs,
        observations=observations,
        features=parts.features,
        critic_features=parts.critic_features,
        seed=seed,
        steps=config.run.steps,
        progress=progress,
    )
    algorithm: Algorithm = config.algorithm.load()(config.algo_options, task)
    if checkpoint is not None:
        algorithm.load_state(with_prefix(checkpoint.arrays, "algorithm."))
    return algorithm


def _save(store: RunStore, parts: Parts, algorithm: Algorithm, envs: VectorEnv, updates: int) -> Path:
    """Write a checkpoint of everything that the next update depends on."""
    from bitrl.core import checkpoints, replay

    actions, starts = replay.save(envs)
    arrays = {f"algorithm.{name}": array for name, array in algorithm.state().items()}
    arrays |= {f"serializer.{name}": array for name, array in _learnt(parts).items()}
    arrays |= {"observations": algorithm.task.observations, **actions}
    meta = {"step": algorithm.step, "updates": updates, "starts": starts}
    return checkpoints.write(store.checkpoints, algorithm.step, checkpoints.Checkpoint(arrays, meta))


def _learnt(parts: Parts) -> Mapping[str, np.ndarray]:
    """What the serializer learnt from states, as named arrays; nothing for one that does not learn."""
    state = getattr(parts.features.serializer, "state", None)
    return state() if callable(state) else {}


def _evaluate(
    parts: Parts,
    algorithm: Algorithm,
    episodes: int,
    seed: int,
    directory: Path,
    tell: Listener,
    interrupted: Callable[[], bool] = lambda: False,
    first: gymnasium.Env | None = None,
) -> list[Return]:
    """Returns of whole episodes played by the algorithm's best actions; fewer than asked for if interrupted. The first
    is played in `first`, if it is given.
    """
    from bitrl.core.crashes import reporting
    from bitrl.core.evaluation import evaluate

    given = [first] if first is not None else []

    def policy(observations: np.ndarray) -> np.ndarray:
        features, choices = parts.features(observations), parts.features.choices(observations)
        # Most algorithms need not know that there can be choices.
        return algorithm.act(features) if choices is None else algorithm.act(features, choices)

    return evaluate(
        reporting(lambda: given.pop() if given else parts.environment.make_for_evaluation(), parts.environment.id),
        policy,
        _seeds(seed, EVALUATION, episodes),
        lambda done: tell(events.Evaluating(directory, done, episodes)),
        interrupted,
    )


def _statistics(returns: list[Return]) -> dict[str, Any]:
    """Episodes, mean and standard deviation (over the episodes, n in the denominator); null where there are none. Also
    the share of successes, in environments that have them.
    """
    import numpy as np

    mean, std = (float(np.mean(returns)), float(np.std(returns))) if returns else (None, None)
    successes = [each.success for each in returns if each.success is not None]
    rate = {"success_rate": float(np.mean(successes))} if successes else {}
    return {"episodes": len(returns), "mean_return": mean, "std_return": std, **rate}


def _seeds(seed: int, use: int, count: int) -> list[int]:
    """`count` seeds for one use of the run's randomness."""
    import numpy as np

    return np.random.SeedSequence([seed, use]).generate_state(count).tolist()


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


def _newest_good(directory: Path, tell: Listener) -> Checkpoint | None:
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


def _identities(parts: Parts) -> dict[str, dict[str, Any]]:
    """The identity of the policy's features, and of the critic's where they are others; what is unset left out."""
    extractors = {"features": parts.features, "critic_features": parts.critic_features}
    return {
        name: {key: value for key, value in extractor.identity.items() if value is not None}
        for name, extractor in extractors.items()
        if extractor is not None
    }


def _check_identity(directory: Path, parts: Parts) -> None:
    """Refuse to go on with features other than those the run was started with."""
    provenance, now = read_provenance(directory), _identities(parts)
    for name, words in (("features", "its backbone"), ("critic_features", "its critic's backbone")):
        old, new = provenance.get(name, {}), now.get(name, {})
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if changed:
            raise UsageError(
                f"{directory}: {words} is not the one it was trained with ({', '.join(changed)} changed): "
                "put the original model back, or train anew"
            )


def _cache_statistics(name: str, features: FeatureExtractor | None) -> dict[str, Any]:
    """`{name: …}` if there is a backbone that keeps features and counts how often that helped."""
    statistics = getattr(getattr(getattr(features, "backbone", None), "cache", None), "statistics", None)
    return {name: statistics()} if callable(statistics) else {}

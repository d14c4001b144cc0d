"""Evaluating an algorithm during training, or a trained run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from bitrl.core import events
from bitrl.core.acting.contracts import calling
from bitrl.core.config import COMPONENTS, Config, RunOptions
from bitrl.core.environments.action_checks import checked_actions
from bitrl.core.environments.crashes import reporting
from bitrl.core.environments.episode_metrics import METRICS, Means, finite_numbers
from bitrl.core.errors import BitrlError, RunFailed, UsageError
from bitrl.core.interfaces import Algorithm
from bitrl.core.options import as_dict, parse
from bitrl.core.runs.episodes import Return, play_episodes
from bitrl.core.runs.interrupts import stopped_at_once
from bitrl.core.runs.listeners import Listener, teller
from bitrl.core.runs.memory_limit import MemoryLimit
from bitrl.core.runs.parts import EVALUATION, Parts, spawn_seeds
from bitrl.core.runs.progress import progress_display
from bitrl.core.runs.state_recorder import record, write_states
from bitrl.core.runs.store import require_run
from bitrl.core.runs.trained import trained
from bitrl.core.wording import setting, warn

if TYPE_CHECKING:
    from bitrl.core.runs.watch import Show

LONG = 1000
"""Steps of an evaluation episode after which a missing step limit is worth a warning."""

SHOWN = 8
"""Prompts that are shown with their completions."""

TOLD_EVERY = 100
"""Steps of the longest episode between two reports while none ends."""


@stopped_at_once()
def evaluate(
    run: str | Path,
    episodes: int | None = None,
    seed: int | None = None,
    listeners: tuple[Listener, ...] = (),
    show: Show | None = None,
    video: str | Path | None = None,
    states: str | Path | None = None,
    progress: bool = False,
    max_steps: int | None = None,
    best: bool = False,
    memory_limit: str | None = None,
) -> dict[str, Any]:
    """Evaluate the newest intact checkpoint of a run.

    Args:
        run: its directory.
        episodes: how many; None takes the run's own `eval_episodes`.
        seed: random seed of the episodes; None takes the run's own, which repeats the evaluation at its end.
        listeners: called with every event; without any, warnings (of a damaged checkpoint) go to stderr.
        progress: show how far it is on stderr.
        show: called with every step of the first episode (bitrl.core.runs.watch.Step); where observations are prompts
            and actions their completions, with those of the first `SHOWN` episodes (bitrl.core.sampled_completions).
        video: the file to write a video of the first episode to (mp4 or gif).
        states: the file to write the numbers of all visited states to (bitrl.core.runs.state_recorder).
        max_steps: cut episodes off after so many steps; None: as the run does (`eval_max_steps`).
        memory_limit: another limit of resident memory than the run's (`run.memory_limit`); "none" for none.
        best: take the checkpoint of the best evaluation while training (`run.eval_every`) instead of the newest.

    Returns:
        run, env, backbone, critic_backbone, serializer, algo, step, seed, episodes, mean_return, std_return, returns;
        success_rate, metrics, cut_episodes and algorithm where there are such numbers.

    Raises:
        UsageError: no run or no checkpoint there, its model is not the one it was trained with, its environment cannot
            be recorded, or a number is out of range.
        RunFailed: every checkpoint is damaged, or the video cannot be recorded.
    """
    if progress or not listeners:
        with progress_display(quiet=not progress) as shown:
            return evaluate(
                run, episodes, seed, (*listeners, shown), show, video, states, max_steps=max_steps, best=best,
                memory_limit=memory_limit,
            )  # fmt: skip
    directory = Path(run)
    require_run(directory)
    video_file, states_file = (None if each is None else Path(each) for each in (video, states))
    if video_file is not None:
        from bitrl.core.runs import video as video_files

        video_files.check(video_file)
    tell = teller(listeners)
    config, parts, algorithm, memory = trained(directory, tell, best, memory_limit)
    if memory.plan is not None:
        tell(events.MemoryPlanned(directory, memory.plan.as_dict(), str(memory.plan)))
    visited: list[np.ndarray] = []
    if states_file is not None:
        parts, visited = record(parts, states_file)
    given = {"seed": seed, "eval_episodes": episodes, "eval_max_steps": max_steps}
    chosen = parse(
        RunOptions, as_dict(config.run) | {name: value for name, value in given.items() if value is not None}, "run"
    )
    seed, episodes, max_steps = chosen.seed, chosen.eval_episodes, chosen.eval_max_steps
    if show is None and video_file is None:
        returns = play(parts, algorithm, episodes, seed, directory, tell, max_steps=max_steps, memory=memory)
    elif not episodes:
        raise UsageError(
            f"no episode is played, so there is none to show: ask for some with {setting('episodes', 'N')}"
        )
    else:
        from bitrl.core.runs import watch as watching  # not by runs that train

        prompts = parts.environment.observation_spec().prompt
        watched = [watching.watch(parts, show, video_file)]
        if prompts and show is not None:
            watched += [watching.watch(parts, show, None) for _ in range(min(SHOWN, episodes) - 1)]
        returns = play(
            parts, algorithm, episodes, seed, directory, tell, watched=watched, max_steps=max_steps, memory=memory
        )
        if watched[0].video is not None:
            watched[0].video.save()
    if states_file is not None and visited:
        write_states(states_file, visited)
    return {
        "run": str(directory),
        **{name: getattr(config.run, name) for name in COMPONENTS},
        "step": algorithm.step,
        "seed": seed,
        **statistics(returns),
        **reported(config, algorithm),
        "returns": returns,
    }


def play(
    parts: Parts,
    algorithm: Algorithm,
    episodes: int,
    seed: int,
    directory: Path,
    tell: Listener,
    interrupted: Callable[[], bool] = lambda: False,
    watched: Sequence[gymnasium.Env] = (),
    max_steps: int | None = None,
    use: int = EVALUATION,
    memory: MemoryLimit | None = None,
) -> list[Return]:
    """Returns of whole episodes played with greedy actions; fewer than asked for if interrupted. The first are played
    in `watched`, as many as there are; those of `max_steps` steps are cut off. `use` is that of the run's randomness
    (parts.py). A `memory` limit is kept to.

    Raises:
        RunFailed: an environment crashed, the algorithm's actions are not in the action space, or more memory is taken
            than the limit.
    """
    given = [*watched]
    made: list[gymnasium.Env] = []
    who, space = algorithm.task.collector.who, algorithm.task.collector.action_space
    done = steps = 0
    warned = False

    def make() -> gymnasium.Env:
        made.append(given.pop(0) if given else parts.environment.make_for_evaluation())
        return made[-1]

    def act(observations: np.ndarray) -> np.ndarray:
        with calling(who):
            chosen = algorithm.act(parts.reader(observations))
        actions: np.ndarray = checked_actions(who, space, chosen, len(observations))
        return actions

    def ended(episodes_done: int) -> None:
        nonlocal done
        done = episodes_done
        tell(events.Evaluating(directory, done, episodes, steps))

    def stepped(steps_taken: int, longest: int) -> None:
        nonlocal steps, warned
        steps = steps_taken
        if longest % TOLD_EVERY == 0:
            tell(events.Evaluating(directory, done, episodes, steps))
            if memory is not None:
                keep_to(memory, parts, directory, tell)
        if longest == LONG and not warned and max_steps is None and not limited(made[0]):
            warned = True
            warn(
                f"an evaluation episode of {parts.environment.id} has taken {LONG:,} steps, and the environment has no "
                "step limit (max_episode_steps): it may never end. Ctrl-C stops it; run.eval_max_steps cuts episodes "
                f"off (for this run, set it in {directory / 'config.toml'})"
            )

    def fewer(count: int, error: BitrlError) -> None:
        told = f"evaluates in {count} environment{'s' * (count != 1)} at a time, since no more can be made: {error}"
        tell(events.Warned(directory, told))

    return play_episodes(
        reporting(make, parts.environment.id),
        act,
        spawn_seeds(seed, use, episodes),
        ended,
        interrupted,
        max_steps,
        stepped,
        fewer,
    )


def keep_to(memory: MemoryLimit, parts: Parts, directory: Path, tell: Listener) -> None:
    """Raise RunFailed where an evaluation takes more than the memory limit, with no cache left that could give way."""
    gave_way, too_much = memory.exceeded(parts.reader)
    if gave_way:
        tell(events.Warned(directory, gave_way))
    if too_much:
        raise RunFailed(f"stopped the evaluation: {too_much}: raise it, to {memory.more()} ({setting('memory_limit')})")


def limited(env: gymnasium.Env) -> bool:
    """Whether an environment is known to end its episodes after some number of steps."""
    limits = ("max_episode_steps", "_max_episode_steps", "max_steps")
    while True:
        if any(isinstance(getattr(env, name, None), int) for name in limits):
            return True
        if not isinstance(env, gymnasium.Wrapper):
            return getattr(env.spec, "max_episode_steps", None) is not None
        env = env.env


def statistics(returns: list[Return]) -> dict[str, Any]:
    """Episodes, mean and standard deviation (over the episodes, n in the denominator); null without episodes. Also
    the success rate, in environments that report success (an episode cut off before a report is none), the means of the
    metrics that an environment reports, and how many episodes were cut off, if any were.
    """
    mean, std = (float(np.mean(returns)), float(np.std(returns))) if returns else (None, None)
    reports = any(each.success is not None for each in returns)
    successes = [each.success or 0.0 for each in returns if each.success is not None or (reports and each.cut)]
    rate = {"success_rate": float(np.mean(successes))} if successes else {}
    means = Means()
    for each in returns:
        means.add(each.metrics)
    metrics = means.take()
    cut = sum(each.cut for each in returns)
    return {
        "episodes": len(returns),
        "mean_return": mean,
        "std_return": std,
        **rate,
        **({METRICS: metrics} if metrics else {}),
        **({"cut_episodes": cut} if cut else {}),
    }


def reported(config: Config, algorithm: Algorithm) -> dict[str, Any]:
    """`{"algorithm": …}` with the numbers that the algorithm reports of itself, if it does.

    Raises:
        RunFailed: they are not finite numbers.
    """
    with calling(algorithm.task.collector.who):
        summary = algorithm.summary()
    numbers = finite_numbers(f'algorithm "{config.algorithm.name}": summary()', summary)
    return {"algorithm": numbers} if numbers else {}

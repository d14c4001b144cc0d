"""Checks of algorithms: two updates are made, and the second is made again by another object from the saved state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.nested import Path, leaves, part_at, taken_apart
from bitrl.core.environments import replay
from bitrl.core.environments.action_checks import admitted
from bitrl.core.environments.collector import Collector
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.episode_metrics import finite_numbers
from bitrl.core.environments.loading import load_environment
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Algorithm, Backbone, GenerativeBackbone, LanguagePolicy, Task
from bitrl.core.options import parse
from bitrl.core.records import AlgorithmRecord, LearnsFrom
from bitrl.core.registry import registry
from bitrl.core.runs.parts import kind_of
from bitrl.testing.outcomes import Check, Outcome, demand, examine, expect, run_checks
from bitrl.testing.record_checks import RECORD_CHECKS, resolve, sets_options_that_exist
from bitrl.testing.saved_arrays import different, from_checkpoint
from bitrl.testing.small_environments import (
    ClockEnvironment,
    CommandsEnvironment,
    FactoredEnvironment,
    MaskedEnvironment,
    PromptsEnvironment,
)
from bitrl.testing.small_language_model import generative
from bitrl.testing.tasks import CountingEnvironment, Doubled, Plain, make_task

NUM_ENVS = 4


def trainable(width: int) -> Backbone:
    """A small trainable backbone for vectors of the given width."""
    record = registry().find("backbone", "mlp", built_in_first=True)
    backbone: Backbone = record.load()(parse(record.options, {"hidden": [8]}, "backbone"), width)
    return backbone


SETTINGS: tuple[tuple[str | Environment, Callable[[int], Backbone]], ...] = (
    ("CartPole-v1", Plain),
    ("CartPole-v1", trainable),
    ("Pendulum-v1", Plain),
    (MaskedEnvironment(), Plain),
    (CommandsEnvironment(), Plain),
    (FactoredEnvironment("MultiDiscrete"), Plain),
    (FactoredEnvironment("MultiBinary"), Plain),
    (FactoredEnvironment("Dict"), Plain),
    (FactoredEnvironment("Tuple"), Plain),
    (PromptsEnvironment(id="an environment of prompts"), generative),
)
"""Where an algorithm is tried if no environment is named: Discrete and Box actions, frozen and trainable backbones,
action masks, text commands, actions of several factors with masks, and prompts for a language model.
"""
LEARNING: dict[Callable[[int], Backbone], LearnsFrom] = {trainable: "gradients", generative: "generation"}
"""Which backbones give an algorithm something else to learn from than features."""

KINDS: dict[Callable[[int], Backbone], str] = {trainable: "trainable backbone", generative: "language model"}
"""What they are called."""

CLOCK_STEPS = 40
"""How many steps of an environment it takes at least to see whether an algorithm bootstraps."""

MOST_UPDATES = 50
"""How many updates these may take."""


@attrs.define
class Trial:
    """What happened when an algorithm was made and updated twice; see `try_out`.

    `critic_reads`: states that the critic's backbone was given in all, and while the algorithm acted; None where the
    critic has none of its own. `forbidden`: actions taken that were not admissible. `mask`: the admissible actions of
    the states in `acted`, bool [n, k]; None where all are. `live`: the arrays of a `state()` that the next update
    changed.
    """

    where: str
    algorithm: Algorithm
    critic_reads: tuple[int, int] | None
    forbidden: int
    mask: np.ndarray | None
    live: str
    fresh: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
    metrics: list[dict[str, float]]
    steps: list[tuple[int, int]]
    progress: list[int]
    acted: tuple[np.ndarray, np.ndarray]
    state_before_acting: Mapping[str, np.ndarray]
    state_after_acting: Mapping[str, np.ndarray]
    state: Mapping[str, np.ndarray]
    again: tuple[dict[str, float], Mapping[str, np.ndarray]]


def check_algorithm(component: str | AlgorithmRecord, *, env: str | None = None, **options: Any) -> None:
    """Check an algorithm, by name or by record. Options that make an update short make the check short.

    Args:
        component: its name as `bitrl list` prints it, or a record that need not be installed.
        env: an environment it must be able to learn in, on a frozen backbone, or on a language model if it learns from
            nothing else; None: CartPole-v1 on a frozen and on a trainable backbone, Pendulum-v1, an environment with
            action masks, one with text commands, and one of prompts on a language model, of which it may refuse some
            (by its record's `actions` and `commands`, or with a UsageError). An algorithm whose record says
            `critic_backbone` is tried once more, with a critic's backbone.
        options: of the algorithm.

    Raises:
        ConformanceError: the contract is broken; one line for each check that failed.
    """
    record = resolve(AlgorithmRecord, component)
    backbone = generative if record.learns_from == ("generation",) else Plain
    demand(algorithm_outcomes(record, ((env, backbone),) if env is not None else SETTINGS, **options))


def algorithm_outcomes(
    record: AlgorithmRecord,
    settings: Sequence[tuple[str | Environment, Callable[[int], Backbone]]] = SETTINGS,
    **options: Any,
) -> Iterator[Outcome]:
    """The outcome of every check, in the settings that the algorithm does not refuse."""
    component = f'algorithm "{record.name}"'
    fitting = [each for each in settings if LEARNING.get(each[1], "features") in record.learns_from]
    tried: list[str | Environment] = []

    def trials() -> list[Trial]:
        """Its target makes it of its options and a Task, and it can be updated, saved and restored."""
        values: Any = parse(record.options, options, "algo")
        made, accepted, refusals = [], [], []
        for env, backbone in fitting:
            try:
                _expect_declared(record, load_environment(env) if isinstance(env, str) else env)
                made.append(try_out(record, values, env, backbone))
            except UsageError as error:
                refusals.append(error)
            else:
                accepted.append((env, backbone))
        if not fitting:
            raise UsageError(
                f"it learns from {' and '.join(record.learns_from)}: the kit can only check algorithms that learn from "
                "features, gradients or generation"
            )
        if not made:
            raise refusals[0]
        if record.critic_backbone:
            made.append(try_out(record, values, *accepted[0], Doubled))
        tried.append(accepted[0][0])
        return made

    def bootstraps_where_an_episode_is_truncated(record: AlgorithmRecord) -> None:
        """If it bootstraps, it does so from the state that a truncated episode was cut off in."""
        check_bootstrapping(record, parse(record.options, options, "algo"), tried[0])

    yield from run_checks(component, record, (*RECORD_CHECKS, sets_options_that_exist))
    yield from examine(component, trials, CHECKS)
    if tried and "features" in record.learns_from and record.bootstraps is not False:
        yield from run_checks(component, record, (bootstraps_where_an_episode_is_truncated,))


def _expect_declared(record: AlgorithmRecord, environment: Environment) -> None:
    """Raise UsageError where the record says that the algorithm does not support the environment's actions."""
    env = environment.make()
    space = kind_of(env.action_space)
    env.close()
    if record.actions is not None and space not in record.actions:
        raise UsageError(f"its record says that it supports {' and '.join(record.actions)} actions, not {space}")
    if record.actions is None and isinstance(environment, FactoredEnvironment):
        raise UsageError(f"its record does not say that it supports {space} actions")
    if environment.observation_spec().commands and not record.commands:
        raise UsageError("its record says that it cannot choose among text commands")


def check_bootstrapping(record: AlgorithmRecord, options: Any, env: str | Environment) -> None:
    """Expect that an algorithm which learns from the value of a rollout's last state also learns from that of the state
    which a truncated episode was cut off in.

    Three runs in environments that differ in one observed number, which no action depends on, are compared.
    """
    one = (load_environment(env) if isinstance(env, str) else env).make()
    actions = one.action_space
    one.close()

    def learned(length: int, cut_off: float, last_step: int = -1) -> tuple[int, Mapping[str, np.ndarray]]:
        """Steps taken in each environment, and the state after as many updates as they take."""
        task = make_task(ClockEnvironment(actions, length, cut_off, last_step), num_envs=NUM_ENVS)
        algorithm = record.load()(options, task)
        for update in range(MOST_UPDATES):
            algorithm.update()
            if update and algorithm.step >= CLOCK_STEPS * NUM_ENVS:  # values may be zero until something is learned
                break
        state = from_checkpoint(algorithm.state(), "state()")
        task.collector.envs.close()
        return algorithm.step // NUM_ENVS, state

    for length in (7, 11):
        steps, plain = learned(length, 0.0)
        if steps % length:  # a rollout's last step ends no episode
            break
    _, cut_off = learned(length, 0.75)
    if different(plain, cut_off):
        return
    _, last = learned(length, 0.0, steps)
    by_last = different(plain, last)
    remedy = (
        "bootstrap from the value of a truncated episode's last state (bitrl.learning.next_values), or declare "
        "bootstraps=False in its record"
    )
    expect(
        not by_last,
        f"{by_last} depends on the state after a rollout's last step, but not on the last state of a truncated "
        f"episode: {remedy}",
    )
    expect(
        not record.bootstraps,
        f"its record has bootstraps=True, but nothing depends on the last state of a truncated episode: {remedy}",
    )


def try_out(
    record: AlgorithmRecord,
    options: Any,
    env: str | Environment,
    backbone: Callable[[int], Backbone],
    critic: Callable[[int], Doubled] | None = None,
) -> Trial:
    """Make an algorithm; update it; let it act; save it; update it; restore another from the save; update that too.

    Raises:
        UsageError: the algorithm refuses this environment.
    """
    progress: list[int] = []
    metrics, steps = [], []
    environment, trains = load_environment(env) if isinstance(env, str) else env, backbone is trainable
    counted = CountingEnvironment(environment)
    group = int(getattr(options, record.group_option)) if record.group_option else 1
    num_envs = NUM_ENVS if NUM_ENVS % group == 0 else 2 * group
    task = make_task(
        counted,
        num_envs=num_envs,
        group=group,
        backbone=backbone,
        critic_backbone=critic,
        trainable=trains,
        progress=progress.append,
    )
    twin_task = make_task(
        environment, num_envs=num_envs, group=group, backbone=backbone, critic_backbone=critic, trainable=trains
    )
    algorithm, twin = record.load()(options, task), record.load()(options, twin_task)
    fresh = _saved(algorithm), _saved(twin)
    for second in (False, True):
        if second:
            states = task.collector.states.observations
            admissible = task.collector.states.admissible
            before = _saved(algorithm)
            read_before = _read_by_critic(task)
            acted = algorithm.act(task.reader(states)), algorithm.act(task.reader(states))
            read_to_act = _read_by_critic(task) - read_before
            handed_out = algorithm.state()
            saved, collected = _saved(algorithm), task.collector.state()
            actions, starts = replay.save(task.collector.envs)
            arrays = from_checkpoint({**actions, "observations": counted.observations()}, "the environments' state")
        metrics.append(algorithm.update())
        steps.append((algorithm.step, counted.steps))
    final, live = _saved(algorithm), different(saved, from_checkpoint(handed_out, "state()"))

    twin_envs = twin_task.collector.envs
    replay.restore(twin_envs, arrays, starts, arrays["observations"])
    collector = Collector(twin_envs, twin_task.reader, arrays["observations"])
    restored = record.load()(options, attrs.evolve(twin_task, collector=collector))
    collector.load_state(collected)
    restored.load_state(saved)
    again = restored.update(), _saved(restored)
    for envs in (task.collector.envs, twin_envs):
        envs.close()
    return Trial(
        where=f"in {environment.id} on a {KINDS.get(backbone, 'frozen backbone')}"
        + (" with a critic's own beside it" if critic else ""),
        algorithm=algorithm,
        critic_reads=(_read_by_critic(task), read_to_act) if critic else None,
        forbidden=sum(getattr(each.unwrapped, "closed", 0) for each in counted.made),
        mask=None if admissible is None else admissible.mask,
        live=live,
        fresh=fresh,
        metrics=metrics,
        steps=steps,
        progress=progress,
        acted=acted,
        state_before_acting=before,
        state_after_acting=saved,
        state=final,
        again=again,
    )


def starts_from_its_seed(trials: list[Trial]) -> None:
    """Two objects made with the same options, environments and seed have the same state."""
    for trial in trials:
        unequal = different(*trial.fresh)
        expect(not unequal, f"{trial.where}: {unequal} differs: draw from the task's seed only")


def steps_by_its_collector(trials: list[Trial]) -> None:
    """update() takes its steps by task.collector alone."""
    for trial in trials:
        before = 0
        for step, taken in trial.steps:
            expect(taken > before, f"{trial.where}: an update took no step")
            expect(step == taken, f"{trial.where}: {taken} environment steps were taken, {step} by task.collector")
            before = taken
        expect(trial.progress == sorted(trial.progress), f"{trial.where}: the steps reported go backwards")


def reports_finite_metrics(trials: list[Trial]) -> None:
    """update() returns a dict of finite Python numbers."""
    for trial in trials:
        for metrics in trial.metrics:
            expect(isinstance(metrics, dict), f"{trial.where}: expected a dict, got {type(metrics).__name__}")
            for name, value in metrics.items():
                expect(isinstance(name, str) and name != "step", f"{trial.where}: {name!r} cannot be a metric's name")
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                expect(number, f"{trial.where}: {name} is a {type(value).__name__}: make it a float")
                expect(math.isfinite(value), f"{trial.where}: {name} is {value}: leave it out when there is no number")


def sums_up_in_finite_numbers(trials: list[Trial]) -> None:
    """summary() returns finite numbers by name."""
    for trial in trials:
        try:
            finite_numbers(f"{trial.where}: summary()", trial.algorithm.summary())
        except RunFailed as error:
            expect(False, str(error))


def acts_in_the_action_space(trials: list[Trial]) -> None:
    """act() returns n actions of the action space for n states."""
    for trial in trials:
        task, actions = trial.algorithm.task, trial.acted[0]
        n = task.collector.num_envs
        expect(len(actions) == n, f"{trial.where}: expected {n} actions, got {len(actions)}")
        for action in actions:
            inside = task.collector.action_space.contains(taken_apart(np.asarray(action)[()]))
            expect(inside, f"{trial.where}: {action!r} is not in {task.collector.action_space}")
        one = trial.algorithm.act(task.reader(task.collector.states.observations[:1]))
        expect(len(one) == 1, f"{trial.where}: expected one action for one state, got {len(one)}")


def takes_admissible_actions(trials: list[Trial]) -> None:
    """Where only some actions are admissible, act() and update() take no others."""
    for trial in trials:
        if trial.mask is not None:
            inside = admitted(trial.algorithm.task.collector.action_space, np.asarray(trial.acted[0]), trial.mask)
            for action, mask, each in zip(trial.acted[0], trial.mask, inside, strict=True):
                expect(each, f"{trial.where}: act() took action {action}; admissible are {mask.nonzero()[0].tolist()}")
        expect(
            not trial.forbidden,
            f"{trial.where}: update() took {trial.forbidden} actions that were not admissible: states.admissible says "
            "which are, and states.best(scores) chooses among those alone",
        )


def acts_without_chance_or_trace(trials: list[Trial]) -> None:
    """act() is deterministic and has no side effects."""
    for trial in trials:
        expect(np.array_equal(*trial.acted), f"{trial.where}: a second call gave different actions")
        unequal = different(trial.state_before_acting, trial.state_after_acting)
        expect(not unequal, f"{trial.where}: it changed {unequal}")


def reads_its_critics_backbone(trials: list[Trial]) -> None:
    """If its record says `critic_backbone`, it learns with the critic's features, and acts without them."""
    for trial in trials:
        if trial.critic_reads is not None:
            in_all, to_act = trial.critic_reads
            expect(
                in_all,
                f"{trial.where}: states.critic_features was never read: learn from it, or leave critic_backbone out of "
                "its record",
            )
            expect(not to_act, f"{trial.where}: act() read the critic's features, which evaluation does without")


def saves_copies(trials: list[Trial]) -> None:
    """The arrays of state() stay as they are when learning goes on."""
    for trial in trials:
        expect(
            not trial.live,
            f"{trial.where}: the next update changed {trial.live} of an earlier state(): return copies",
        )


def goes_on_exactly_from_its_state(trials: list[Trial]) -> None:
    """After load_state(state()) the next update is bit-identical."""
    for trial in trials:
        metrics, state = trial.again
        unequal = [
            name
            for name in sorted(metrics.keys() | trial.metrics[1].keys())
            if metrics.get(name) != trial.metrics[1].get(name)
        ]
        changed = different(trial.state, state)
        expect(
            not unequal and not changed,
            f"{trial.where}: {', '.join(unequal) or changed} differs from an uninterrupted run: "
            "state() must hold all that it depends on (weights, optimiser, generators, counters, unfinished episodes)",
        )


def exports_what_it_acts_by(trials: list[Trial]) -> None:
    """plain_policy(), if it has one, gives the same actions as act()."""
    for trial in trials:
        try:
            policy = trial.algorithm.plain_policy()
        except UsageError:
            continue
        states = trial.algorithm.task.collector.states
        wanted, actions = np.asarray(trial.algorithm.act(states)), policy(states)
        alike = actions.dtype.names == wanted.dtype.names and np.shape(actions) == np.shape(wanted)
        expect(
            alike and all(_close(actions, wanted, path) for path, *_ in leaves(wanted.dtype)),
            f"{trial.where}: its numpy policy gives {actions!r}, and act() {wanted!r}",
        )


def offers_the_model_that_it_teaches(trials: list[Trial]) -> None:
    """If it learns a language model, language_policy() gives it, for export."""
    for trial in trials:
        if isinstance(trial.algorithm.task.reader.backbone, GenerativeBackbone):
            policy = trial.algorithm.language_policy()
            expect(isinstance(policy, LanguagePolicy), f"{trial.where}: got {type(policy).__name__}")


def _close(left: np.ndarray, right: np.ndarray, path: Path) -> bool:
    return np.allclose(part_at(left, path), part_at(right, path), rtol=1e-3, atol=1e-4)


def _read_by_critic(task: Task) -> int:
    """How many states the critic's own backbone was given so far."""
    backbone = task.reader.critic
    return backbone.read if isinstance(backbone, Doubled) else 0


def _saved(algorithm: Algorithm) -> Mapping[str, np.ndarray]:
    """The algorithm's state as a checkpoint gives it back."""
    return from_checkpoint(algorithm.state(), "state()")


CHECKS: tuple[Check[list[Trial]], ...] = (
    starts_from_its_seed,
    steps_by_its_collector,
    reports_finite_metrics,
    sums_up_in_finite_numbers,
    acts_in_the_action_space,
    takes_admissible_actions,
    acts_without_chance_or_trace,
    reads_its_critics_backbone,
    saves_copies,
    goes_on_exactly_from_its_state,
    exports_what_it_acts_by,
    offers_the_model_that_it_teaches,
)

"""Checks of environments."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from typing import Any, get_args

import attrs
import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from bitrl.core.acting.nested import name_of
from bitrl.core.environments.action_spaces import FACTORED, factored_actions
from bitrl.core.environments.choice_wrappers import space_of_state
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.episode_metrics import finite_numbers
from bitrl.core.environments.observations import as_array
from bitrl.core.environments.replay import Replayable
from bitrl.core.environments.spaces import check_parts, leaves_of
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.options import parse
from bitrl.core.records import ActionSpace, AlgorithmRecord, EnvironmentRecord
from bitrl.core.registry import registry
from bitrl.testing.outcomes import Check, ConformanceError, Outcome, demand, examine, expect, run_checks
from bitrl.testing.record_checks import RECORD_CHECKS, resolve, sets_options_that_exist

STEPS = 60
"""How many steps of random play two environments are compared over."""


LONGER = 5
"""How often those steps are repeated to see ends of episodes."""


@attrs.frozen
class EnvironmentCase:
    """An environment, and fixed actions to play in it."""

    environment: Environment
    actions: list[Any]


def check_environment(component: str | EnvironmentRecord, *, id: str | None = None, **options: Any) -> None:
    """Check an environment, by name or by record.

    Args:
        component: its name as `bitrl list` prints it, or a record that need not be installed.
        id: what its target is called with; None: the record's name.
        options: of the environment.

    Raises:
        ConformanceError: the contract is broken; one line for each check that failed.
    """
    record = resolve(EnvironmentRecord, component)
    demand(environment_outcomes(record, record.name if id is None else id, **options))


def environment_outcomes(record: EnvironmentRecord, id: str, **options: Any) -> Iterator[Outcome]:
    """The outcome of every check."""
    component = f'environment "{record.name}"'

    def case() -> EnvironmentCase:
        """Its target makes it from its options and its name, and make() a gymnasium.Env."""
        environment = record.load()(parse(record.options, options, "env"), id)
        env = environment.make()
        expect(isinstance(env, gymnasium.Env), f"make() must return a gymnasium.Env, got {type(env).__name__}")
        env.action_space.seed(0)
        actions = [env.action_space.sample() for _ in range(STEPS)]
        env.close()
        return EnvironmentCase(environment, actions)

    yield from run_checks(component, record, (*RECORD_CHECKS, sets_options_that_exist))
    yield from examine(component, case, CHECKS)


def passes_gymnasiums_checker(case: EnvironmentCase) -> None:
    """Gymnasium's own checker finds nothing wrong."""
    env = case.environment.make()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its warnings are advice
            check_env(env, skip_render_check=True, skip_close_check=True)
    except Exception as error:
        message = " ".join(str(error).split())
        raise ConformanceError(f"it says: {message or type(error).__name__}") from error
    finally:
        env.close()


def has_spaces_bitrl_reads(case: EnvironmentCase) -> str | None:
    """Its observations are of spaces that bitrl reads, or Dicts and Tuples of these; its actions of one that algorithms
    can declare.
    """
    env = case.environment.make()
    kinds = tuple(
        getattr(gymnasium.spaces, name) for name in ("Box", "Discrete", "MultiBinary", "MultiDiscrete", "Text")
    )
    seen = space_of_state(env.observation_space)
    known = " or ".join(kind.__name__ for kind in kinds)
    check_parts(seen, "observation_space")
    for _, space in leaves_of(seen):
        expect(isinstance(space, kinds), f"expected observations of {known}, got {type(space).__name__}")
    actions = next((name for name in get_args(ActionSpace) if is_of(env.action_space, name)), None)
    known = " or ".join(get_args(ActionSpace))
    expect(actions, f"expected actions of {known}, got {type(env.action_space).__name__}")
    if isinstance(env.action_space, FACTORED):
        factored_actions(env.action_space)  # it raises where a part cannot be chosen
    env.close()
    algorithms = [entry.record for entry in registry().entries["algorithm"]]
    if any(actions in (record.actions or ()) for record in algorithms if isinstance(record, AlgorithmRecord)):
        return None
    return (
        f"its actions are a {actions} space, which no installed algorithm declares to support: it trains with one that "
        f'does (actions=("{actions}",) in its record)'
    )


def is_of(space: gymnasium.Space[Any], name: str) -> bool:
    """Whether a space is of Gymnasium's class of that name."""
    return isinstance(space, getattr(gymnasium.spaces, name))


def describes_its_observations(case: EnvironmentCase) -> None:
    """observation_spec() names every number of the observation space once, with bounds in order."""
    spec = case.environment.observation_spec()
    expect(isinstance(spec, ObservationSpec), f"expected an ObservationSpec, got {type(spec).__name__}")
    env = case.environment.make()
    space = space_of_state(env.observation_space)
    env.close()
    if spec.parts:
        leaves = dict(leaves_of(space))
        missing = [path for path in spec.parts if path not in leaves]
        expect(not missing, f"the spec has the part {missing}, and the observation space has none there")
        described = [(path, leaves[path]) for path in spec.parts]
        strings = [path for path, leaf in described if isinstance(leaf, gymnasium.spaces.Text)]
        texts = tuple(map(name_of, strings))
        expect(spec.texts == texts, f"expected the strings {texts}, as its parts say, got {spec.texts}")
        count = sum(math.prod(leaf.shape or ()) for path, leaf in described if path not in strings)
        expect(len(spec.fields) == count, f"expected a field for each of the {count} numbers, got {len(spec.fields)}")
        _expect_fields(spec)
        return
    parts = dict(space.items()) if isinstance(space, gymnasium.spaces.Dict) else {}
    for name in spec.texts:
        expect(
            isinstance(parts.get(name), gymnasium.spaces.Text),
            f'the spec names a string "{name}", and the observation space has no Text of that name',
        )
    expect(
        spec.prompt == isinstance(space, gymnasium.spaces.Text),
        f"the spec has prompt={spec.prompt}, but its observations are a {type(space).__name__} space",
    )
    if spec.prompt:
        return
    if spec.grid:
        expect(
            {"image", "direction"} <= parts.keys(),
            'the spec says grid: expected observations with the parts "image" and "direction"',
        )
        return
    if spec.texts and not spec.fields:
        return
    if spec.texts:
        expect(
            "numbers" in parts,
            'the spec names fields, so beside its strings the observation space must have the part "numbers"',
        )
        space = parts["numbers"]
    if isinstance(space, gymnasium.spaces.Discrete):
        expect(spec.discrete == int(space.n), f"expected discrete={int(space.n)}, as in the space, got {spec.discrete}")
        expect(len(spec.fields) == 1, f"expected one field for a Discrete observation, got {len(spec.fields)}")
    else:
        count = math.prod(space.shape or ())
        expect(spec.discrete is None, f"expected discrete=None in a {type(space).__name__} space, got {spec.discrete}")
        expect(
            len(spec.fields) == count,
            f"expected a field for each of the {count} numbers of an observation, got {len(spec.fields)}",
        )
    _expect_fields(spec)


def _expect_fields(spec: ObservationSpec) -> None:
    """Expect names of their own, and bounds in order."""
    names = [field.name for field in spec.fields]
    expect(all(name.strip() for name in names), "a field has no name")
    expect(len(set(names)) == len(names), "two fields have the same name")
    for field in spec.fields:
        for bound in (field.low, field.high):
            expect(bound is None or math.isfinite(bound), f"{field.name}: write None for a bound that is not finite")
        if field.low is not None and field.high is not None:
            expect(
                field.low < field.high,
                f"{field.name}: its low bound {field.low:g} is not below its high bound {field.high:g}",
            )


def names_its_actions_all_or_none(case: EnvironmentCase) -> None:
    """action_names() names every action of a Discrete space once, or none."""
    names = case.environment.action_names()
    env = case.environment.make()
    space = env.action_space
    env.close()
    count = int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else 0
    expect(len(names) in (0, count), f"expected {f'{count} names or none' if count else 'no names'}, got {len(names)}")
    expect(len(set(names)) == len(names), "two actions have the same name")


def reports_success_and_metrics(case: EnvironmentCase) -> None:
    """info["success"] is a bool, and info["metrics"] a dict of finite numbers, where it reports them."""
    env = case.environment.make()
    env.reset(seed=7)
    for action in case.actions * LONGER:
        _, _, terminated, truncated, info = env.step(action)
        success, metrics = info.get("success", False), info.get("metrics", {})
        expect(
            isinstance(success, (bool, np.bool_)),
            f'info["success"] is {success!r}, a {type(success).__name__}: expected True or False',
        )
        finite_numbers('info["metrics"]', metrics)
        if terminated or truncated:
            env.reset()
    env.close()


def repeats_itself_by_seed(case: EnvironmentCase) -> None:
    """Two environments with the same seed and actions give the same observations, rewards and ends."""
    first, second = case.environment.make(), case.environment.make()
    _expect_same(first, first.reset(seed=7)[0], second.reset(seed=7)[0], "the first observation")
    _play_alike(first, second, case.actions)
    first.close()
    second.close()


def comes_back_by_replay(case: EnvironmentCase) -> None:
    """Replaying an episode restores the environment, which continues identically."""
    first, second = Replayable(case.environment.make()), Replayable(case.environment.make())
    first.reset(seed=7)
    _play(first, case.actions[: STEPS // 2])
    observation, _ = first.reset()  # without a seed, as at the end of an episode
    for action in case.actions[:5]:
        observation, _, terminated, truncated, _ = first.step(action)
        if terminated or truncated:
            observation, _ = first.reset()
    start, actions = first.state()
    try:
        start = json.loads(json.dumps(start))
    except TypeError as error:
        raise ConformanceError(
            f"the state of np_random cannot be saved: it must be numpy's default, PCG64 ({error})"
        ) from None
    _expect_same(first, second.restore(start, actions), observation, "the observation restored by replaying")
    _play_alike(first, second, case.actions)
    first.close()
    second.close()


def gives_equal_seeds_equal_prompts(case: EnvironmentCase) -> None:
    """If it gives prompts, they are strings with something in them, and do not depend on what was answered before."""
    if not case.environment.observation_spec().prompt:
        return
    first, second = case.environment.make(), case.environment.make()
    prompts = first.reset(seed=7)[0], second.reset(seed=7)[0]
    for index, actions in enumerate(zip(case.actions, reversed(case.actions), strict=True)):
        expect(all(prompts), "a prompt is empty")
        expect(
            prompts[0] == prompts[1],
            f"prompt {index + 1} differs after other answers to those before it: draw prompts from np_random, and "
            "nothing that depends on an answer, so that the completions of a group have one prompt",
        )
        steps = [env.step(action) for env, action in zip((first, second), actions, strict=True)]
        if not all(step[2] or step[3] for step in steps):  # a dialogue: what is asked next depends on the answer
            break
        prompts = first.reset()[0], second.reset()[0]
    first.close()
    second.close()


def _play(env: gymnasium.Env, actions: list[Any]) -> None:
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()


def _play_alike(first: gymnasium.Env, second: gymnasium.Env, actions: list[Any]) -> None:
    for index, action in enumerate(actions, start=1):
        left, right = first.step(action), second.step(action)
        _expect_same(first, left[0], right[0], f"the observation after {index} steps")
        expect(math.isfinite(float(left[1])), f"the reward of step {index} is {left[1]}")
        expect(left[1] == right[1], f"the reward of step {index} differs: {left[1]} and {right[1]}")
        expect(left[2:4] == right[2:4], f"one ended at step {index}, and the other did not")
        if left[2] or left[3]:
            _expect_same(
                first, first.reset()[0], second.reset()[0], f"the first observation of an episode, after {index} steps,"
            )


def _expect_same(env: gymnasium.Env, left: Any, right: Any, what: str) -> None:
    same = np.array_equal(as_array(env.observation_space, left), as_array(env.observation_space, right))
    expect(same, f"{what} differs: all randomness must come from np_random, and reset(seed=…) must seed it")


CHECKS: tuple[Check[EnvironmentCase], ...] = (
    passes_gymnasiums_checker,
    has_spaces_bitrl_reads,
    describes_its_observations,
    names_its_actions_all_or_none,
    reports_success_and_metrics,
    repeats_itself_by_seed,
    comes_back_by_replay,
    gives_equal_seeds_equal_prompts,
)

"""The boundary to environments that others wrote: what they return is copied and checked against what they declare.

The outside gets observations of the space's shape and dtype that never change afterwards, rewards that are finite
floats and ends that are booleans. What cannot be honoured is an `EnvironmentFault`; crashes.py adds which environment
it was, and when. Every environment that bitrl steps goes through here once (`checked`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite, prod
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from bitrl.core.acting.admissible import COMMANDS, MASK, OBSERVATION, splits
from bitrl.core.acting.contracts import is_unicode
from bitrl.core.acting.factors import FactoredActions
from bitrl.core.acting.nested import name_of
from bitrl.core.environments.action_spaces import FACTORED, factored_actions
from bitrl.core.environments.crashes import EnvironmentFault
from bitrl.core.environments.episode_metrics import METRICS, finite_numbers
from bitrl.core.environments.spaces import check_parts, leaves_of
from bitrl.core.errors import RunFailed, cause
from bitrl.core.registry import registry

KEPT = ("success", METRICS)
"""What of an environment's `info` is passed on; a vector environment cannot stack just anything."""

LARGEST_REWARD = float(np.finfo(np.float32).max)
"""Rewards are learned from as float32."""

INT_SEEDS = 2**31
"""The seeds that a signed integer of 32 bits holds, as simulators in C often have it."""

OLD_API = (
    "that is the API of Gym before 0.26; expected reset(seed=None, options=None) → (observation, info) and "
    "step(action) → (observation, reward, terminated, truncated, info): update the environment, or wrap it in "
    "shimmy.GymV21CompatibilityV0"
)


UNREAD_MASK = (
    f'info["{MASK}"] is left out, and every action counts as admissible: give it from the first reset on; a plugin '
    "wraps its environment in bitrl.core.environments.choice_wrappers.ActionMask"
)


class Checked(gymnasium.Wrapper):
    """Copies and checks what `reset` and `step` return, and what they are given; a failing `close` is a warning, and so
    is an action mask that nobody reads.

    Of `info` only `KEPT` is passed on.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        names: Sequence[str],
        closing: Callable[[str], None],
        unread: Callable[[], None] | None,
    ):
        """`names` are those of an observation's numbers, if they are known; `closing` is told why closing failed,
        `unread` that there is a mask which is no part of the observation.
        """
        super().__init__(env)
        self._space, self._names, self._closing, self._unread = env.observation_space, names, closing, unread
        self.observation_space = self._space  # also where the environment replaces its own later
        # Most observations are plain arrays: compared here, and only looked at in detail if they are not.
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype | None = None
        if type(self._space) is Box:
            self._shape, self._dtype = self._space.shape, self._space.dtype
        self._whole = self._dtype is not None and self._dtype.kind != "f"
        self._actions = env.action_space
        self._refuse_old_reset()
        _check_spaces(env)
        self._masked = _mask_check(env)
        if self._masked is not None:
            self._unread = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Raises:
            EnvironmentFault: what comes back is not what Gymnasium's API or the environment's spaces say.
        """
        result: Any = self._reset(seed, options)
        pair = isinstance(result, (tuple, list)) and len(result) == 2
        if not (pair and (result[1] is None or isinstance(result[1], Mapping))):
            if pair and isinstance(result, tuple):
                raise EnvironmentFault(f"expected a dict of information, got {briefly(result[1])}")
            raise EnvironmentFault(f"reset() returned {briefly(result)}, without a dict of information: {OLD_API}")
        now = self.env.action_space
        if now is not self._actions and now != self._actions:
            raise EnvironmentFault(
                f"its action_space was {briefly(self._actions)} when it was made, and has become {briefly(now)}: it "
                "must stay what it was"
            )
        if seed is not None:
            _check_generator(self.env.unwrapped.np_random)  # now, not when it is to be saved, hours later
        observation = self._observation(result[0])
        if self._masked is not None:
            self._masked(observation[MASK])
        return observation, self._info(result[1])

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> Any:
        try:
            return self.env.reset(seed=seed, options=options)
        except OverflowError:
            if seed is None or seed < INT_SEEDS:
                raise
            # Seeds of 32 bits are usual, but many a simulator hands its own to a signed integer of C.
            return self.env.reset(seed=seed - INT_SEEDS, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step. Raises EnvironmentFault as `reset` does."""
        try:
            if isinstance(action, (np.ndarray, dict, tuple)):
                action = action.copy() if isinstance(action, np.ndarray) else copy.deepcopy(action)
            result: Any = self.env.step(action)
        except ValueError as error:
            if "expected 5, got" in str(error):  # one of Gymnasium's own wrappers took the result apart
                raise EnvironmentFault(f"step() did not return 5 values ({error}): {OLD_API}") from error
            raise
        if not (isinstance(result, (tuple, list)) and len(result) == 5):
            if isinstance(result, (tuple, list)) and len(result) == 4:
                raise EnvironmentFault(f"step() returned 4 values instead of 5: {OLD_API}")
            came = f"{len(result)} values" if isinstance(result, (tuple, list)) else briefly(result)
            raise EnvironmentFault(
                f"step() returned {came}: expected the 5 values observation, reward, terminated, truncated, info"
            )
        observation, reward, terminated, truncated, info = result
        if reward.__class__ is not float or not -LARGEST_REWARD <= reward <= LARGEST_REWARD:
            reward = _reward(reward)
        if terminated.__class__ is not bool:
            terminated = _boolean("terminated", terminated)
        if truncated.__class__ is not bool:
            truncated = _boolean("truncated", truncated)
        observation = self._observation(observation)
        if self._masked is not None and not (terminated or truncated):
            self._masked(observation[MASK])
        return observation, reward, terminated, truncated, self._info(info)

    def close(self) -> None:
        """Close the environment; a failure is reported, since all that mattered is done by then."""
        try:
            self.env.close()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a simulation raises when it ends
            self._closing(f"close() failed, which stops nothing: {cause(error)[:200]}")

    def _observation(self, observation: Any) -> Any:
        alike = observation.__class__ is np.ndarray and observation.shape == self._shape
        if alike and observation.dtype == self._dtype and (self._whole or all_finite(observation)):
            return observation.copy()
        try:
            return conforming(self._space, observation, names=self._names)
        except EnvironmentFault as fault:
            now = self.env.observation_space
            changed = f"; observation_space has become {briefly(now)} since" if now != self._space else ""
            raise EnvironmentFault(f"{fault}{changed}") from fault

    def _info(self, info: Any) -> dict[str, Any]:
        if info is None or (info.__class__ in (dict, list, tuple, str) and not info):
            return {}
        if not isinstance(info, Mapping):
            raise EnvironmentFault(f"expected a dict of information, got {briefly(info)}")
        if self._unread is not None and info.get(MASK) is not None and self._fits(info[MASK]):
            self._unread()
        kept = {name: info[name] for name in KEPT if info.get(name) is not None}
        if "success" in kept:
            kept["success"] = _success(kept["success"])
        if METRICS in kept:
            try:
                kept[METRICS] = finite_numbers(f'info["{METRICS}"]', kept[METRICS])
            except RunFailed as error:
                raise EnvironmentFault(str(error)) from error
        return kept

    def _fits(self, mask: Any) -> bool:
        """Whether a mask is one of the actions. Of Discrete spaces, another length has been said already."""
        if isinstance(self._actions, Discrete):
            shape = (len(mask),) if isinstance(mask, (list, tuple)) else getattr(mask, "shape", None)
            return shape == (self._actions.n,)
        return isinstance(self._actions, (MultiDiscrete, MultiBinary))

    def _refuse_old_reset(self) -> None:
        """Raise EnvironmentFault if the environment's `reset` takes no seed or no options."""
        try:
            parameters = inspect.signature(self.env.unwrapped.reset).parameters
        except (TypeError, ValueError):  # a builtin's, which cannot be read
            return
        if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
            return
        missing = [name for name in ("seed", "options") if name not in parameters]
        if "seed" in missing:
            raise EnvironmentFault(f"its reset() takes no seed: {OLD_API}")
        if missing:
            raise EnvironmentFault("its reset() takes no options: expected reset(self, *, seed=None, options=None)")


def checker(id: str, names: Sequence[str] = ()) -> Callable[[gymnasium.Env], gymnasium.Env]:
    """`checked` for the environments of one run, named `id`: it warns of one failing `close`, not of all, nor again of
    those that were made before the run.
    """
    told: list[str] = []

    def closing(why: str) -> None:
        if not told:
            registry().report(f"warning: environment {id}: {why}")
        told.append(why)

    def unread() -> None:
        registry().report(f"warning: environment {id}: {UNREAD_MASK}")

    return lambda env: checked(env, names, closing, unread)


def checked(
    env: gymnasium.Env,
    names: Sequence[str] = (),
    closing: Callable[[str], None] = lambda why: None,
    unread: Callable[[], None] | None = None,
) -> gymnasium.Env:
    """`env` with what it returns copied and checked; `env` itself if that is done inside it already.

    Raises:
        EnvironmentFault: it is written for the API of Gym before 0.26.
    """
    inner: Any = env
    while isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, Checked):
            return env
        inner = inner.env
    return Checked(env, names, closing, unread)


def conforming(space: gymnasium.Space[Any], value: Any, place: str = "", names: Sequence[str] = ()) -> Any:
    """A copy of an observation, or of the part of one at `place`, with the dtypes of its space.

    Args:
        space: that of `value`.
        value: whatever the environment returned.
        place: the keys that lead to it, as `["state"]["numbers"]`.
        names: those of its numbers, where they are known.

    Raises:
        EnvironmentFault: it is not of the space's shape or kind, its numbers do not fit the dtype, or are not finite.
    """
    what = f"observation{place}"
    if isinstance(space, Dict):
        if not isinstance(value, Mapping):
            raise EnvironmentFault(f"{what}: expected a dict with {_keys(space)}, got {briefly(value)}")
        missing = [name for name in space if name not in value]
        if missing:
            raise EnvironmentFault(f"{what}: expected the keys {_keys(space)}, {missing[0]!r} is missing")
        numbers = {"numbers", OBSERVATION} & {*space}
        return {
            name: conforming(part, value[name], f"{place}[{name!r}]", names if name in numbers else ())
            for name, part in space.items()
        }
    if isinstance(space, Tuple):
        given = [*value] if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim) else []
        if len(given) != len(space):
            raise EnvironmentFault(f"{what}: expected a tuple of {len(space)} parts, got {briefly(value)}")
        inside = enumerate(zip(space, given, strict=True))
        return tuple(conforming(part, each, f"{place}[{index}]") for index, (part, each) in inside)
    if isinstance(space, Text):
        if not isinstance(value, str):
            raise EnvironmentFault(f"{what}: expected a string, got {briefly(value)}")
        if len(value) > space.max_length:
            raise EnvironmentFault(
                f"{what}: its space allows {space.max_length:,} characters, got {len(value):,}: {briefly(value)}"
            )
        if not is_unicode(value):
            raise EnvironmentFault(
                f"{what}: {briefly(value)} holds half of a surrogate pair, which is not Unicode text: decode its bytes "
                'with errors="replace"'
            )
        return str(value)
    if isinstance(space, Discrete):
        number = _array(what, space, value)
        if not space.start <= number < space.start + space.n:
            raise EnvironmentFault(
                f"{what}: expected an integer from {space.start} to {space.start + space.n - 1}, got {number}"
            )
        return number[()]
    if isinstance(space, (Box, MultiBinary, MultiDiscrete)):
        array = _array(what, space, value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise EnvironmentFault(f"{what}: expected finite numbers, got {_not_finite(array, names)}")
        return array
    return copy.deepcopy(value)


def all_finite(numbers: np.ndarray) -> bool:
    """Whether all of some floats are finite. Quick for the few that most observations have."""
    # A sum is finite only if each of them is; where it overflows although they are, the array decides.
    return (numbers.size <= 64 and isfinite(sum(numbers.ravel().tolist()))) or bool(np.isfinite(numbers).all())


def briefly(value: Any) -> str:
    """What a value is, on one short line: numbers and texts as they are, arrays by shape and dtype."""
    if isinstance(value, np.ndarray) and value.dtype.kind != "O" and value.size > 4:
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    return text if len(text) <= 80 else f"{text[:77]}…"


def _array(what: str, space: gymnasium.Space[Any], value: Any) -> np.ndarray:
    """A new array of the space's shape and dtype with the numbers of `value`."""
    try:
        given = np.asarray(value)
    except (ValueError, TypeError):  # rows of different lengths
        given = np.empty(0, object)
    shape, dtype = space.shape or (), np.dtype(space.dtype)
    if np.ma.is_masked(value):
        raise EnvironmentFault(f"{what}: expected numbers, got a masked array that lacks some of them")
    if given.dtype.kind not in "biuf":
        raise EnvironmentFault(f"{what}: expected numbers, shape {shape} and dtype {dtype}, got {briefly(value)}")
    if given.shape != shape:
        raise EnvironmentFault(f"{what}: expected shape {shape}, as its space says, got shape {given.shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        array = given.astype(dtype)
        if dtype.kind == "f":
            wrong = np.isfinite(given) & ~np.isfinite(array) if given.dtype != dtype else np.False_
        else:
            wrong = array != given
    if np.any(wrong):
        first = np.ravel(given)[int(np.argmax(np.ravel(wrong)))]
        raise EnvironmentFault(f"{what}: {first} does not fit the space's dtype, {dtype}")
    return array


def _check_spaces(env: gymnasium.Env) -> None:
    """Raise EnvironmentFault if there is nothing to choose, or a space has parts or a dtype that no checkpoint can
    hold.
    """
    actions = env.action_space
    check_parts(env.observation_space, "observation_space")
    if isinstance(actions, FACTORED):
        factored_actions(actions)
    if isinstance(actions, Box) and not prod(actions.shape):
        raise EnvironmentFault(
            f"its action_space is {briefly(actions)}, which holds no numbers: there is nothing to learn"
        )
    for name, space in (("observation_space", env.observation_space), ("action_space", actions)):
        for path, part in leaves_of(space):
            if not isinstance(part, (Box, Discrete, MultiBinary, MultiDiscrete)):
                continue
            dtype = np.dtype(part.dtype)
            if dtype.kind not in "biuf" or dtype.itemsize > 8:
                raise EnvironmentFault(
                    f"its {name} has the dtype {dtype}, which cannot be saved: give it float64 or less"
                )
            if isinstance(part, MultiDiscrete):
                pairs = zip(part.start.ravel().tolist(), part.nvec.ravel().tolist(), strict=True)
                largest = max((start + count - 1 for start, count in pairs), default=0)
                if largest > np.iinfo(dtype).max:
                    where = f' ("{name_of(path)}")' if path else ""
                    raise EnvironmentFault(
                        f"its {name}{where} is {briefly(part)}, whose dtype, {dtype}, has no {largest}: give it "
                        "dtype=np.int64"
                    )


def _mask_check(env: gymnasium.Env) -> Callable[[np.ndarray], None] | None:
    """What raises EnvironmentFault for a wrong mask, where observations have one of the actions.

    Raises:
        EnvironmentFault: what stands for a mask, or for commands, is none, or there is more beside it and the state.
    """
    space, actions = env.observation_space, env.action_space
    if not (isinstance(space, Dict) and splits(tuple(space))):
        return None
    if COMMANDS in space.spaces and not (isinstance(space[COMMANDS], Text) and isinstance(actions, Discrete)):
        raise EnvironmentFault(
            f'its observations have the keys "{OBSERVATION}" and "{COMMANDS}", which stand for a state and the texts '
            "of its admissible commands, of which a Discrete action is one: rename one of them"
        )
    if len(space) > 2:
        raise EnvironmentFault(
            f'its observations have the keys {_keys(space)[:120]}: expected "{OBSERVATION}", which stands for the '
            f'state, and either "{MASK}" or "{COMMANDS}": put all else into "{OBSERVATION}", which may be a Dict'
        )
    if MASK not in space.spaces:
        return None
    if not isinstance(actions, (Discrete, *FACTORED)) or not (choices := factored_actions(actions)).values:
        return None
    if space[MASK].shape != (choices.values,):
        raise EnvironmentFault(
            f'its observations have an "{MASK}" of {briefly(space[MASK])}: expected a MultiBinary({choices.values}), '
            f'the values of all choices one after another, or info["{MASK}"] as action_space.sample() takes it'
        )
    return partial(_check_mask, choices, isinstance(actions, Discrete))


def _check_mask(actions: FactoredActions, alone: bool, mask: np.ndarray) -> None:
    """Raise EnvironmentFault if a mask is not of 0 and 1, or leaves a factor nothing to choose; `alone`: it is one."""
    values = {*mask.tolist()}
    if not values <= {0, 1}:
        raise EnvironmentFault(f"observation['{MASK}']: expected 0 or 1 for each action, got {mask.tolist()!s:.80}")
    if 1 in values and (alone or 0 not in values):
        return
    forbidden = actions.first_forbidden(mask[None])
    if forbidden is not None:
        what = f" of {forbidden}" if forbidden else ""
        raise EnvironmentFault(f"its action_mask forbids every value{what}: set at least one entry to 1")


def _check_generator(generator: Any) -> None:
    """Raise EnvironmentFault if an environment's `np_random` is not NumPy's default: its runs could not be resumed."""
    if not isinstance(generator, np.random.Generator) or type(generator.bit_generator) is not np.random.PCG64:
        kind = type(getattr(generator, "bit_generator", generator))
        raise EnvironmentFault(
            f"its np_random is a {kind.__module__}.{kind.__qualname__}, whose state cannot be saved: it must be "
            "numpy's default, PCG64, as super().reset(seed=seed) makes it"
        )


def _not_finite(array: np.ndarray, names: Sequence[str]) -> str:
    """The first number of an array that is not finite, and where: `nan as number 2 (pole_angle)`."""
    place = int(np.argmin(np.isfinite(array.ravel())))
    if len(names) == prod(array.shape):
        return f"{array.ravel()[place]} as {names[place]}, number {place} counted from 0"
    return f"{array.ravel()[place]} as number {place} counted from 0"


def _reward(reward: Any) -> float:
    """A reward as a finite float; arrays of a single number are accepted."""
    if not isinstance(reward, (float, np.floating)):
        array = _single(reward)
        if array is None or array.dtype.kind not in "biuf":
            raise EnvironmentFault(f"expected a number as reward, got {briefly(reward)}")
        reward = array.item()
    number = float(reward)
    if not -LARGEST_REWARD <= number <= LARGEST_REWARD:
        raise EnvironmentFault(f"expected a finite reward (float32), got {number}")
    return number


def _success(value: Any) -> bool | float:
    """Whether, or how far, a task was solved: a bool, or a number from 0 to 1."""
    array = _single(value)
    if array is None or array.dtype.kind not in "biuf" or not 0 <= array.item() <= 1:
        raise EnvironmentFault(f'expected True or False as info["success"], got {briefly(value)}')
    success: bool | float = array.item()
    return success


def _boolean(name: str, value: Any) -> bool:
    """An end of an episode as a bool; 0 and 1 are accepted, in an array of a single number too."""
    if isinstance(value, np.bool_):
        return bool(value)
    array = _single(value)
    if array is None or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        raise EnvironmentFault(f"expected True or False as {name}, got {briefly(value)}")
    return bool(array.item())


def _single(value: Any) -> np.ndarray | None:
    """`value` as an array of one element, or None."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return None
    return array if array.size == 1 else None


def _keys(space: Dict) -> str:
    return ", ".join(map(repr, space))

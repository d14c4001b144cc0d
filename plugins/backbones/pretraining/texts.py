"""Texts that hold numbers, with the numbers: what the model learns to read.

Knows how to make up states (of known environments and of invented ones) and has them written as text. Known
environments go through the true serializers; invented ones get random names, counts, scales, decimals and layouts,
so that the model reads numbers rather than four particular fields. Does not know tokens or losses.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

from bitrl.core.errors import UsageError

MAX_NUMBERS = 20
"""The most numbers in one text: the model has that many slots to report them in."""

FORMATS = ("json", "compact", "natural")

KNOWN_ENVIRONMENTS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")


@attrs.frozen
class Texts:
    """n texts and the numbers in them. Rows come in groups of `group`: states of one kind, the odd rows near twins
    of the even.

    numbers: [n, MAX_NUMBERS] float64, NaN beyond a text's count. ranges: the same shape, a field's half-width where
    the environment is known and NaN elsewhere; centres goes with it.
    """

    texts: list[str]
    numbers: np.ndarray
    ranges: np.ndarray
    centres: np.ndarray
    plain: bool = True
    """Whether the numbers stand in the text in this order and with their signs."""


@attrs.frozen
class Known:
    """A known environment seen through one serializer."""

    env: str
    format: str
    write: Callable[[np.ndarray], list[str]]
    centre: np.ndarray
    half: np.ndarray
    visited: np.ndarray  # states [n, k] that a random policy meets

    def uniform(self, rng: np.random.Generator, count: int, part: float = 1.0) -> np.ndarray:
        """States [count, k] float64, uniform in the given part of the bounds around the centre."""
        return self.centre + self.half * part * rng.uniform(-1, 1, (count, len(self.half)))

    def states(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """A mix of states [count, k]: everywhere, near the centre at several scales, and met by a random policy."""
        kind = rng.random(count)
        states = self.uniform(rng, count)
        scale = 10.0 ** rng.uniform(-1.7, -0.3, (count, 1))
        near = self.centre + self.half * scale * rng.standard_normal((count, len(self.half)))
        states = np.where((kind < 0.45)[:, None], near, states)
        met = self.visited[rng.integers(len(self.visited), size=count)]
        return np.where((kind < 0.2)[:, None], met, states)

    def sample(self, rng: np.random.Generator, count: int) -> Texts:
        """`count` texts (an even number), one group."""
        states = self.states(rng, count)
        # A twin differs by a hundredth of the bounds or a tenth of the state's own size, whichever is less: small
        # to a reader who sees the whole range and small to one who looks closely.
        size = np.minimum(0.01 * self.half, 0.1 * np.abs(states[::2] - self.centre) + 0.001 * self.half)
        states[1::2] = states[::2] + size * rng.standard_normal(states[::2].shape)
        states = states.astype(np.float32)
        numbers = _padded(states, count)
        return Texts(
            self.write(states), numbers, _padded(np.tile(self.half, (count, 1)), count),
            _padded(np.tile(self.centre, (count, 1)), count), plain=self.format != "natural",
        )  # fmt: skip


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    padded = np.full((count, MAX_NUMBERS), np.nan)
    padded[:, : values.shape[1]] = values
    return padded


def known(env: str, format: str, seed: int) -> Known:
    """The environment `env` written by the built-in serializer `format`. Fields without bounds are taken to stay in ±3.

    Raises:
        UsageError: there is no such environment, or it has more numbers than the model has slots.
    """
    from bitrl.core.config import find_environment
    from bitrl.core.loading import load_serializer
    from bitrl.core.options import parse

    serializer = load_serializer(format, env=env)
    record = find_environment(env)
    environment = record.load()(parse(record.options, {}, "env"), env)
    fields = environment.observation_spec().fields
    if len(fields) > MAX_NUMBERS:
        raise UsageError(f"--envs {env}: it has {len(fields)} numbers, and a model is trained on {MAX_NUMBERS} at most")
    low = np.array([-3.0 if field.low is None else field.low for field in fields])
    high = np.array([3.0 if field.high is None else field.high for field in fields])
    world = environment.make()
    visited = _random_policy_states(world, seed)
    world.close()
    return Known(env, format, serializer.batch, (low + high) / 2, (high - low) / 2, visited)


def _random_policy_states(world: Any, seed: int, count: int = 4000) -> np.ndarray:
    world.action_space.seed(seed)
    observation, _ = world.reset(seed=seed)
    states: list[Any] = []
    while len(states) < count:
        states.append(observation)
        observation, _, terminated, truncated, _ = world.step(world.action_space.sample())
        if terminated or truncated:
            observation, _ = world.reset()
    return np.array(states, dtype=np.float64).reshape(count, -1)


_STEMS = """
position velocity angle speed height depth width distance force torque temperature pressure level charge voltage
current power energy mass load flow rate time delay count score reward health fuel wind slope tilt roll pitch
yaw heading bearing altitude latitude longitude acceleration momentum spin phase frequency gain error offset
bias target goal limit price volume demand supply stock queue size area density humidity brightness
distance_to_goal noise signal x y z vx vy vz dx dy dz theta phi omega alpha beta q dq pos vel acc rot quat root
torso hip knee ankle foot thigh leg arm elbow wrist hand head joint motor wheel cart pole car ball paddle player
enemy robot left right front back upper lower inner outer mean max min total relative
""".split()  # noqa: SIM905 (a list of 120 quoted words is no easier to read)
_NUMBER = re.compile(r"(?<![\w.])-?[0-9]+(?:\.[0-9]+)?")


def numbers_so_far(text: str, ends: Sequence[int], count: int) -> np.ndarray:
    """The text's numbers as far as they are written at each of the character positions `ends`: [len(ends), count].

    NaN before a number begins; a half-written one counts as what stands there ("-3.1" of "-3.14", 0 of "-"). All NaN if
    the text does not hold exactly `count` numbers.
    """
    result = np.full((len(ends), count), np.nan)
    spans = [match.span() for match in _NUMBER.finditer(text)]
    if len(spans) != count:
        return result
    for slot, (start, stop) in enumerate(spans):
        for row in range(bisect.bisect_right(ends, start), len(ends)):
            if ends[row] >= stop:
                result[row:, slot] = float(text[start:stop])
                break
            written = text[start : ends[row]]
            result[row, slot] = 0.0 if written == "-" else float(written)
    return result


_UNITS = ("", "", "", " m", " m/s", " rad", " rad/s", " N", " kg", " s", " V", " A", " W", " degrees", " percent")
_OPENINGS = ("", "State: ", "Observation: ", "The state is ", "Sensors: ", "Now ")


def _field_name(rng: np.random.Generator) -> str:
    words = [str(word) for word in rng.choice(_STEMS, size=rng.integers(1, 4))]
    if rng.random() < 0.15:  # a made-up word: not every name is in a dictionary
        words[0] = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=rng.integers(2, 8)))
    name = "_".join(words)
    return f"{name}{'_' * int(rng.integers(2))}{rng.integers(10)}" if rng.random() < 0.2 else name


def _layout(rng: np.random.Generator, names: Sequence[str]) -> Callable[[list[str]], str]:
    """A random way to write the fields: numbers already formatted → text."""
    kind = rng.random()
    if kind < 0.35:
        return lambda numbers: "{" + ", ".join(f'"{n}": {v}' for n, v in zip(names, numbers, strict=True)) + "}"
    if kind < 0.6:
        separator = rng.choice([" ", ", ", "; "])
        return lambda numbers: separator.join(f"{n}={v}" for n, v in zip(names, numbers, strict=True))
    opening = str(rng.choice(_OPENINGS))
    if kind < 0.75:
        separator = rng.choice(["\n", ", ", "; "])
        return lambda numbers: opening + separator.join(f"{n}: {v}" for n, v in zip(names, numbers, strict=True))
    if kind < 0.85:
        return lambda numbers: opening + "[" + ", ".join(numbers) + "]"
    words = [name.strip("_0123456789").replace("_", " ") or "it" for name in names]
    units = [str(unit) for unit in rng.choice(_UNITS, size=len(names))]
    verb, separator = rng.choice([" is ", " at ", " of "]), rng.choice([", ", ". ", " and ", "; "])
    article = str(rng.choice(["the ", "The ", ""]))
    return lambda numbers: (
        opening
        + separator.join(f"{article}{w}{verb}{v}{u}" for w, v, u in zip(words, numbers, units, strict=True))
        + "."
    )


def invented(rng: np.random.Generator, groups: int, group: int) -> Texts:
    """Texts of made-up environments: `groups` schemas, `group` (even) states of each."""
    texts: list[str] = []
    numbers = np.full((groups * group, MAX_NUMBERS), np.nan)
    for first in range(0, groups * group, group):
        count = int(min(MAX_NUMBERS, rng.geometric(0.18)))
        scale = 10.0 ** rng.uniform(-1.5, 2.0, count)
        decimals = np.clip(np.round(rng.uniform(1.5, 3.5, count) - np.log10(scale)), 0, 5).astype(int)
        if rng.random() < 0.6:  # most writers give every number the same decimals
            decimals[:] = max(decimals.max(), 1) if rng.random() < 0.5 else 3
        centre = np.where(rng.random(count) < 0.2, scale * rng.uniform(-1, 1, count), 0.0)
        values = scale * np.where(
            rng.random((group, 1)) < 0.5, rng.uniform(-1, 1, (group, count)), 0.4 * rng.standard_normal((group, count))
        )
        small = 10.0 ** rng.uniform(-1.5, 0, (group, 1))
        values *= np.where(rng.random((group, 1)) < 0.4, small, 1.0)
        values += centre
        nearness = np.minimum(0.01 * scale, 0.1 * np.abs(values[::2]) + 0.001 * scale)
        values[1::2] = values[::2] + nearness * rng.standard_normal((group // 2, count))
        write = _layout(rng, [_field_name(rng) for _ in range(count)])
        for row, state in enumerate(values):
            written = [f"{v:.{d}f}" for v, d in zip(state, decimals, strict=True)]
            texts.append(write(written))
            numbers[first + row, :count] = [float(v) for v in written]
    nowhere = np.full_like(numbers, np.nan)
    return Texts(texts, numbers, nowhere, nowhere)

"""Texts that hold numbers, with the numbers: what the model learns to read.

Knows how to make up states (of known environments and of invented ones) and has them written as text. Known
environments go through the true serializers; invented ones get random names, counts, scales, decimals and layouts,
so that the model reads numbers rather than four particular fields. Does not know tokens or losses.
"""

from __future__ import annotations

import bisect
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

from bitrl.core.errors import UsageError

NAME_WORDS, WORD_BUCKETS = 5, 4096
"""Words of a field's name that are looked at, and buckets they are hashed into."""

MAX_NUMBERS = 20
"""The most numbers in one text: the model has that many slots to report them in."""

FORMATS = ("json", "compact", "natural")


@attrs.frozen
class Texts:
    """n texts and the numbers in them. Rows come in groups of `group`: states of one kind, the odd rows near twins
    of the even.

    numbers: [n, MAX_NUMBERS] float64, NaN beyond a text's count. frames [n, MAX_NUMBERS, 2, 2]: where the environment
    is known, each number's (centre, half-width), first of its bounds, then of where agents are (2.5 standard
    deviations); NaN elsewhere.
    """

    texts: list[str]
    numbers: np.ndarray
    frames: np.ndarray
    plain: bool = True
    """Whether the numbers stand in the text, each once, with their signs or after a word for them."""
    order: tuple[int, ...] = ()
    """Which number stands first, second, …; empty: they stand in their own order."""
    facts: np.ndarray | None = None
    """[n, facts], 1, 0 or NaN: answers to the questions of environment_texts.FACTS."""
    names: np.ndarray = attrs.field(factory=lambda: np.full((1, MAX_NUMBERS, NAME_WORDS), -1))
    """int64 [groups, MAX_NUMBERS, NAME_WORDS]: what the numbers are called, see `name_words`."""


def name_words(names: Sequence[str], env: str = "") -> np.ndarray:
    """The words of fields' names as bucket numbers, -1 where there are none: int64 [len(names), NAME_WORDS].

    A known environment's name as a whole is a word too, so that it can be read in its own way.
    """
    result = np.full((len(names), NAME_WORDS), -1)
    for row, name in enumerate(names):
        words = [word for word in re.split(r"[^a-zA-Z]+|(?<=\D)(?=\d)", name) if word] + re.findall(r"\d+", name)
        whole = [f"{env}/{name}"] if env else []
        ids = [zlib.crc32(word.lower().encode()) % WORD_BUCKETS for word in [*whole, *words][:NAME_WORDS]]
        result[row, : len(ids)] = ids
    return result


@attrs.frozen
class Known:
    """A known environment written by one serializer."""

    env: str
    format: str
    write: Callable[[np.ndarray], list[str]]
    centre: np.ndarray
    half: np.ndarray
    names: np.ndarray  # int64 [k, NAME_WORDS]
    visited: np.ndarray  # states [n, k] of a random policy, and of one that learns
    order: tuple[int, ...] = ()  # as in Texts

    def uniform(self, rng: np.random.Generator, count: int, part: float = 1.0) -> np.ndarray:
        """States [count, k] float64, uniform in the given part of the bounds around the centre."""
        return self.centre + self.half * part * rng.uniform(-1, 1, (count, len(self.half)))

    def states(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """A mix of states [count, k]: visited by agents, everywhere, and near the centre at several scales."""
        kind = rng.random(count)
        scale = 10.0 ** rng.uniform(-1.7, -0.3, (count, 1))
        near = self.centre + self.half * scale * rng.standard_normal((count, len(self.half)))
        states = np.where((kind < 0.65)[:, None], self.uniform(rng, count), near)
        visited = self.visited[rng.integers(len(self.visited), size=count)]
        return np.where((kind < 0.4)[:, None], visited, states)

    @property
    def frame(self) -> np.ndarray:
        """[k, 2, 2], as in Texts."""
        bounds = np.stack([self.centre, self.half], axis=1)
        # A number that hardly varies is not worth more than a thousandth of its bounds.
        where = np.stack(
            [self.visited.mean(axis=0), np.maximum(2.5 * self.visited.std(axis=0), 1e-3 * self.half)], axis=1
        )
        return np.stack([bounds, where], axis=1)

    def sample(self, rng: np.random.Generator, count: int) -> Texts:
        """`count` texts (an even number), one group."""
        states = self.states(rng, count)
        # A twin differs by a hundredth of the bounds or a tenth of the state's own size, whichever is less: small
        # to a reader who sees the whole range and small to one who looks closely.
        size = np.minimum(0.01 * self.half, 0.1 * np.abs(states[::2] - self.centre) + 0.001 * self.half)
        states[1::2] = states[::2] + size * rng.standard_normal(states[::2].shape)
        states = states.astype(np.float32)
        frames = np.full((count, MAX_NUMBERS, 2, 2), np.nan)
        frames[:, : len(self.half)] = self.frame
        numbers = np.full((count, MAX_NUMBERS), np.nan)
        numbers[:, : len(self.half)] = states
        names = np.full((1, MAX_NUMBERS, NAME_WORDS), -1)
        names[0, : len(self.half)] = self.names
        return Texts(self.write(states), numbers, frames, order=self.order, names=names)


def known(env: str, formats: Sequence[str], seed: int, learning_steps: int = 0) -> list[Known]:
    """The environment `env` written by the built-in serializers `formats`. Fields without bounds are taken to stay
    in ±3.

    `learning_steps` is how long a policy learns whose states are among the visited ones; 0: those of a random policy
    only.

    Raises:
        UsageError: there is no such environment, it has more than numbers, or more of them than the model has slots.
    """
    from bitrl.core.config import find_environment
    from bitrl.core.environments.loading import load_serializer
    from bitrl.core.options import parse

    record = find_environment(env)
    environment = record.load()(parse(record.options, {}, "env"), env)
    spec = environment.observation_spec()
    fields = spec.fields
    if not fields or spec.texts:
        raise UsageError(f"--envs {env}: expected observations of numbers alone: leave it out")
    if len(fields) > MAX_NUMBERS:
        raise UsageError(f"--envs {env}: expected at most {MAX_NUMBERS} numbers, got {len(fields)}")
    low = np.array([-3.0 if field.low is None else field.low for field in fields])
    high = np.array([3.0 if field.high is None else field.high for field in fields])
    made_env = environment.make()
    visited = random_policy_states(made_env, seed)
    made_env.close()
    if learning_steps:
        visited = np.concatenate([visited, learning_policy_states(env, seed, learning_steps)])
    names = name_words([field.name for field in fields], "known")
    made = [
        Known(env, format, load_serializer(format, env=env).batch, (low + high) / 2, (high - low) / 2, names, visited)
        for format in formats
    ]
    return [attrs.evolve(each, order=sentence_order(env)) if each.format == "natural" else each for each in made]


def sentence_order(env: str) -> tuple[int, ...]:
    """Which number stands first, second, … in the sentences of `env`; empty where it has none of its own."""
    from bitrl.plugins.serializers.natural import SENTENCES

    numbers = re.findall(r"\{([0-9]+)(?:\.size)?\}", SENTENCES.get(env, ""))
    return tuple(int(number) for number in numbers)


def random_policy_states(env: Any, seed: int, count: int = 4000) -> np.ndarray:
    """States [count, k] float64 visited by a uniformly random policy in consecutive episodes."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    states: list[Any] = []
    while len(states) < count:
        states.append(np.array(observation))  # a copy: the environment may hand out one array at every step
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset()
    return np.array(states, dtype=np.float64).reshape(count, -1)


def learning_policy_states(env: str, seed: int, steps: int, count: int = 8000) -> np.ndarray:
    """States [count, k] float64 that a policy visits while it learns for `steps` steps by PPO on the numbers
    themselves.
    """
    import gymnasium

    from bitrl.core.config import resolve
    from bitrl.core.environments import replay
    from bitrl.core.environments.collector import Collector
    from bitrl.core.interfaces import Task
    from bitrl.core.runs.parts import build

    config = resolve(
        {
            "run": {"env": env, "backbone": "mlp", "serializer": "vector"},
            "algo": {"preset": "standard", "anneal": False},
        }
    )
    parts = build(config)
    visited: list[Any] = []

    def record(observation: Any) -> Any:
        visited.append(np.array(observation))
        return observation

    def recorded() -> gymnasium.Env:
        return gymnasium.wrappers.TransformObservation(parts.environment.make(), record, None)

    envs = replay.vectorise(recorded, config.run.num_envs)
    seeds: list[int | None] = np.random.SeedSequence(seed).generate_state(config.run.num_envs).tolist()
    collector = Collector(envs, parts.reader, envs.reset(seed=seeds)[0])
    task = Task(collector=collector, reader=parts.reader, seed=seed, steps=steps)
    algorithm = config.algorithm.load()(config.algo_options, task)
    while algorithm.step < steps:
        algorithm.update()
    envs.close()
    kept = np.random.default_rng(seed).choice(len(visited), size=count)
    return np.array([visited[index] for index in kept], np.float64).reshape(count, -1)


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


def _word(rng: np.random.Generator) -> str:
    """One that is common in names, or one that is made up and can be spoken: not every word is in a dictionary."""
    if rng.random() < 0.7:
        return str(rng.choice(_STEMS))
    onsets, vowels = ("b", "br", "d", "dr", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "w"), "aeiou"
    syllables = [f"{rng.choice(onsets)}{rng.choice(list(vowels))}" for _ in range(rng.integers(1, 4))]
    return "".join(syllables) + str(rng.choice(["", "n", "ll", "ck", "ng", "st"]))


def _field_name(rng: np.random.Generator) -> str:
    name = "_".join(_word(rng) for _ in range(rng.integers(1, 4)))
    return f"{name}{'_' * int(rng.integers(2))}{rng.integers(10)}" if rng.random() < 0.2 else name


def _field_names(rng: np.random.Generator, count: int) -> list[str]:
    """Every fifth schema is one whose numbers nobody has named: x0, x1, …, as the serializers call them. In two of
    five the names are what parts there are by what is said of each, as a robot's are, so that no word tells a field
    from all others: left_knee_angle, left_knee_speed, right_knee_angle, …
    """
    kind = rng.random()
    if kind < 0.2:
        return [f"x{i}" for i in range(count)]
    if kind < 0.6 and count >= 4:
        told = int(rng.integers(2, 4))
        parts = [_field_name(rng) for _ in range(-(-count // told))]
        names = [f"{part}_{what}" for what in [_word(rng) for _ in range(told)] for part in parts]
        if rng.random() < 0.5:  # by parts, instead of by what is said
            names = [names[i % told * len(parts) + i // told] for i in range(len(names))]
        return names[:count]
    return [_field_name(rng) for _ in range(count)]


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
    # No digits in the words, which would stand there like numbers of the state.
    words = [" ".join(re.findall(r"[a-z]+", name)) or "it" for name in names]
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
    words = np.full((groups, MAX_NUMBERS, NAME_WORDS), -1)
    for first in range(0, groups * group, group):
        count = int(min(MAX_NUMBERS, rng.geometric(0.13)))
        scale = 10.0 ** rng.uniform(-1.5, 2.7, count)
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
        names = _field_names(rng, count)
        words[first // group, :count] = name_words(names)
        write = _layout(rng, names)
        for row, state in enumerate(values):
            written = [f"{v:.{d}f}" for v, d in zip(state, decimals, strict=True)]
            texts.append(write(written))
            numbers[first + row, :count] = [float(v) for v in written]
    return Texts(texts, numbers, np.full((*numbers.shape, 2, 2), np.nan), names=words)

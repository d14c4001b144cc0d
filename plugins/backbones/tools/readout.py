"""Which readout of a language model keeps the numbers of an environment's states, and costs the least.

A readout is how many blocks run, what is pooled, what that is projected to (of each number a few directions, or all
numbers' states together), and whether texts are read in chunks.
Candidates are measured in the order of their cost, by ridge regression on states of random play (probe.py), which says
whether a linear map of the features still has each number. All else is fixed, the states too: the same environment,
texts and model give the same readout, but where the environment is so slow that fewer states are visited in time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.nested import FlatObservations
from bitrl.core.config import Config
from bitrl.core.environments import crashes
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.random_play import RANDOM_PLAY, random_policy
from bitrl.core.errors import RunFailed
from bitrl.core.runs.display import display
from bitrl.core.runs.parts import build
from bitrl.core.runs.state_recorder import numbers_of
from bitrl.core.wording import setting
from bitrl.plugins.backbones import LanguageModelOptions, not_the_starter
from bitrl.plugins.backbones.directions import read, written
from bitrl.plugins.backbones.language_model import LanguageModel, count_sketch
from bitrl.plugins.backbones.number_ends import number_ends
from bitrl.plugins.backbones.tools.number_directions import number_directions

ENOUGH, MEAN, LEAST = 0.98, 0.99, 0.95
"""R² that every number which varies must have; or else their mean, and the worst of them."""
STATES, FEWEST, SECONDS = 4000, 400, 30.0
"""Of random play, of which a quarter is for judging: as many as these seconds allow, within these bounds."""
EPISODES, STRIDE, STRETCH = 40, 10, 25
"""Episodes that they are taken from, evenly, where every tenth state is enough for that, and the length of stretches of
which every fourth is for judging: what a few long episodes saw says little of what another will see.
"""
RARE = 0.01
"""A number that is the same in all but this share of the states is not judged: too few are left to judge by."""
TOKENS = 400_000
"""Read of them at most by one candidate that reads a text as a whole."""
WIDE, CHUNK = 32, 8
"""Texts of more numbers are read in chunks of so many, by one block."""
WIDEST, A_NUMBER = 8, 16
"""Times the width of the model to which states are projected at most, unless that is less than so many features a
number.
"""
AT_ONCE = 256
"""Texts whose numbers' states are held together."""
UNSET: dict[str, Any] = {"layers": None, "pooling": None, "projection": None, "directions": None, "chunk": None}


@attrs.frozen
class MeasuredReadout:
    """What was measured of a readout: the mean R² of the numbers that vary, and that of the worst of them, in how many
    states.
    """

    layers: int
    pooling: str
    projection: int | None
    features: int
    mean: float
    worst: str
    least: float
    states: int = attrs.field(repr=False)
    chunk: int | None = None
    directions: str | None = attrs.field(default=None, repr=False)

    @property
    def enough(self) -> bool:
        """Whether every number is kept."""
        return self.least >= ENOUGH or (self.mean >= MEAN and self.least >= LEAST)

    def __str__(self) -> str:
        blocks = f"{self.layers} block{'s' if self.layers > 1 else ''}"
        to = "" if self.projection is None else f", projection {self.projection}"
        if self.directions is not None:
            to = f", {self.features} features in directions"
        cut = "" if self.chunk is None else f" in chunks of {self.chunk}"
        return f"{blocks}, pooling {self.pooling}{cut}{to}: R² {self.mean:.3f}, worst {self.least:.3f} ({self.worst})"


def choose(config: Config, part: str) -> tuple[Any, str] | None:
    """The options of a configuration's backbone or critic backbone (`part`) with the readout that is chosen, and a line
    about it; None where the options leave nothing to choose, or states hold no numbers.

    Raises:
        UsageError: the environment, its serializer or the backbone cannot be built, or a text is too long.
    """
    options = getattr(config, f"{part}_options")
    if not leaves_choice(options):
        return _told(config, options)
    measured: list[MeasuredReadout] = []
    try:
        for each in readouts(config, part):
            measured.append(each)
            if each.enough:
                break
    except RunFailed as error:
        instead = setting(f"{part}.readout", "set")
        raise RunFailed(f"{error}: mend that, or choose no readout by it: {instead}") from error
    if not measured:
        return None
    best = best_of(measured)
    line = f"readout of {config.run.env} by {best.states:,} states of random play: {best}"
    if not best.enough:
        line += f"; no readout keeps every number at {ENOUGH}, or at {LEAST} with a mean of {MEAN}"
    chosen = {name: getattr(best, name) for name in UNSET}
    return attrs.evolve(options, **chosen), line


def _told(config: Config, options: LanguageModelOptions) -> tuple[Any, str] | None:
    """The same options, and a line where all blocks of a model are read though the environment sets fewer, which were
    found for the starter; None elsewhere.
    """
    if not not_the_starter(options.model) or options.layers is not None:
        return None
    layers = config.environment.defaults.get("backbone.layers")
    if layers is None:
        return None
    return options, (
        f"all blocks of {options.model} are read: backbone.layers={layers}, as {config.run.env} sets it, is for the "
        f"starter; {setting('backbone.readout', 'auto')} measures what this model needs"
    )


def leaves_choice(options: LanguageModelOptions) -> bool:
    """Whether options leave the readout to what is measured."""
    return options.readout == "auto" and all(getattr(options, name) == unset for name, unset in UNSET.items())


def best_of(measured: Sequence[MeasuredReadout]) -> MeasuredReadout:
    """The first that keeps every number; else the one that keeps most of the worst."""
    return next((each for each in measured if each.enough), max(measured, key=lambda each: each.least))


def readouts(config: Config, part: str = "backbone") -> Iterator[MeasuredReadout]:
    """The candidates, measured one after another, cheapest first, until more blocks keep less. None where states hold
    no numbers that vary, or more than numbers, or several states are read together.

    Where a text holds all numbers, "field" is the only pooling tried: it keeps more than the mean, and costs less,
    since the last block computes the numbers' ends alone. Commands are read by the same backbone, and have none. Wide
    texts, and those that the model's context does not hold, are read in chunks.
    """
    from bitrl.plugins.backbones.tools.probe import draw, scores  # not by runs that leave nothing to choose

    names = {f"{part}_options": attrs.evolve(getattr(config, f"{part}_options"), readout="set", **UNSET)}
    config = attrs.evolve(config, **names)
    parts = build(config)
    spec, serializer = parts.environment.observation_spec(), parts.reader.serializer
    fields = spec.fields
    if not fields or spec.texts or config.run.history > 1:
        return
    if isinstance(serializer, FlatObservations):  # what is drawn is flat
        serializer = serializer.serializer
    own = parts.reader.backbone if part == "backbone" else parts.reader.critic or parts.reader.backbone
    assert isinstance(own, LanguageModel)
    with display(transient=True) as shown:
        show = partial(shown.show, "random play", unit="states", tenths=False)
        few = draw(parts.environment, fields, "random", FEWEST // 4, 0, partial(show, total=FEWEST))
        some = list(serializer.batch(few))
        counts = own.token_counts(some)
        located = not spec.commands and all(len(number_ends(text)) == len(fields) for text in some)
        wide = len(fields) > WIDE or max(counts) > own.engine.context
        chunk = CHUNK if located and wide and own.options.lora_rank is None else None
        most = STATES if chunk else int(max(FEWEST, min(TOKENS / statistics.fmean(counts), STATES)))
        states = played(parts.environment, most, partial(show, total=most))
    judged = often(states)
    texts = list(serializer.batch(states))
    located = located and all(len(number_ends(text)) == len(fields) for text in texts)
    pooling, cut = ("field", chunk) if located else ("mean", None)
    numbers, blocks, before = len(fields) if located else 1, own.engine.blocks, -math.inf
    width, format, options = own.engine.width, own.engine.format, own.options
    del parts, own  # one model in memory at a time
    for layers in [1] if chunk else sorted({*(2**i for i in range(blocks.bit_length())), blocks}):
        measured = []
        # `options` are LanguageModelOptions: type checkers do not see that it is an attrs class
        layered = attrs.evolve(options, layers=layers, pooling=pooling, chunk=cut, lora_rank=None, cache_mb=0)
        for chosen, features in _features(layered, width, format, texts, numbers):
            found, _ = scores({pooling: features[:, None]}, states[:, judged], [fields[index].name for index in judged])
            for score in found:
                figures = features.shape[1], score.mean, score.worst, score.fields[score.worst], len(states)
                to = chosen.get("projection")
                measured.append(MeasuredReadout(layers, pooling, to, *figures, chunk, chosen.get("directions")))
                yield measured[-1]
        best = max((each.least for each in measured), default=-math.inf)
        if best <= before:
            return
        before = best


def played(environment: Environment, most: int, tell: Callable[[int], None] = lambda done: None) -> np.ndarray:
    """At most `most` states [n, k] of random play, evenly from enough episodes, those for judging last. `tell` is
    called with how many of them are visited.
    """
    parts, episodes = environment.observation_spec().parts, 0
    env = crashes.reporting(environment.make, environment.id, RANDOM_PLAY)()
    began, states = time.perf_counter(), list[np.ndarray]()
    try:
        env.action_space.seed(0)
        act = random_policy(env)
        observation, _ = env.reset(seed=0)
        while len(states) < most or (episodes < EPISODES and len(states) < STRIDE * most):
            states.append(numbers_of(observation, parts))
            if len(states) <= most:
                tell(len(states))
            observation, _, terminated, truncated, _ = env.step(act(observation))
            if terminated or truncated:
                observation, _ = env.reset()
                episodes += 1
            if len(states) >= FEWEST and time.perf_counter() - began > SECONDS:
                break
    finally:
        env.close()
    evenly = np.linspace(0, len(states) - 1, min(most, len(states))).round().astype(int)
    judge = np.arange(len(evenly)) // STRETCH % 4 == 3
    return np.array([states[index] for index in (*evenly[~judge], *evenly[judge])])


def often(states: np.ndarray) -> list[int]:
    """Of states [n, k], the numbers that vary often enough to be judged; all, where none does."""
    others = [len(states) - np.unique(values, return_counts=True)[1].max() for values in states.T]
    return [index for index, count in enumerate(others) if count >= RARE * len(states)] or list(range(len(others)))


def _features(
    options: Any, width: int, format: str, texts: list[str], fields: int
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """What else is chosen, and features float32 [n, d]: of the ends of numbers, each in some directions, then all
    states projected to the width of one, to twice that, and so on.
    """
    reader = LanguageModel(options, fields, format)
    if options.pooling == "field":
        directions = number_directions(reader, texts)
        if directions is not None:
            text = written(directions)
            yield {"directions": text}, _in_directions(reader, read(text, width), texts)
    if fields < 2:
        yield {}, reader.encode(texts)
        return
    widths = [width]
    while widths[-1] < max(WIDEST * width, A_NUMBER * fields) and 2 * widths[-1] <= 3 * len(texts) // 4:
        widths.append(2 * widths[-1])  # not more features than states to fit to
    parts: dict[int, list[np.ndarray]] = {columns: [] for columns in widths}
    for start in range(0, len(texts), AT_ONCE):
        states = reader.encode(texts[start : start + AT_ONCE])
        for columns in widths:
            parts[columns].append(projected(states, width, fields, columns))
    for columns, rows in parts.items():
        yield {"projection": columns}, np.concatenate(rows)


def _in_directions(reader: LanguageModel, directions: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Features of numbers' states in directions, float32 [n, fields * k], as another such model would read them: but
    there is only room for one.
    """
    rows = []
    for start in range(0, len(texts), AT_ONCE):
        states = reader.encode(texts[start : start + AT_ONCE])
        states = states.reshape(len(states), -1, directions.shape[1])
        rows.append((states @ directions.T).reshape(len(states), -1))
    return np.concatenate(rows)


def projected(features: np.ndarray, width: int, fields: int, columns: int) -> np.ndarray:
    """Features of `fields` states [n, fields * width] as the engine projects them, float32 [n, columns]."""
    sketch = count_sketch(fields, width, columns).reshape(fields, width)
    rows = np.ascontiguousarray(features.T)  # a feature's numbers side by side: what is scattered are whole rows
    out = np.zeros((columns, len(features)), np.float32)
    for states, to in zip(np.split(rows, fields), sketch, strict=True):
        out[np.where(to < 0, -1 - to, to)] += np.where(to[:, None] < 0, -states, states)  # no two to one feature
    return out.T

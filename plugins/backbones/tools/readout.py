"""Which readout of a language model keeps the numbers of an environment's states, and costs the least.

A readout is how many blocks run, what is pooled, and what that is projected to. Candidates are measured in the order of
their cost, by ridge regression on states of random play (probe.py), which says whether a linear map of the features
still has each number. Everything is fixed, the states too: the same environment, texts and model give the same readout.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.nested import FlatObservations
from bitrl.core.config import Config
from bitrl.core.errors import RunFailed
from bitrl.core.runs.display import display
from bitrl.core.runs.parts import build
from bitrl.core.wording import setting
from bitrl.plugins.backbones.language_model import LanguageModel, count_sketch
from bitrl.plugins.backbones.number_ends import number_ends
from bitrl.plugins.backbones.tools.probe import draw, scores

ENOUGH = 0.98
"""R² that every number which varies must have."""
STATES, FEWEST, SECONDS = 4000, 400, 10.0
"""Of random play, of which a quarter is for judging: as many as these seconds allow, within these bounds."""
TOKENS = 400_000
"""Read of them at most by one candidate."""
UNSET: dict[str, Any] = {"layers": None, "pooling": None, "projection": None}


@attrs.frozen
class MeasuredReadout:
    """What was measured of a readout: the mean R² of the numbers that vary, and that of the worst of them, in how many
    states.
    """

    layers: int
    pooling: str
    projection: int | None
    mean: float
    worst: str
    least: float
    states: int = attrs.field(repr=False)

    @property
    def enough(self) -> bool:
        """Whether every number is kept."""
        return self.least >= ENOUGH

    def __str__(self) -> str:
        blocks = f"{self.layers} block{'s' if self.layers > 1 else ''}"
        to = "" if self.projection is None else f", projection {self.projection}"
        return f"{blocks}, pooling {self.pooling}{to}: R² {self.mean:.3f}, worst {self.least:.3f} ({self.worst})"


def choose(config: Config, part: str) -> tuple[Any, str] | None:
    """The options of a configuration's backbone or critic backbone (`part`) with the readout that is chosen, and a line
    about it; None where the options leave nothing to choose, or states hold no numbers.

    Raises:
        UsageError: the environment, its serializer or the backbone cannot be built, or a text is too long.
    """
    options = getattr(config, f"{part}_options")
    if options.readout != "auto" or any(getattr(options, name) != unset for name, unset in UNSET.items()):
        return None
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
        line += f"; no readout keeps every number at {ENOUGH}"
    chosen = {name: getattr(best, name) for name in UNSET}
    return attrs.evolve(options, **chosen), line


def best_of(measured: Sequence[MeasuredReadout]) -> MeasuredReadout:
    """The first that keeps every number; else the one that keeps most of the worst."""
    return next((each for each in measured if each.enough), max(measured, key=lambda each: each.least))


def readouts(config: Config, part: str = "backbone") -> Iterator[MeasuredReadout]:
    """The candidates, measured one after another, cheapest first, until more blocks keep less. None where states hold
    no numbers that vary, or more than numbers, or several states are read together.

    Where a text holds all numbers, "field" is the only pooling tried: it keeps more than the mean, and costs less,
    since the last block computes the numbers' ends alone. Commands are read by the same backbone, and have none.
    """
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
        show, began = partial(shown.show, "random play", unit="states", tenths=False), time.perf_counter()
        some = draw(parts.environment, fields, "random", FEWEST // 4, 0, partial(show, total=FEWEST))
        count = SECONDS * len(some) / max(time.perf_counter() - began, 1e-9)
        length = statistics.fmean(own.token_counts(serializer.batch(some)))
        count = int(max(FEWEST, min(count, TOKENS / length, STATES)))
        states = draw(parts.environment, fields, "random", count, 0, partial(show, total=count))
    texts = list(serializer.batch(states))
    numbers = all(len(number_ends(text)) == len(fields) for text in texts)
    pooling = "field" if numbers and not spec.commands else "mean"
    read, blocks, before = len(fields) if pooling == "field" else 1, own.engine.blocks, -math.inf
    for layers in sorted({*(2**i for i in range(blocks.bit_length())), blocks}):
        features, measured = _features(own, layers, pooling, texts, read), []
        for projection, projected in _projections(features, own.engine.width, read):
            found, _ = scores({pooling: projected[:, None]}, states, [field.name for field in fields])
            for score in found:
                figures = score.mean, score.worst, score.fields[score.worst]
                measured.append(MeasuredReadout(layers, pooling, projection, *figures, len(states)))
                yield measured[-1]
        best = max((each.least for each in measured), default=-math.inf)
        if best <= before:
            return
        before = best


def _features(model: LanguageModel, layers: int, pooling: str, texts: list[str], count: int) -> np.ndarray:
    """float32 [n, width], of "field" [n, count * width]."""
    own: Any = model.options  # type checkers do not see that it is an attrs class
    options = attrs.evolve(own, layers=layers, pooling=pooling, lora_rank=None, cache_mb=0)
    return LanguageModel(options, count, model.engine.format).encode(texts)


def _projections(features: np.ndarray, width: int, fields: int) -> Iterator[tuple[int | None, np.ndarray]]:
    """Widths to project to, and the features projected: of several fields, that of one state and twice that."""
    if fields < 2:
        yield None, features
        return
    for columns in (width, 2 * width):
        sketch = count_sketch(fields, width, columns).reshape(fields, width)
        projected = np.zeros((len(features), columns), np.float32)
        for states, to in zip(np.split(features, fields, axis=1), sketch, strict=True):
            projected[:, np.where(to < 0, -1 - to, to)] += np.where(to < 0, -states, states)  # no two to one feature
        yield columns, projected

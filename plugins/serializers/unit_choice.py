"""Which units a run writes its numbers in: those in which three decimals show their size, or, of numbers that stay
closer to their median than that is to zero, their spread.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.loading import build_serializer
from bitrl.core.config import Config
from bitrl.core.environments import crashes
from bitrl.core.environments.loading import build_environment
from bitrl.core.environments.random_play import observations_of
from bitrl.core.errors import RunFailed
from bitrl.core.interfaces import Field
from bitrl.core.runs.display import display
from bitrl.core.wording import setting
from bitrl.plugins.serializers.numbers import numbers_of
from bitrl.plugins.serializers.units import Unit

STATES = 500
"""Of random play."""
COMMON = 0.9
"""A number's size is what this share of its values does not exceed, zeros aside."""
SMALLEST, LARGEST_INTEGER = 0.2, 9999.0
"""Sizes that are written as they are: from the first to ten times that, which the starter model reads best; of
integers up to the second.
"""
NOISE = 1e-5
"""A number's distance from its median that is at most this share of the median is rounding."""
MOST = 300
"""The largest power of ten."""
SHOWN = 6
"""Numbers that a line about units names."""


def choose(config: Config, part: str) -> tuple[Any, str] | None:
    """The options of a configuration's serializer with the unit of each number, and a line about those that are not
    written as they are; None where units are set, or states hold no numbers.

    Raises:
        UsageError: the environment cannot be built, or is none that numbers are written of. RunFailed: it fails in
            random play.
    """
    options = config.serializer_options
    if options.units is not None:
        return None
    with crashes.making(config.run.env):
        environment = build_environment(config.environment, config.env_options, config.run.env)
        spec = environment.observation_spec()
    build_serializer(config.serializer, options, spec, 1)  # refuses what it cannot write before that is played
    if not spec.fields or spec.discrete is not None:
        return None
    try:
        with display(transient=True) as shown:
            show = partial(shown.show, "random play", total=STATES, unit="states", tenths=False)
            observations = observations_of(environment, STATES, show)
    except RunFailed as error:
        raise RunFailed(f"{error}: mend that, or write no units: {setting('serializer', 'json')}") from error
    states = np.array([numbers_of(spec, each) for each in observations], np.float64)
    units = [unit_of(values, field) for values, field in zip(states.T, spec.fields, strict=True)]
    scaled = [f"{field.name} {unit}" for field, unit in zip(spec.fields, units, strict=True) if unit != Unit()]
    more = f" and {len(scaled) - SHOWN} more" if len(scaled) > SHOWN else ""
    line = f"units of {config.run.env} by {STATES} states of random play: {', '.join(scaled[:SHOWN])}{more}"
    return attrs.evolve(options, units=tuple(map(str, units))), line if scaled else ""


def unit_of(values: np.ndarray, field: Field) -> Unit:
    """The unit of a number that takes `values` [n] in random play."""
    values, whole = values[np.isfinite(values)], field.decimals == 0
    size, median = _size(values), float(np.median(values)) if len(values) else 0.0
    if not size or (whole and size <= LARGEST_INTEGER):
        return Unit()
    spread = _size(values - median)
    if not NOISE * abs(median) < spread < abs(median):
        return Unit(max(0, _exponent(size)) if whole else _exponent(size))
    exponent = max(0, _exponent(spread)) if whole else _exponent(spread)
    return Unit(exponent, round(median, -exponent))


def _size(values: np.ndarray) -> float:
    values = np.abs(values[values != 0])
    return float(np.quantile(values, COMMON)) if len(values) else 0.0


def _exponent(size: float) -> int:
    """The power of ten in which numbers of this size are between SMALLEST and ten times that."""
    return max(-MOST, min(math.floor(math.log10(size) - math.log10(SMALLEST)), MOST))

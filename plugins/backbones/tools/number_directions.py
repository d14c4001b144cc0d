"""Finds the directions in which a language model's state at a number's end says how large the number is.

Reduced-rank regression (Izenman 1975, "Reduced-rank regression for the multivariate linear model") from those states to
functions of the number, over texts of an environment whose numbers are replaced by others of all sizes: so they hold
for states that random play does not visit, and for every number of a text alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.plugins.backbones.number_ends import number_ends, number_places

EACH = 4
"""Directions of a number."""
NUMBERS, TEXTS = 12_000, 4_000
"""To fit to, at most."""
RIDGE = 1e-3
"""Of the regression, as a share of the states' mean variance."""
AT_ONCE = 64
"""Texts whose numbers' states are held together."""

LARGEST = 2.0
"""To which numbers go at least."""

_DECIMAL = re.compile(r"[0-9]*\.([0-9]+)")


def number_directions(reader: LanguageModel, texts: Sequence[str]) -> np.ndarray | None:
    """Directions float64 [4, width], the most telling first, of a model that reads such texts side by side (pooling
    "field"); None where they hold no decimal numbers, or the model reads all numbers alike.
    """
    fields, width = len(number_ends(texts[0])), reader.engine.width
    count = min(TEXTS, max(NUMBERS // fields, 1))
    written, values = others([texts[i % len(texts)] for i in range(count)])
    if np.isnan(values).all():
        return None
    wanted = functions(np.nan_to_num(values))
    known = np.isfinite(values)
    # Of each number's states around their mean: where a number stands in the text shifts them, and says nothing of it.
    second, mixed = np.zeros((width, width)), np.zeros((width, wanted.shape[-1]))
    first, means, counts = np.zeros((fields, width)), np.zeros((fields, wanted.shape[-1])), known.sum(axis=0)
    for start in range(0, count, AT_ONCE):
        some = slice(start, start + AT_ONCE)
        states = reader.encode(written[some]).reshape(-1, fields, width).astype(np.float64) * known[some, :, None]
        targets = wanted[some] * known[some, :, None]
        first, means = first + states.sum(axis=0), means + targets.sum(axis=0)
        second += states.reshape(-1, width).T @ states.reshape(-1, width)
        mixed += states.reshape(-1, width).T @ targets.reshape(-1, wanted.shape[-1])
    share = 1 / np.maximum(counts, 1)[:, None]
    second -= first.T @ (first * share)
    mixed -= first.T @ (means * share)
    if not np.trace(second) > 0:
        return None
    spread = (wanted[known] ** 2).sum(axis=0) - (means**2 * share).sum(axis=0)
    ridge = RIDGE * np.trace(second) / width
    fitted = np.linalg.solve(second + ridge * np.eye(width), mixed / np.sqrt(np.maximum(spread, 1e-12)))
    _, vectors = np.linalg.eigh(fitted.T @ second @ fitted)  # of what is predicted, the most varying last
    found: np.ndarray = (fitted @ vectors[:, ::-1][:, :EACH]).T
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    turned: np.ndarray = found * np.sign(largest)  # which way round they are found is a library's choice
    return turned


def functions(values: np.ndarray) -> np.ndarray:
    """What directions are to tell of numbers [...]: their size at several scales, [..., 6]."""
    size, sign = np.abs(values), np.sign(values)
    logs = (sign * np.log1p(scale * size) for scale in (10, 100))
    return np.stack([values, size, *logs, np.tanh(values), np.tanh(10 * values)], axis=-1)


def others(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The same texts with other numbers where they have decimals: half of these evenly up to the largest at their place
    (at least 2), and half of all sizes. And those numbers as they are written, float64 [n, fields], else NaN.
    """
    random = np.random.RandomState(0)  # whose stream is frozen
    places = [number_places(text) for text in texts]
    found = [[_DECIMAL.fullmatch(text[start:end]) for start, end in at] for text, at in zip(texts, places, strict=True)]
    sizes = np.array([[abs(float(each[0])) if each else np.nan for each in row] for row in found])
    decimals = np.array([[len(each[1]) if each else 0 for each in row] for row in found])
    largest = np.maximum(LARGEST, np.where(np.isnan(sizes), 0, sizes).max(axis=0))
    even = random.uniform(-largest, largest, sizes.shape)
    least = -decimals * np.log(10)
    size = np.exp(least + random.uniform(size=sizes.shape) * (np.log(largest) - least))
    drawn = np.where(random.uniform(size=sizes.shape) < 0.5, even, np.copysign(size, even))
    written, values = [], np.full(sizes.shape, np.nan)
    for row, text in enumerate(texts):
        parts, after = [], 0
        for column, (start, end) in enumerate(places[row]):
            if found[row][column]:
                number = f"{drawn[row, column]:.{decimals[row, column]}f}"
                values[row, column] = float(number)
                parts += [text[after:start].removesuffix("-"), number]
                after = end
        written.append("".join((*parts, text[after:])))
    return written, values

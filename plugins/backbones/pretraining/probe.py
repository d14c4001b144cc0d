"""How much of the numbers in a text its features keep: ridge regression, as an outsider would measure it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np
from tokenizers import Tokenizer

from bitrl.plugins.backbones.pretraining.texts import Known

TRAIN, TEST = 3000, 1000


def r_squared(features: np.ndarray, targets: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """R² [k] of ridge regression from features [n, d] to targets [n, k], on the last quarter of the rows.

    Features and targets are standardised by the training rows; `ridge` is a fraction of a feature's variance.
    """
    train = slice(0, 3 * len(features) // 4)
    test = slice(train.stop, None)
    x, y = features.astype(np.float64), targets.astype(np.float64)
    x = (x - x[train].mean(axis=0)) / (x[train].std(axis=0) + 1e-8)
    y = (y - y[train].mean(axis=0)) / y[train].std(axis=0)
    gram = x[train].T @ x[train] + ridge * len(x[train]) * np.eye(x.shape[1])
    error = y[test] - x[test] @ np.linalg.solve(gram, x[train].T @ y[train])
    spread = y[test] - y[test].mean(axis=0)
    return 1 - (error**2).sum(axis=0) / (spread**2).sum(axis=0)


@attrs.frozen
class Reading:
    """What one environment's states keep through one serializer: mean R² after each block, over the whole bounds
    and near the centre.

    `tokens` is the mean length of a text, near the centre.
    """

    env: str
    format: str
    tokens: float
    whole: list[float]
    near: list[float]


Encode = Callable[[list[str]], np.ndarray]
"""n texts → features [n, d]."""


def probe(encode: Encode, known: Known, part: float = 1.0) -> np.ndarray:
    """R² [k] of each number of a known environment's states, uniform in `part` of its bounds around their centre."""
    states = known.uniform(np.random.default_rng(1), TRAIN + TEST, part).astype(np.float32)
    return r_squared(encode(known.write(states)), states)


def read_states(blocks: Sequence[Encode], tokenizer: Tokenizer, known: Known) -> Reading:
    """Probe a model over the whole bounds and over a tenth of them; `blocks[k]` encodes with its first k + 1 blocks."""
    states = known.uniform(np.random.default_rng(1), 100, 0.1).astype(np.float32)
    lengths = [len(tokenizer.encode(text).ids) for text in known.write(states)]
    whole, near = ([float(probe(encode, known, part).mean()) for encode in blocks] for part in (1.0, 0.1))
    return Reading(known.env, known.format, float(np.mean(lengths)), whole, near)

"""How much of the numbers in a text a trained model's features keep, for its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np
from tokenizers import Tokenizer

from bitrl.plugins.backbones.pretraining.texts import Known
from bitrl.plugins.backbones.ridge import r_squared

TRAIN, TEST = 3000, 1000


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

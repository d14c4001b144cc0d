"""How much of the numbers in a text its features keep: ridge regression, as an outsider would measure it."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import torch
from tokenizers import Tokenizer

from bitrl.plugins.backbones.pretraining.model import BitNet, mean_pool
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


@torch.no_grad()
def features(model: BitNet, tokenizer: Tokenizer, texts: list[str], batch: int = 64) -> np.ndarray:
    """Mean-pooled features of n texts after every block: float32 [blocks, n, width]."""
    encoded = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    order = np.argsort([len(ids) for ids in encoded], kind="stable")
    result = np.zeros((model.shape.blocks, len(texts), model.shape.width), np.float32)
    for start in range(0, len(texts), batch):
        rows = order[start : start + batch]
        lengths = torch.tensor([len(encoded[row]) for row in rows])
        tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(encoded[row])] = torch.tensor(encoded[row])
        for block, residual in enumerate(model.residuals(tokens)):
            result[block, rows] = mean_pool(residual, lengths).numpy()
    return result


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


def probe(encode: Callable[[list[str]], np.ndarray], known: Known, part: float = 1.0) -> np.ndarray:
    """R² of each number of a known environment's states, uniform in `part` of its bounds around their centre.

    encode: n texts → features [n, d], or [blocks, n, d]; the result is then [k] or [blocks, k].
    """
    states = known.uniform(np.random.default_rng(1), TRAIN + TEST, part).astype(np.float32)
    encoded = encode(known.write(states))
    if encoded.ndim == 2:
        return r_squared(encoded, states)
    return np.stack([r_squared(block, states) for block in encoded])


def read_states(model: BitNet, tokenizer: Tokenizer, known: Known) -> Reading:
    """Probe every block of a model, over the whole bounds and over a tenth of them."""
    lengths: list[int] = []

    def encode(texts: list[str]) -> np.ndarray:
        lengths.extend(len(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False))
        return features(model, tokenizer, texts)

    near = probe(encode, known, 0.1).mean(axis=1).tolist()
    tokens = float(np.mean(lengths))
    return Reading(known.env, known.format, tokens, probe(encode, known).mean(axis=1).tolist(), near)

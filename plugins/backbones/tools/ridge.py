"""Ridge regression from features to numbers: how much of them can be read off by a linear map."""

from __future__ import annotations

import numpy as np

_LARGE = 1e150
"""Numbers beyond this, or below its inverse, have squares that float64 does not hold."""


def r_squared(features: np.ndarray, targets: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """R² [k] of ridge regression from features [n, d] to targets [n, k], on the last quarter of the rows.

    Features and targets are standardised by the training rows; `ridge` is a fraction of a feature's variance. No target
    may be the same in all training rows or in all of the last quarter.
    """
    train = slice(0, 3 * len(features) // 4)
    test = slice(train.stop, None)
    x, y = features.astype(np.float64), targets.astype(np.float64)
    largest = np.abs(y).max(axis=0)
    y = y / np.where((largest > _LARGE) | (largest < 1 / _LARGE), largest, 1)
    x = (x - x[train].mean(axis=0)) / (x[train].std(axis=0) + 1e-8)
    y = (y - y[train].mean(axis=0)) / y[train].std(axis=0)
    rows, columns = x[train].shape
    if columns <= rows:
        gram = x[train].T @ x[train] + ridge * rows * np.eye(columns)
        predicted = x[test] @ np.linalg.solve(gram, x[train].T @ y[train])
    else:  # the same weights by the smaller system
        gram = x[train] @ x[train].T + ridge * rows * np.eye(rows)
        predicted = x[test] @ (x[train].T @ np.linalg.solve(gram, y[train]))
    error = y[test] - predicted
    spread = y[test] - y[test].mean(axis=0)
    unexplained: np.ndarray = (error**2).sum(axis=0) / (spread**2).sum(axis=0)
    return 1 - unexplained

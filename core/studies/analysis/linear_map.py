"""A linear map between the features of two models, fitted by ridge regression. Shapes: n states, d and k features."""

from __future__ import annotations

import attrs
import numpy as np

RIDGE = 1e-3
"""As a share of a standardised feature's variance: as `bitrl model probe` has it."""


@attrs.frozen(eq=False)
class LinearMap:
    """y ≈ ((x − mean) / std)·weights + offset."""

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    offset: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features [n, d] → float32 [n, k]."""
        mapped = ((features.astype(np.float64) - self.mean) / self.std) @ self.weights + self.offset
        found: np.ndarray = mapped.astype(np.float32)
        return found


def fit_map(features: np.ndarray, targets: np.ndarray, ridge: float = RIDGE) -> LinearMap:
    """The map from features [n, d] to targets [n, k] of the same states."""
    x, y = features.astype(np.float64), targets.astype(np.float64)
    mean, std, offset = x.mean(axis=0), x.std(axis=0), y.mean(axis=0)
    std = np.where(std > 0, std, 1)
    scaled = (x - mean) / std
    gram = scaled.T @ scaled + (ridge or 1e-12) * len(x) * np.eye(x.shape[1])
    return LinearMap(mean, std, np.linalg.solve(gram, scaled.T @ (y - offset)), offset)


def explained(predicted: np.ndarray, targets: np.ndarray) -> float:
    """R² of all targets [n, k] together: the share of their variance that is predicted."""
    y = targets.astype(np.float64)
    spread = float(((y - y.mean(axis=0)) ** 2).sum())
    return 1 - float(((y - predicted) ** 2).sum()) / spread if spread else 1.0

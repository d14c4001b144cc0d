"""The exponent of a power law y = c·x^p, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np

RESAMPLES = 2_000
FEWEST = 4
"""Points of a fit."""


@attrs.frozen
class PowerLaw:
    """A straight line through (log x, log y).

    Attributes:
        exponent: its slope p.
        interval: of p, 95 %: residuals resampled, studentised (bootstrap-t, Efron and Tibshirani 1993, section 12.5).
        factor: c.
        points: how many were fitted; `left_out` had no positive x and y.
        r_squared: the share of the variance of log y that the line explains.
    """

    exponent: float
    interval: tuple[float, float]
    factor: float
    points: int
    left_out: int
    r_squared: float


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw | None:
    """Fit a power law to points; None with fewer than `FEWEST` positive ones, or all at one x. The same points give the
    same interval.
    """
    pairs = np.array([(a, b) for a, b in zip(x, y, strict=True) if a > 0 and b > 0 and math.isfinite(a * b)])
    if len(pairs) < FEWEST or np.ptp(pairs[:, 0]) == 0:
        return None
    u, v = np.log(pairs).T
    slope, error, residuals = _line(u, v)
    design = u - u.mean()
    leverage = 1 / len(u) + design**2 / (design @ design)
    # A residual's variance is smaller than that of what it stands for.
    adjusted = residuals / np.sqrt(1 - leverage)
    adjusted -= adjusted.mean()
    generator = np.random.default_rng(0)
    drawn = adjusted[generator.integers(0, len(u), (RESAMPLES, len(u)))]
    slopes, errors, _ = _line(u, v - residuals + drawn)
    usable = errors > 0
    interval = (float(slope), float(slope))
    if float(error) > 0 and usable.any():
        high, low = np.quantile((slopes[usable] - slope) / errors[usable], [0.975, 0.025])
        interval = float(slope - high * error), float(slope - low * error)
    total = float(((v - v.mean()) ** 2).sum())
    return PowerLaw(
        exponent=float(slope),
        interval=interval,
        factor=math.exp(float(v.mean() - slope * u.mean())),
        points=len(u),
        left_out=len(x) - len(u),
        r_squared=1.0 if total == 0 else 1 - float(residuals @ residuals) / total,
    )


def _line(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares of v [..., n] on u [n]: slopes [...], their standard errors [...], residuals [..., n]."""
    design = u - u.mean()
    centred = v - v.mean(axis=-1, keepdims=True)
    slope = centred @ design / (design @ design)
    residuals = centred - slope[..., None] * design
    variance = (residuals**2).sum(axis=-1) / (len(u) - 2)
    return slope, np.sqrt(variance / (design @ design)), residuals

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
        interval: of p, 95 %: residuals resampled, studentised (bootstrap-t, Efron and Tibshirani 1993, section 12.5),
            and with them what y are of resampled data, where that is known.
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


def power_law(x: Sequence[float], y: Sequence[float], resampled: np.ndarray | None = None) -> PowerLaw | None:
    """Fit a power law to points; None with fewer than `FEWEST` positive ones, or all at one x. The same points give the
    same interval.

    Args:
        x, y: the points.
        resampled: y [R, n] of R resamples of the data that all points were measured on. Their errors are common to all,
            so they move the line without leaving residuals: an interval by residuals alone would be far too narrow.
    """
    kept = [i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a > 0 and b > 0 and math.isfinite(a * b)]
    u, v = (np.log([each[i] for i in kept]) for each in (x, y))
    if len(kept) < FEWEST or np.ptp(u) == 0:
        return None
    slope, error, residuals = _line(u, v)
    design = u - u.mean()
    leverage = 1 / len(u) + design**2 / (design @ design)
    # A residual's variance is smaller than that of what it stands for.
    adjusted = residuals / np.sqrt(1 - leverage)
    adjusted -= adjusted.mean()
    generator = np.random.default_rng(0)
    drawn = adjusted[generator.integers(0, len(u), (RESAMPLES, len(u)))]
    slopes, errors, _ = _line(u, v - residuals + drawn)
    deviations = np.divide(slopes - slope, errors, out=np.zeros_like(slopes), where=errors > 0) * error
    if resampled is not None:
        moved = _slopes(u, resampled[:, kept]) - slope
        deviations = generator.choice(deviations, len(moved)) - moved
    high, low = np.quantile(deviations, [0.975, 0.025])
    total = float(((v - v.mean()) ** 2).sum())
    return PowerLaw(
        exponent=float(slope),
        interval=(float(slope - high), float(slope - low)),
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


def _slopes(u: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slopes of log y [R, n] on u [n] by least squares, without what is not positive; rows with fewer than two others
    are left out.
    """
    known = y > 0
    known &= known.sum(axis=1, keepdims=True) > 1
    y, known = y[known.any(axis=1)], known[known.any(axis=1)]
    design = np.where(known, u - np.average(np.broadcast_to(u, y.shape), axis=1, weights=known)[:, None], 0)
    logs = np.log(y, out=np.zeros_like(y), where=known)
    found: np.ndarray = (design * logs).sum(axis=1) / (design**2).sum(axis=1)
    return found

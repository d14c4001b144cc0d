"""Value functions by temporal differences on given features, and how far apart two of them are. Shapes: B steps, m
states, d features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from bitrl.core.studies.analysis.power_law import PowerLaw, power_law

GAMMAS = (0.9, 0.95, 0.98, 0.99, 0.995)
RIDGE = 1e-3
"""As a share of a standardised feature's variance."""


@attrs.frozen(eq=False)
class Transitions:
    """B steps between m states.

    Attributes:
        state, following: the states acted in and led to, int64 [B].
        rewards: float64 [B].
        terminated: whether the state led to was terminal, so that its value is zero, bool [B].
        half: which of two halves a step belongs to, bool [B].
    """

    state: np.ndarray
    following: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    half: np.ndarray


@attrs.frozen
class TDError:
    """Value functions learned on two kinds of features from the same steps, apart by γ.

    Attributes:
        absolute: γ → root mean square of V(s) − V_ref(s) over the states acted in.
        relative: the same as a share of the root mean square of V_ref.
        growth: `absolute` as a power of 1/(1−γ); None where there is none.
    """

    absolute: Mapping[float, float]
    relative: Mapping[float, float]
    growth: PowerLaw | None


def td_values(features: np.ndarray, steps: Transitions, gamma: float, ridge: float = RIDGE) -> np.ndarray:
    """V of the state acted in, float64 [B], linear in features [m, d] and a constant: the fixed point of TD(0) (least
    squares temporal differences, Bradtke and Barto 1996), learned from the half of the steps that it is not asked for.
    """
    [values] = _td_values(features, steps, (gamma,), ridge)
    return values


def td_errors(values: Sequence[np.ndarray], reference: Sequence[np.ndarray], gammas: Sequence[float]) -> TDError:
    """Values [B] by γ beside the reference's."""
    apart = [_rms(each - other) for each, other in zip(values, reference, strict=True)]
    shares = [a / size if (size := _rms(other)) else 0.0 for a, other in zip(apart, reference, strict=True)]
    horizons = [1 / (1 - gamma) for gamma in gammas]
    return TDError(
        absolute=dict(zip(gammas, apart, strict=True)),
        relative=dict(zip(gammas, shares, strict=True)),
        growth=power_law(horizons, apart),
    )


def values_by_gamma(features: np.ndarray, steps: Transitions, gammas: Sequence[float] = GAMMAS) -> list[np.ndarray]:
    """`td_values` of each γ."""
    return _td_values(features, steps, gammas, RIDGE)


def values_alike(values: Sequence[np.ndarray]) -> bool:
    """Whether values [B] by γ do not depend on the state: there is nothing to learn from features."""
    return all(float(each.std()) <= 1e-6 * _rms(each) for each in values)


def _td_values(features: np.ndarray, steps: Transitions, gammas: Sequence[float], ridge: float) -> list[np.ndarray]:
    found = [np.zeros(len(steps.state)) for _ in gammas]
    for half in (False, True):
        learned, asked = steps.half != half, steps.half == half
        visited = features[steps.state[learned]].astype(np.float64)
        mean, std = visited.mean(axis=0), visited.std(axis=0)
        scaled = (features.astype(np.float64) - mean) / np.where(std > 0, std, 1)
        known = np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)
        now = known[steps.state[learned]]
        after = known[steps.following[learned]] * ~steps.terminated[learned, None]
        same, moved, rewarded = now.T @ now, now.T @ after, now.T @ steps.rewards[learned]
        penalty = ridge * len(now) * np.eye(len(same))
        penalty[-1, -1] = 0  # the constant is free
        for values, gamma in zip(found, gammas, strict=True):
            weights = np.linalg.solve(same - gamma * moved + penalty, rewarded)
            values[asked] = known[steps.state[asked]] @ weights
    return found


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))

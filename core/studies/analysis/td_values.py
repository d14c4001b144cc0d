"""Value functions by temporal differences on given features, and how far apart two of them are. Shapes: B steps in C
chunks, m states, d features, G discount factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from bitrl.core.studies.analysis.power_law import PowerLaw, power_law

GAMMAS = (0.9, 0.95, 0.98, 0.99, 0.995)
RIDGE = 1e-3
"""As a share of a standardised feature's variance."""
RESAMPLES = 1_000


@attrs.frozen(eq=False)
class Transitions:
    """B steps between m states.

    Attributes:
        state, following: the states acted in and led to, int64 [B].
        rewards: float64 [B].
        terminated: whether the state led to was terminal, so that its value is zero, bool [B].
        chunk: which chunk of consecutive steps each belongs to, int64 [B]: even ones are one half, odd ones the other.
    """

    state: np.ndarray
    following: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    chunk: np.ndarray


@attrs.frozen(eq=False)
class TDValues:
    """V of the states acted in, float64 [G, B], and `without`, the same learned without each chunk, [C, G, B]."""

    values: np.ndarray
    without: np.ndarray


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


def td_values(
    features: np.ndarray, steps: Transitions, gammas: Sequence[float] = GAMMAS, ridge: float = RIDGE
) -> TDValues:
    """V by γ, linear in features [m, d] and a constant: the fixed point of TD(0) (least squares temporal differences,
    Bradtke and Barto 1996), learned from the half of the steps that it is not asked for.
    """
    chunks = np.unique(steps.chunk)
    values = np.zeros((len(gammas), len(steps.state)))
    without = np.zeros((len(chunks), *values.shape))
    for half in (0, 1):
        asked = steps.chunk % 2 == half
        visited = features[steps.state[~asked]].astype(np.float64)
        mean, std = visited.mean(axis=0), visited.std(axis=0)
        scaled = (features.astype(np.float64) - mean) / np.where(std > 0, std, 1)
        known = np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)
        whole = _sums(known, steps, ~asked)
        known_asked = known[steps.state[asked]]
        values[:, asked] = whole.values(known_asked, gammas, ridge)
        without[:, :, asked] = values[:, asked]
        for index in np.flatnonzero(chunks % 2 != half):
            rest = whole - _sums(known, steps, steps.chunk == chunks[index])
            if rest.count:
                without[index][:, asked] = rest.values(known_asked, gammas, ridge)
    return TDValues(values, without)


def td_errors(found: TDValues, reference: TDValues, steps: Transitions, gammas: Sequence[float] = GAMMAS) -> TDError:
    """Values beside the reference's."""
    apart, sizes = _rms(found.values - reference.values), _rms(reference.values)
    shares = np.divide(apart, sizes, out=np.zeros_like(apart), where=sizes > 0)
    kept = steps.chunk != np.unique(steps.chunk)[:, None]
    pairs = zip(found.without, reference.without, kept, strict=True)
    left = np.stack([_rms((each - other)[:, rest]) for each, other, rest in pairs])
    return TDError(
        absolute=dict(zip(gammas, apart.tolist(), strict=True)),
        relative=dict(zip(gammas, shares.tolist(), strict=True)),
        growth=power_law([1 / (1 - gamma) for gamma in gammas], apart.tolist(), _resampled(apart, left)),
    )


def values_alike(found: TDValues) -> bool:
    """Whether values do not depend on the state: there is nothing to learn from features."""
    return bool((found.values.std(axis=1) <= 1e-6 * _rms(found.values)).all())


@attrs.frozen(eq=False)
class _Sums:
    """Over `count` steps, of features now and after and rewards: now·nowᵀ, now·afterᵀ, now·reward."""

    count: int
    same: np.ndarray
    moved: np.ndarray
    rewarded: np.ndarray

    def __sub__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.count - other.count,
            self.same - other.same,
            self.moved - other.moved,
            self.rewarded - other.rewarded,
        )

    def values(self, known: np.ndarray, gammas: Sequence[float], ridge: float) -> np.ndarray:
        """V of states [n, d + 1], of features and a constant, by γ: [G, n]."""
        penalty = ridge * self.count * np.eye(len(self.same))
        penalty[-1, -1] = 0  # the constant is free
        weights = [np.linalg.solve(self.same - gamma * self.moved + penalty, self.rewarded) for gamma in gammas]
        found: np.ndarray = np.stack(weights) @ known.T
        return found


def _sums(known: np.ndarray, steps: Transitions, which: np.ndarray) -> _Sums:
    now = known[steps.state[which]]
    after = known[steps.following[which]] * ~steps.terminated[which, None]
    return _Sums(len(now), now.T @ now, now.T @ after, now.T @ steps.rewards[which])


def _resampled(errors: np.ndarray, without: np.ndarray) -> np.ndarray | None:
    """Errors [G] as of other steps, [R, G]: normal, with the covariance that the jackknife gives their logarithms, of
    errors without each chunk [C, G]. None where one of them is zero.
    """
    if not (without > 0).all():
        return None
    logs, chunks = np.log(without), len(without)
    drawn = np.random.default_rng(0).standard_normal((RESAMPLES, chunks))
    found: np.ndarray = errors * np.exp(drawn @ (logs - logs.mean(axis=0)) * np.sqrt((chunks - 1) / chunks))
    return found


def _rms(values: np.ndarray) -> np.ndarray:
    """Of values [G, B]: [G]."""
    found: np.ndarray = np.sqrt((values**2).mean(axis=1))
    return found

"""BitDelta: by hand, and by what is known of the nearest scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitrl.core.acting import bitdelta
from bitrl.core.errors import UsageError


def test_signs_and_scale_by_hand() -> None:
    """Δ = [1, −2, 0; 3, −1, 5]: α = 12 / 6, and the sign of 0 is +1."""
    base = {"w": np.array([[1, 1, 1], [0, 0, 0]], np.float32)}
    packed = bitdelta.compress(base, {"w": np.array([[2, -1, 1], [3, -1, 5]], np.float32)})
    assert packed["w.signs"].tolist() == [0b10110100]
    assert packed["w.scale"] == 2
    assert bitdelta.restore(base, packed)["w"].tolist() == [[3, -1, 3], [2, -2, 2]]


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40), st.floats(0.5, 2))
def test_the_error_is_what_pythagoras_says_and_no_other_scale_has_less(changes: list[float], other: float) -> None:
    """‖W − Ŵ‖² = ‖Δ‖² − n·α², in float64; with another scale it is larger by n·(α' − α)²."""
    change = np.array(changes, np.float32)
    base = {"w": np.linspace(-1, 1, len(change)).astype(np.float32)}
    learned = base["w"] + change
    change = (learned - base["w"]).astype(np.float64)
    packed = bitdelta.compress(base, {"w": learned})
    alpha = np.abs(change).mean()

    def error(scale: float) -> float:
        restored = bitdelta.restore(base, {**packed, "w.scale": np.array(scale)})["w"]
        return float(((learned.astype(np.float64) - restored) ** 2).sum())

    least = (change**2).sum() - len(change) * alpha**2
    assert error(alpha) == pytest.approx(least, abs=1e-4)
    assert error(other * alpha) == pytest.approx(least + len(change) * ((other - 1) * alpha) ** 2, abs=1e-4)


def test_scales_are_tuned_for_what_is_computed_with_the_weights() -> None:
    """Of x·W: where inputs are large along one weight alone, its own change is the best scale, not the mean's."""
    base = {"w": np.zeros(4, np.float32), "v": np.zeros(3, np.float32)}
    learned = {"w": np.array([2.0, 0.2, -0.2, 0.2], np.float32), "v": np.array([1.0, -1.0, 1.0], np.float32)}
    packed = bitdelta.compress(base, learned)
    seen: list[float] = []

    def error(weights: bitdelta.Arrays) -> float:
        seen.append(abs(float(weights["w"][0]) - 2.0) + abs(float(weights["v"][1]) + 1.0))
        return seen[-1]

    tuned = bitdelta.tune(base, packed, error)
    assert error(bitdelta.restore(base, tuned)) == min(seen) < seen[0]
    assert tuned["w.scale"] == pytest.approx(2, rel=0.05)
    assert tuned["v.scale"] == 1, "what is best already stays"
    np.testing.assert_array_equal(tuned["w.signs"], packed["w.signs"])


def test_what_does_not_fit_is_refused() -> None:
    base = {"w": np.zeros((3, 3), np.float32)}
    packed = bitdelta.compress(base, base)
    assert bitdelta.restore(base, packed)["w"].tolist() == base["w"].tolist(), "nothing was learned"
    for damaged in ({}, {**packed, "w.signs": packed["w.signs"][:1]}, {**packed, "w.scale": np.zeros(2, np.float32)}):
        with pytest.raises(UsageError, match="expected a sign for each weight of w and one scale"):
            bitdelta.restore(base, damaged)


def test_the_checksum_is_of_every_weight() -> None:
    base = {"w": np.zeros(3, np.float32), "v": np.ones(2, np.float32)}
    assert bitdelta.digest(base) == bitdelta.digest({"v": base["v"], "w": base["w"].copy()})
    for other in ({**base, "w": np.float32([0, 0, 1])}, {"w": base["w"]}, {**base, "w": np.zeros(3)}):
        assert bitdelta.digest(other) != bitdelta.digest(base)

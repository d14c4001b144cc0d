"""Steps of the engine's forward pass by themselves: against numpy, whoever shares the work."""

import numpy as np
import pytest

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine import steps


def test_angles() -> None:
    cos, sin = steps.angles(10000.0, 40, 12)
    whole = np.arange(40)[:, None] * 10000.0 ** (-2 * np.arange(6) / 12)
    np.testing.assert_allclose(cos, np.cos(whole), rtol=0, atol=1e-14)
    np.testing.assert_allclose(sin, np.sin(whole), rtol=0, atol=1e-14)


@pytest.mark.parametrize("rows", [1, 8, 19])
def test_norms_are_rounded_once(rows: int) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(rows, 48)) * 10.0 ** rng.integers(-9, 9, (rows, 1)), rng.normal(size=48)
    want = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * weight
    found = steps.normed(x, weight, 1e-5, 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=2**-24 + 1e-14, atol=0)
    np.testing.assert_array_equal(found, steps.normed(x, weight, 1e-5, 3))


def test_gates() -> None:
    rng = np.random.default_rng(0)
    gate, up = rng.normal(size=(19, 32)) * 20, rng.normal(size=(19, 32))
    found = steps.gated(np.concatenate([gate, up], axis=1), 1)
    np.testing.assert_allclose(found, gate / (1 + np.exp(-gate)) * up, rtol=1e-13)
    np.testing.assert_array_equal(found, steps.gated(np.concatenate([gate, up], axis=1), 2))


@pytest.mark.parametrize("window", [0, 1, 5])
def test_attention_of_texts_that_follow_others(window: int) -> None:
    """Texts of no, one and all tokens, behind none, some and all of the first ones."""
    rng = np.random.default_rng(0)
    begins, lengths, before, length = np.array([0, 7, 3, 7, 2]), np.array([4, 6, 1, 0, 6]), 7, 6
    q = rng.normal(size=(5, 6, length, 16))
    k, v = rng.normal(size=(2, 5, 2, before + length, 16))
    found = steps.attended(q, k, v, begins, lengths, window, 0.3, 1)
    np.testing.assert_array_equal(found, steps.attended(q, k, v, begins, lengths, window, 0.3, 3))
    for i, (begin, count) in enumerate(zip(begins, lengths, strict=True)):
        for head in range(6):
            keys, values = (
                np.concatenate([each[i, head // 3, :begin], each[i, head // 3, before : before + count]])
                for each in (k, v)
            )
            scores = q[i, head, :count] @ keys.T * 0.3
            distance = begin + np.arange(count)[:, None] - np.arange(begin + count)
            scores[(distance < 0) | (distance >= (window or 99))] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True, initial=-1e9))
            want = weights / weights.sum(1, keepdims=True) @ values
            got = found.reshape(5, length, 6, 16)[i, :, head]
            np.testing.assert_allclose(got[:count], want, rtol=1e-12, atol=1e-13)
            assert not got[count:].any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a multiple of 16 columns, got 20"):
        steps.normed(np.ones((2, 20)), np.ones(20), 1e-5, 1)
    with pytest.raises(UsageError, match="expected a multiple of 16 columns, got 8"):
        steps.gated(np.ones((2, 16)), 1)
    q, k = np.ones((1, 3, 2, 16)), np.ones((1, 2, 2, 16))
    with pytest.raises(UsageError, match="heads must be a multiple"):
        steps.attended(q, k, k, np.array([0]), np.array([2]), 0, 1.0, 1)
    with pytest.raises(UsageError, match="text 0 does not fit"):
        steps.attended(q[:, :2], k, k, np.array([1]), np.array([2]), 0, 1.0, 1)

"""A product of floats by itself: the sums of kernels.h, in their order, on any number of threads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.product import product


def rounded(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).bfloat16().float().numpy()


def fused(sums: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b + sums, rounded once: the product is exact in float64; a sum that is rounded twice is too rare to be met."""
    return (sums.astype(np.float64) + a.astype(np.float64) * b.astype(np.float64)).astype(np.float32)


def in_order(x: np.ndarray, weights: np.ndarray, format: str) -> np.ndarray:
    """[n, rows] as kernels.h says that it is added."""
    sums = np.zeros((len(x), len(weights)), np.float32)
    if format == "fp32":
        for c in range(x.shape[1]):
            sums = fused(sums, x[:, None, c], weights[None, :, c])
        return sums
    x, weights = (np.pad(rounded(each), ((0, 0), (0, -each.shape[1] % 32))) for each in (x, weights))
    for start in range(0, x.shape[1], 32):
        parts = [np.zeros_like(sums), np.zeros_like(sums)]
        for c in range(start, start + 32):
            parts[c % 2] = fused(parts[c % 2], x[:, None, c], weights[None, :, c])
        sums = sums + (parts[0] + parts[1])
    return sums


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 40), st.integers(1, 70), st.integers(1, 150), st.sampled_from(["fp32", "bf16"]), st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_sums_are_those_of_kernels_in_their_order(
    n: int, rows: int, columns: int, format: str, threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, weights = (rng.normal(size=(count, columns)).astype(np.float32) for count in (n, rows))
    np.testing.assert_array_equal(product(x, weights, format, threads), in_order(x, weights, format))


def test_tokens_that_do_not_go_through_together_are_multiplied_alike() -> None:
    rng = np.random.default_rng(0)
    x, weights = (rng.normal(size=(n, 100)).astype(np.float32) for n in (700, 50))
    for format in ("fp32", "bf16"):
        whole = product(x, weights, format, 3)
        parts = [product(x[i : i + 100], weights, format, 1) for i in range(0, 700, 100)]
        np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_make_nan(value: float) -> None:
    weights = np.ones((3, 4), np.float32)
    weights[1, 2] = value
    assert np.isnan(product(np.ones((2, 4), np.float32), weights, "fp32", 1)).all()


@pytest.mark.parametrize(
    ("shapes", "format", "message"),
    [
        (((2, 3), (4, 5)), "fp32", r"expected x \[n, columns\] and weights .* \[2, 3\] and \[4, 5\]"),
        (((3,), (4, 3)), "fp32", r"got \[3\] and \[4, 3\]"),
        (((2, 3), (4, 3)), "int8", "expected a format of floats, bf16 or fp32, got int8"),
        (((2, 0), (4, 0)), "fp32", "expected a matrix, got one of 4 x 0"),
    ],
)
def test_what_cannot_be_multiplied(shapes: tuple[tuple[int, ...], ...], format: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        product(*(np.zeros(shape, np.float32) for shape in shapes), format, 1)

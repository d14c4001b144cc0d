"""Continuous actions are sent in the space's dtype, within its bounds."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitrl.core.acting.policies import within

KINDS = ["int8", "int32", "int64", "uint8", "uint64", "bool", "float16", "float32", "float64"]


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4), st.sampled_from(KINDS), st.booleans()
)
def test_actions_are_in_the_space(outputs, kind, widest):
    dtype = np.dtype(kind)
    low, high = (0, 1) if kind == "bool" else (-3, 7) if dtype.kind in "if" else (0, 7)
    if widest and kind != "bool":
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        low, high = limits.min, limits.max
    space = gymnasium.spaces.Box(np.full((2, 2), low, dtype), np.full((2, 2), high, dtype), dtype=dtype)
    [action] = within(np.array([outputs], np.float32), space.low, space.high)
    assert action.dtype == dtype
    assert space.contains(action)


@pytest.mark.parametrize(("output", "expected"), [(-9, 0), (0.4, 0), (1.6, 2), (19.7, 20), (21, 20), (1e20, 20)])
def test_integers_are_the_nearest_ones(output, expected):
    bounds = np.array([0]), np.array([20])
    assert within(np.array([[output]], np.float32), *bounds).tolist() == [[expected]]


def test_floats_are_only_clipped():
    outputs = np.array([[-2, 0.123456, 2]], np.float32)
    actions = within(outputs, np.full(3, -1, np.float32), np.full(3, 1, np.float32))
    assert actions.tolist() == [[-1, outputs[0, 1], 1]]


def test_the_largest_integers_are_reached():
    limits = np.iinfo(np.int64)
    actions = within(np.array([[1e30], [-1e30]], np.float32), np.array([limits.min]), np.array([limits.max]))
    assert actions.tolist() == [[limits.max], [limits.min]]

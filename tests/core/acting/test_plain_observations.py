"""Observations as plain data: what is refused costs no more than what is read."""

from __future__ import annotations

import numpy as np
import pytest

from bitrl.core.acting.plain_observations import as_array
from bitrl.core.errors import UsageError

LIKE = np.zeros((1, 4), np.float32)


def test_a_list_of_millions_is_neither_converted_nor_written_out_to_be_refused():
    touched = []

    class Number:
        def __float__(self):
            touched.append("converted")
            return 1.0

        def __repr__(self):
            touched.append("written")
            return "1"

    with pytest.raises(UsageError, match=r"^observation: expected 4 numbers, got \[1, 1, 1, .*…$"):
        as_array([Number()] * 100_000, LIKE)
    assert set(touched) == {"written"}
    assert len(touched) <= 100


def test_what_is_short_is_shown_whole():
    with pytest.raises(UsageError, match=r"got \[1, 2, \[3, \{'a': \[4, 'five'\]\}\]\]$"):
        as_array([1, 2, [3, {"a": [4, "five"]}]], LIKE)

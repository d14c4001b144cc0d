"""A generator goes on from its saved state as if it had not stopped."""

import numpy as np
import pytest

from bitrl.plugins.algos.saved_generator import generator_state, restore_generator


@pytest.mark.parametrize("half", [False, True], ids=["whole", "after half a draw"])
def test_it_goes_on_exactly(half: bool) -> None:
    generator = np.random.Generator(np.random.PCG64(5))
    if half:
        generator.integers(2**32, dtype=np.uint32)
    state = generator_state(generator)
    assert (state.dtype, state.shape) == (np.uint64, (6,))
    other = np.random.Generator(np.random.PCG64(0))
    restore_generator(other, state)
    assert other.bit_generator.state == generator.bit_generator.state
    np.testing.assert_array_equal(
        other.integers(2**32, size=9, dtype=np.uint32), generator.integers(2**32, size=9, dtype=np.uint32)
    )
    np.testing.assert_array_equal(other.gumbel(size=5), generator.gumbel(size=5))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.zeros(5, np.uint64), r"expected uint64 \[6\], got uint64 \[5\]"),
        (np.zeros(6, np.int64), r"expected uint64 \[6\], got int64 \[6\]"),
        (np.array([1, 2, 3, 4, 0, 0], np.uint64), "not the state of a PCG64"),  # its increment is odd
        (np.array([1, 2, 3, 5, 2, 0], np.uint64), "not the state of a PCG64"),
        (np.array([1, 2, 3, 5, 1, 2**32], np.uint64), "not the state of a PCG64"),
    ],
)
def test_what_is_no_state_is_refused(state: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restore_generator(np.random.Generator(np.random.PCG64(0)), state)

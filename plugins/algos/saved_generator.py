"""The state of a random generator (numpy's PCG64) as an array of a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np

_LOW = 2**64 - 1


def generator_state(generator: np.random.Generator) -> np.ndarray:
    """All that the next draw depends on, uint64 [6]: halves of PCG64's two 128-bit numbers, and a half-used draw."""
    found: Any = generator.bit_generator.state
    wide = [found["state"]["state"], found["state"]["inc"]]
    halves = [half for number in wide for half in (number >> 64, number & _LOW)]
    return np.array([*halves, found["has_uint32"], found["uinteger"]], np.uint64)


def restore_generator(generator: np.random.Generator, state: np.ndarray) -> None:
    """Go back to a `generator_state`.

    Raises:
        ValueError: it is none.
    """
    if state.shape != (6,) or state.dtype != np.uint64:
        raise ValueError(f"generator: expected uint64 [6], got {state.dtype.name} {list(state.shape)}")
    numbers = [int(each) for each in state]
    if not numbers[3] % 2 or numbers[4] > 1 or numbers[5] >= 2**32:
        raise ValueError("generator: is not the state of a PCG64")
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": numbers[0] << 64 | numbers[1], "inc": numbers[2] << 64 | numbers[3]},
        "has_uint32": numbers[4],
        "uinteger": numbers[5],
    }

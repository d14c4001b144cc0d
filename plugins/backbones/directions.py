"""Directions in which the state at a number's end says how large the number is, as an option holds them (base64).

A state of hundreds of numbers holds one number of the text. Where that is read in a few directions, heads learn from a
few features of each number; how they are found is in tools/number_directions.py.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.wording import setting

LARGEST = 127


def written(directions: np.ndarray) -> str:
    """Directions [k, width], rounded to int8 of each one's largest part, as text."""
    largest = np.abs(directions).max(axis=1, keepdims=True)
    codes = np.round(directions / largest * LARGEST).astype(np.int8)
    return base64.b64encode(codes.tobytes()).decode()


def digest(directions: np.ndarray) -> str:
    """What tells these from others."""
    return hashlib.sha256(directions.tobytes()).hexdigest()[:16]


def read(text: str, width: int) -> np.ndarray:
    """What `written` wrote, for a model of this width: float32 [k, width], each of length one.

    Raises:
        UsageError: it is no such text, or of another width.
    """
    try:
        codes = np.frombuffer(base64.b64decode(text, validate=True), np.int8).astype(np.float64)
    except (binascii.Error, ValueError):
        codes = np.zeros(0)
    if not len(codes) or len(codes) % width or not codes.reshape(-1, width).any(axis=1).all():
        raise UsageError(
            f"backbone.directions: expected base64 of int8 [count, {width}], none of them zero, as "
            f"{setting('backbone.readout', 'auto')} finds them for this model, got {text[:40]!r}"
        )
    rows = codes.reshape(-1, width)
    # Squares of integers add up exactly, and a root and a quotient are rounded in one way: the same bits everywhere.
    found: np.ndarray = (rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))).astype(np.float32)
    return found

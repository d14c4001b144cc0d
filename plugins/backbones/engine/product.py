"""One product of floats by the engine's kernels, with the bits that it has inside a model."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.files.gguf_handle import message

_ERROR_BYTES = 256
LOCK = threading.Lock()  # one product at a time: autograd may work in a thread of its own


def product(x: np.ndarray, weights: np.ndarray, format: str, threads: int) -> np.ndarray:
    """x float32 [n, columns] times weights float32 [rows, columns] → float32 [n, rows].

    `format`: "fp32", as adapters are computed, or "bf16", which rounds both first. Neither `threads` nor the
    instruction set changes a bit. Weights that are not finite make all of it NaN.

    Raises:
        UsageError: shapes do not fit, or another format.
    """
    x, weights = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(weights, np.float32)
    if x.ndim != 2 or weights.ndim != 2 or x.shape[1] != weights.shape[1]:
        raise UsageError(
            f"expected x [n, columns] and weights [rows, columns], got {list(x.shape)} and {list(weights.shape)}"
        )
    out, error = np.empty((len(x), len(weights)), np.float32), ffi.new("char[]", _ERROR_BYTES)
    with LOCK:
        status = lib.bitrl_product(
            format.encode(), ffi.from_buffer("float[]", x), len(x), ffi.from_buffer("float[]", weights), *weights.shape,
            workers(threads), ffi.from_buffer("float[]", out, require_writable=True), error,
        )  # fmt: skip
    if status != lib.BITRL_OK:
        raise UsageError(message(error))
    return out


@cache
def workers(threads: int) -> Any:
    """Threads that wait for the next product: starting them anew would take longer than a small one."""
    opened, error = ffi.new("bitrl_threads **"), ffi.new("char[]", _ERROR_BYTES)
    if lib.bitrl_threads_open(threads, opened, error) != lib.BITRL_OK:
        raise UsageError(message(error))
    return ffi.gc(opened[0], lib.bitrl_threads_close)

"""Steps of the engine's forward pass between its products, with the bits that they have inside a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.product import LOCK, workers
from bitrl.plugins.backbones.files.gguf_handle import message

_ERROR_BYTES = 256
COLUMNS = 16
"""What the columns of `normed` and `gated`, and `attended`'s of a head, must be a multiple of."""


def angles(theta: float, positions: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of position · theta^(-2 i / dims): float64 [positions, dims / 2] each."""
    table, error = np.empty((positions, dims)), _error()
    _check(lib.bitrl_angles(theta, positions, dims, _doubles(table, True), error), error)
    return table[:, : dims // 2], table[:, dims // 2 :]


def normed(x: np.ndarray, weight: np.ndarray, eps: float, threads: int) -> np.ndarray:
    """RMSNorm of float64 [n, columns] by float64 [columns], rounded to float32."""
    x, out, error = np.ascontiguousarray(x), np.empty(x.shape, np.float32), _error()
    given = _doubles(x), _doubles(np.ascontiguousarray(weight)), *x.shape, eps
    with LOCK:
        _check(lib.bitrl_normed(*given, workers(threads), ffi.from_buffer("float[]", out, True), error), error)
    return out


def gated(gate_up: np.ndarray, threads: int) -> np.ndarray:
    """float64 [n, 2 · columns], gates beside ups → silu(gate) · up, float64 [n, columns]."""
    gate_up, error = np.ascontiguousarray(gate_up), _error()
    out = np.empty((len(gate_up), gate_up.shape[1] // 2))
    with LOCK:
        _check(lib.bitrl_gated(_doubles(gate_up), *out.shape, workers(threads), _doubles(out, True), error), error)
    return out


def attended(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, begins: np.ndarray, lengths: np.ndarray, window: int, scale: float,
    threads: int,
) -> np.ndarray:  # fmt: skip
    """Causal attention of B texts, float64 all: q [B, heads, T, d] to k, v [B, kv_heads, P + T, d] → [B, T, heads · d].

    The keys of text i are the first begins[i] of P, and lengths[i] from P on, as many as it has queries; what is beyond
    these comes out as zeros. `window` 0: there is none.
    """
    batch, heads, length, dim = q.shape
    q, k, v = (np.ascontiguousarray(each) for each in (q, k, v))
    begins, lengths = np.ascontiguousarray(begins, np.uint64), np.ascontiguousarray(lengths, np.uint64)
    out, error = np.zeros((batch, length, heads * dim)), _error()
    task = ffi.new(
        "bitrl_attention *",
        {
            "q": _doubles(q), "k": _doubles(k), "v": _doubles(v), "out": _doubles(out, True),
            "begins": ffi.from_buffer("uint64_t[]", begins), "lengths": ffi.from_buffer("uint64_t[]", lengths),
            "texts": batch, "heads": heads, "kv_heads": k.shape[1], "queries": length, "before": k.shape[2] - length,
            "keys": k.shape[2], "head_dim": dim, "window": window, "scale": scale,
        },
    )  # fmt: skip
    with LOCK:
        _check(lib.bitrl_attend(task, workers(threads), error), error)
    return out


def _doubles(array: np.ndarray, writable: bool = False) -> Any:
    return ffi.from_buffer("double[]", array, require_writable=writable)


def _error() -> Any:
    return ffi.new("char[]", _ERROR_BYTES)


def _check(status: int, error: Any) -> None:
    if status != lib.BITRL_OK:
        raise UsageError(message(error))

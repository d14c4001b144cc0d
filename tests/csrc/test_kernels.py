"""Each kernel of each instruction set against its scalar twin, bit for bit, over odd shapes and extreme numbers."""

import math
import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from cffi import FFI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CSRC = Path(__file__).parents[2] / "csrc"
TILE_TOKENS, GROUP = 12, 16
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The kernel tables this CPU runs, by name, from a library of the kernels alone."""
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    sources = [str(path) for path in [*CSRC.glob("kernels_*.c"), CSRC / "dispatch.c"]]
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    flags = ["-std=c11", "-O3", "-fno-math-errno", "-ffp-contract=off", "-shared", "-fPIC", f"-I{CSRC}"]
    subprocess.run([*compiler, *flags, *sources, "-lm", "-o", str(library)], check=True)
    ffi = FFI()
    struct = re.search(r"typedef struct \{.*?\} bitrl_kernels;", (CSRC / "kernels.h").read_text(), re.S)[0]
    ffi.cdef(re.sub(r"/\*.*?\*/|\brestrict\b", "", struct, flags=re.S))
    ffi.cdef("const bitrl_kernels *bitrl_kernels_find(const char *); const char *bitrl_instruction_set(uint64_t);")
    lib = ffi.dlopen(str(library))
    names, i = [], 0
    while (name := lib.bitrl_instruction_set(i)) != ffi.NULL:
        names.append(ffi.string(name))
        i += 1
    assert names[-1] == b"scalar"
    return {"ffi": ffi, "lib": lib, "sets": {name.decode(): lib.bitrl_kernels_find(name) for name in names}}


def aligned(shape: tuple[int, ...] | int, dtype: type) -> np.ndarray:
    """Zeros whose first byte is 64-byte aligned."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    return raw[-raw.ctypes.data % 64 :][:size].view(dtype).reshape(shape)


def pointer(ffi: FFI, array: np.ndarray):
    kinds = {"float64": "double *", "int32": "int32_t *", "int8": "int8_t *", "uint8": "uint8_t *"}
    return ffi.cast(kinds[array.dtype.name], array.ctypes.data)


def pack(codes: np.ndarray) -> np.ndarray:
    """[16 tiles, 16 groups] codes 0..2 -> the layout of kernels.h, written the slow way."""
    tiles, groups = codes.shape[0] // 16, codes.shape[1] // GROUP
    out = aligned((tiles, groups, 64), np.uint8)
    for part in range(4):
        bytes_ = codes.reshape(tiles, 16, groups, 4, 4)[:, :, :, part].transpose(0, 2, 1, 3)
        out |= (bytes_ << 2 * part).reshape(tiles, groups, 64).astype(np.uint8)
    return out


def spread(q: np.ndarray) -> np.ndarray:
    """[tokens, columns] -> [tiles of tokens][columns / 4][12][4]."""
    tiles = -(-len(q) // TILE_TOKENS)
    out = aligned((tiles, q.shape[1] // 4, TILE_TOKENS, 4), np.int8)
    for t, row in enumerate(q):
        out[t // TILE_TOKENS, :, t % TILE_TOKENS] = row.reshape(-1, 4)
    return out


def ternary_product(tables: dict, name: str, codes: np.ndarray, q: np.ndarray) -> np.ndarray:
    """[tokens, rows] int32, with a guard of 7s behind every row."""
    ffi, table = tables["ffi"], tables["sets"][name]
    packed, activations, sums = pack(codes), spread(q), q.sum(1, dtype=np.int32)
    y = np.full((len(q), len(codes) + 5), 7, np.int32)
    scratch = aligned(2 * 16 * codes.shape[1], np.uint8)
    table.ternary_product(
        pointer(ffi, y), y.shape[1], pointer(ffi, packed), len(codes) // 16, codes.shape[1] // GROUP,
        pointer(ffi, activations), pointer(ffi, sums), len(q), pointer(ffi, scratch),
    )  # fmt: skip
    assert (y[:, len(codes) :] == 7).all()
    return y[:, : len(codes)]


@quick
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 30), st.sampled_from(["any", "max", "min", "zero"]), seeds)
def test_ternary_products_are_exact(tables, tiles, groups, tokens, kind, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (16 * tiles, GROUP * groups), dtype=np.uint8)
    q = {
        "any": rng.integers(-128, 128, (tokens, codes.shape[1]), dtype=np.int8),
        "max": np.full((tokens, codes.shape[1]), 127, np.int8),
        "min": np.full((tokens, codes.shape[1]), -128, np.int8),
        "zero": np.zeros((tokens, codes.shape[1]), np.int8),
    }[kind]
    want = q.astype(np.int64) @ (codes.astype(np.int64).T - 1)
    for name in tables["sets"]:
        np.testing.assert_array_equal(ternary_product(tables, name, codes, q), want)


@pytest.mark.parametrize("value", [127, -128])
@pytest.mark.parametrize("code", [0, 2])
def test_long_rows_do_not_overflow_sixteen_bits(tables, value, code):
    columns = 7168
    q = np.full((13, columns), value, np.int8)
    for name in tables["sets"]:
        got = ternary_product(tables, name, np.full((32, columns), code, np.uint8), q)
        assert (got == value * (code - 1) * columns).all()


def norm_quantise(tables: dict, name: str, x: np.ndarray, weight: np.ndarray, eps: float):
    """The codes, their sum and s of one token."""
    ffi, table = tables["ffi"], tables["sets"][name]
    padded = -(-len(x) // 16) * 16
    q, total, row = aligned((padded // 4, TILE_TOKENS, 4), np.int8), np.zeros(1, np.int32), np.zeros(padded)
    xs, weights = np.zeros(padded), np.zeros(padded)
    xs[: len(x)], weights[: len(x)] = x, weight
    s = table.norm_quantise(
        pointer(ffi, q), pointer(ffi, total), pointer(ffi, row), pointer(ffi, xs), pointer(ffi, weights),
        len(x), padded, eps,
    )  # fmt: skip
    assert not q[:, 1:].any()
    return q[:, 0].reshape(-1), int(total[0]), s


@quick
@given(st.integers(1, 400), st.sampled_from(["normal", "tiny", "outlier", "zero", "huge", "equal"]), seeds)
def test_norm_and_quantisation(tables, n, kind, seed):
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=n), rng.uniform(0.5, 1.5, n)
    if kind == "outlier":
        x[rng.integers(n)] = 1e6
    x *= {"tiny": 1e-30, "zero": 0.0, "huge": 1e100}.get(kind, 1.0)
    x = np.full(n, -3.25) if kind == "equal" else x
    want = norm_quantise(tables, "scalar", x, weight, 1e-5)
    normed = x / np.sqrt((x * x).mean() + 1e-5) * weight
    s = 127 / max(np.abs(normed).max(), 1e-5)
    exact = normed * s
    assert want[2] == pytest.approx(s, rel=1e-12)
    assert np.abs(want[0][:n] - exact).max() <= 0.5 + 1e-9
    assert not want[0][n:].any()
    assert want[1] == want[0].sum()
    for name in tables["sets"]:
        got = norm_quantise(tables, name, x, weight, 1e-5)
        np.testing.assert_array_equal(got[0], want[0])
        assert got[1:] == want[1:]


def test_ties_round_to_even(tables):
    x = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5] + [0.0] * 8)  # the largest is 127: codes are x, rounded
    for name in tables["sets"]:
        q, _, _ = norm_quantise(tables, name, x, np.ones(16), 1e-5)
        assert q[:8].tolist() == [127, 0, 2, 2, 0, -2, -2, 126]


@quick
@given(st.integers(1, 8), st.sampled_from([1, 1000, 2**31 - 1]), seeds)
def test_elementwise_kernels(tables, vectors, largest, seed):
    rng = np.random.default_rng(seed)
    n = 16 * vectors
    a, b = (rng.integers(-largest, largest, n, dtype=np.int32) for _ in range(2))
    scale, other = rng.uniform(1e-6, 1, 2)
    start, rope = rng.normal(size=n), rng.normal(size=n)
    half = int(rng.integers(1, n // 2 + 1))
    ffi, results = tables["ffi"], {}
    for name, table in tables["sets"].items():
        out = [np.zeros(n), np.zeros(n), start.copy(), np.zeros(n)]
        table.gated(pointer(ffi, out[0]), pointer(ffi, a), pointer(ffi, b), scale, other, n)
        table.scaled(pointer(ffi, out[1]), pointer(ffi, a), scale, n - half % 8)
        table.add_scaled(pointer(ffi, out[2]), pointer(ffi, a), scale, n)
        table.rotated(pointer(ffi, out[3]), pointer(ffi, a), scale, pointer(ffi, rope), half)
        results[name] = out
    gate, up = np.maximum(a, 0) * scale, b * other
    np.testing.assert_allclose(results["scalar"][0], gate**2 * up, rtol=1e-13)
    np.testing.assert_array_equal(results["scalar"][1][: n - half % 8], (a * scale)[: n - half % 8])
    np.testing.assert_array_equal(results["scalar"][2], start + a * scale)
    turned = (a[:half] + 1j * a[half : 2 * half]) * scale * (rope[:half] + 1j * rope[half : 2 * half])
    np.testing.assert_allclose(
        results["scalar"][3][: 2 * half], [*turned.real, *turned.imag], rtol=1e-9, atol=1e-6 * scale
    )
    for out in results.values():
        for got, want in zip(out, results["scalar"], strict=True):
            np.testing.assert_array_equal(got, want)


@quick
@given(st.integers(1, 40), st.integers(1, 40).map(lambda half: 2 * half), st.sampled_from([0.1, 1.0, 30.0]), seeds)
def test_attention(tables, length, head_dim, size, seed):
    rng = np.random.default_rng(seed)
    padded = -(-head_dim // 16) * 16
    q, k, v = (np.zeros((length, padded + 3)) for _ in range(3))
    for array in (q, k, v):
        array[:, :head_dim] = rng.normal(size=(length, head_dim)) * size
    scores = np.where(np.tri(length, dtype=bool), q @ k.T / math.sqrt(head_dim), -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    want = (weights / weights.sum(1, keepdims=True) @ v)[:, :head_dim]
    ffi, results = tables["ffi"], []
    for table in tables["sets"].values():
        out = np.full((length, head_dim + 3), 7.0)
        scratch = aligned((length + 7) // 8 * 8 * (head_dim + 4), np.float64)
        table.attend(
            pointer(ffi, out), head_dim + 3, pointer(ffi, q), padded + 3, pointer(ffi, k), pointer(ffi, v), padded + 3,
            length, head_dim, pointer(ffi, scratch),
        )  # fmt: skip
        assert (out[:, head_dim:] == 7).all()
        np.testing.assert_allclose(out[:, :head_dim], want, rtol=1e-9, atol=1e-12 * size)
        results.append(out)
    for out in results:
        np.testing.assert_array_equal(out, results[-1])

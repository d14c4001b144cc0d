"""Each kernel of each instruction set against its scalar twin, bit for bit, over odd shapes and extreme numbers."""

import math
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from cffi import FFI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bitrl import _engine

CSRC = Path(__file__).parents[2] / "csrc"
GROUP, TOKEN_PAD = 64, 16
FORMATS = ("ternary", "ternary-1.6", "int8", "int4", "fp8", "bf16", "fp32")
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tables() -> dict:
    """The kernel tables this CPU runs, by name, of the engine that is installed."""
    ffi = FFI()
    header = (CSRC / "kernels.h").read_text()
    for declaration in (
        r"typedef enum \{[^}]*FORMATS.*?;",
        r"typedef void matrix_product.*?;",
        r"typedef struct \{[^}]*\} attention_task;",
        r"typedef struct \{[^}]*\} adam_rates;",
        r"typedef struct \{[^}]*\} bitrl_kernels;",
    ):
        found = re.search(declaration, header, re.S)[0]
        ffi.cdef(re.sub(r"/\*.*?\*/|\brestrict\b", "", found, flags=re.S))
    ffi.cdef("const bitrl_kernels *bitrl_kernels_find(const char *); const char *bitrl_instruction_set(uint64_t);")
    lib = ffi.dlopen(_engine.__file__)
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
    kinds = {
        "float64": "double *", "float32": "float *", "int32": "int32_t *", "int8": "int8_t *", "uint8": "uint8_t *",
        "uint16": "uint16_t *",
    }  # fmt: skip
    return ffi.cast(kinds[array.dtype.name], array.ctypes.data)


def in_steps(weights: np.ndarray) -> np.ndarray:
    """[16 tiles, columns] of 1, 2 or 4 bytes -> bytes [tiles, steps, 16 rows, 4] of kernels.h, written the slow way."""
    out = aligned((len(weights) // 16, weights.itemsize * weights.shape[1] // 4, 16, 4), np.uint8)
    raw = np.ascontiguousarray(weights).view(np.uint8).reshape(len(out), 16, -1, 4)
    out[:] = raw.transpose(0, 2, 1, 3)
    return out


def pack_ternary(codes: np.ndarray) -> np.ndarray:
    """-1, 0, 1 -> four steps in 64 bytes."""
    steps = in_steps((codes + 1).astype(np.uint8)).reshape(len(codes) // 16, -1, 4, 64)
    out = aligned((len(steps), steps.shape[1], 64), np.uint8)
    for part in range(4):
        out |= steps[:, :, part] << 2 * part
    return out


def pack_int4(codes: np.ndarray, multipliers: np.ndarray) -> np.ndarray:
    """-8..7 [rows, columns] and multipliers [rows, columns / 32 rounded up] -> two steps in 64 bytes, and behind."""
    tiles = len(codes) // 16
    steps = in_steps((codes + 8).astype(np.uint8)).reshape(tiles, -1, 2, 64)
    nibbles = (steps[:, :, 0] | steps[:, :, 1] << 4).reshape(tiles, -1)
    behind = multipliers.astype(np.int8).view(np.uint8).reshape(tiles, 16, -1).transpose(0, 2, 1).reshape(tiles, -1)
    size = nibbles.shape[1] + behind.shape[1]
    out = aligned((tiles, -(-size // 64) * 64), np.uint8)
    out[:, : nibbles.shape[1]] = nibbles
    out[:, nibbles.shape[1] : size] = behind
    return out


def pack_dense(codes: np.ndarray) -> np.ndarray:
    """-1, 0, 1 -> five steps in 64 bytes: the first four trits are r, and r + 64 d or 192 + (r - 64) + 17 d a byte."""
    wide = np.pad(codes + 1, ((0, 0), (0, -codes.shape[1] % 20)), constant_values=1)
    steps = in_steps(wide.astype(np.uint8)).reshape(len(codes) // 16, -1, 5, 64).astype(int)
    r, d = steps[:, :, 0] + 3 * steps[:, :, 1] + 9 * steps[:, :, 2] + 27 * steps[:, :, 3], steps[:, :, 4]
    out = aligned(r.shape, np.uint8)
    out[:] = np.where(r < 64, r + 64 * d, 192 + r - 64 + 17 * d)
    return out


def pack_fp8(codes: np.ndarray) -> np.ndarray:
    """E4M3's bytes -> two steps of bf16 in 64 bytes: [tiles, steps / 2, 4, 2 steps, 4 rows, 2 columns]."""
    tiles = codes.reshape(len(codes) // 16, 4, 4, -1, 2, 2)  # tile, four, row, pair of steps, step, column
    out = aligned((len(tiles), tiles.shape[3], 4, 2, 4, 2), np.uint8)
    out[:] = tiles.transpose(0, 3, 1, 4, 2, 5)
    return out


def from_fp8(codes: np.ndarray) -> np.ndarray:
    """E4M3's bytes -> float32."""
    return codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)


def in_rows(x: np.ndarray) -> tuple[np.ndarray, int]:
    """[tokens, columns] of 1, 2 or 4 bytes -> rows of bytes with zeros behind (kernels.h), and their stride."""
    stride = (x.shape[1] * x.itemsize // 64 + 1 | 1) * 64
    out = aligned((-(-len(x) // TOKEN_PAD) * TOKEN_PAD, stride), np.uint8)
    out[: len(x), : x.shape[1] * x.itemsize] = np.ascontiguousarray(x).view(np.uint8)
    return out, stride


def product(tables: dict, name: str, kind: str, packed: np.ndarray, rows: int, x: np.ndarray) -> np.ndarray:
    """[tokens, rows] int32 or float32, with a guard of 7s behind every row."""
    ffi, table = tables["ffi"], tables["sets"][name]
    sums = x.sum(1, dtype=np.int32) if x.dtype == np.int8 else np.zeros(len(x), np.int32)
    (activations, stride), padded = in_rows(x), -(-len(x) // TOKEN_PAD) * TOKEN_PAD
    tile, copy = 16 * (x.shape[1] + 64), (x.shape[1] // 64 + 1 | 1) * 64 + x.shape[1]  # unpacked_bytes()
    unpacked = max(2 * tile, 4 * 160 * 64) + (len(x) + TOKEN_PAD) * 3 * 64
    scratch = aligned(max(unpacked, tile + min(len(x), 64) * copy), np.uint8)
    y = np.full((padded, rows + 5), 7, np.int32)
    table.product[FORMATS.index(kind)](
        pointer(ffi, y), y.shape[1], pointer(ffi, packed), rows // 16, x.shape[1],
        pointer(ffi, activations), stride, pointer(ffi, sums), len(x), pointer(ffi, scratch),
    )  # fmt: skip
    assert (y[:, rows:] == 7).all()
    y = y[: len(x)]
    return y[:, :rows] if x.dtype == np.int8 else np.ascontiguousarray(y[:, :rows]).view(np.float32)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 -> the bits of bf16, ties to even, as torch has it."""
    return torch.from_numpy(values.astype(np.float32)).bfloat16().view(torch.int16).numpy().view(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The bits of bf16 -> float64."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


shapes = (st.integers(1, 5), st.integers(1, 5), st.integers(1, 50))
kinds = st.sampled_from(["any", "max", "min", "zero"])


def some_codes(rng: np.random.Generator, shape: tuple[int, int], kind: str, least: int, most: int) -> np.ndarray:
    """Integers from `least` to `most`: any, or all one extreme or zero; "quiet": small but for a share of each row."""
    if kind == "any":
        return rng.integers(least, most + 1, shape, dtype=np.int8)
    if kind == "quiet":
        loud = rng.random(shape) < rng.choice([0, 0.005, 0.02, 0.1], (shape[0], 1))
        return np.where(loud, rng.integers(least, most + 1, shape), rng.integers(-18, 19, shape)).astype(np.int8)
    return np.full(shape, {"max": most, "min": least, "zero": 0}[kind], np.int8)


@quick
@given(*shapes, kinds, seeds)
def test_ternary_products_are_exact(tables, tiles, groups, tokens, kind, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 2, (16 * tiles, GROUP * groups))
    q = some_codes(rng, (tokens, codes.shape[1]), kind, -128, 127)
    for name in tables["sets"]:
        for form, pack in (("ternary", pack_ternary), ("ternary-1.6", pack_dense)):
            got = product(tables, name, form, pack(codes), len(codes), q)
            np.testing.assert_array_equal(got, q.astype(np.int64) @ codes.T)


activations = st.sampled_from(["quiet", "any", "max", "min", "zero"])


@quick
@given(*shapes, activations, kinds, seeds)
@example(2, 9, 64, "quiet", "max", 0)
@example(1, 9, 65, "quiet", "any", 0)
@example(1, 2, 140, "quiet", "any", 0)
def test_int8_products_are_exact(tables, tiles, groups, tokens, kind, weights, seed):
    rng = np.random.default_rng(seed)
    codes = some_codes(rng, (16 * tiles, GROUP * groups), weights, -127, 127)
    q = some_codes(rng, (tokens, codes.shape[1]), kind, -127, 127)
    packed = in_steps((codes.astype(np.int16) + 128).astype(np.uint8))
    for name in tables["sets"]:
        got = product(tables, name, "int8", packed, len(codes), q)
        np.testing.assert_array_equal(got, q.astype(np.int64) @ codes.T.astype(np.int64))


@pytest.mark.parametrize("weight", [127, -127, 0])
@pytest.mark.parametrize("sign", [1, -1])
def test_codes_that_just_fit_sixteen_bits_together_and_those_that_do_not(tables, weight, sign):
    """Four steps have two codes each in a lane of 16 bits, which holds 255 * 128."""
    rows = [
        [16] * 8,
        [17] + [16] * 7,
        [64, 64] + [0] * 6,
        [127, 1] + [0] * 6,
        [127, 2] + [0] * 6,
        [127] * 8,
        [127, -127] * 4,
    ]
    q = np.zeros((2 * len(rows), 64), np.int8)
    for i, lane in enumerate(rows):
        for first in (0, 2):  # of four columns
            q[2 * i + first // 2, 16:32].reshape(4, 4)[:, first : first + 2] = sign * np.array(lane).reshape(4, 2)
    packed = in_steps(np.full((16, 64), 128 + weight, np.uint8))
    want = weight * q.astype(int).sum(1)[:, None].repeat(16, 1)
    for name in tables["sets"]:
        np.testing.assert_array_equal(product(tables, name, "int8", packed, 16, q), want)


@quick
@given(*shapes, activations, kinds, kinds, seeds)
def test_int4_products_are_exact(tables, tiles, groups, tokens, kind, weights, steps, seed):
    rng = np.random.default_rng(seed)
    codes = some_codes(rng, (16 * tiles, GROUP * groups), weights, -8, 7)
    multipliers = some_codes(rng, (len(codes), -(-codes.shape[1] // 32)), steps, -15, 15)
    q = some_codes(rng, (tokens, codes.shape[1]), kind, -127, 127)
    whole = codes.astype(np.int64) * np.repeat(multipliers, 32, 1)[:, : codes.shape[1]]
    for name in tables["sets"]:
        got = product(tables, name, "int4", pack_int4(codes, multipliers), len(codes), q)
        np.testing.assert_array_equal(got, q.astype(np.int64) @ whole.T)


@quick
@given(*shapes, st.sampled_from([1.0, 1e-20, 1e15]), st.sampled_from(["bf16", "fp32"]), seeds)
def test_float_products_have_the_same_bits_everywhere(tables, tiles, groups, tokens, size, kind, seed):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(16 * tiles, GROUP * groups)).astype(np.float32)
    x = (rng.normal(size=(tokens, w.shape[1])) * size).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = 0
    if kind == "bf16":
        w, x = to_bf16(w), to_bf16(np.where(np.abs(x) < 2.0**-50, 0, x))  # smaller ones are never given to it
    w64, x64 = (from_bf16(w), from_bf16(x)) if kind == "bf16" else (w.astype(np.float64), x.astype(np.float64))
    reference = product(tables, "scalar", kind, in_steps(w), len(w), x)
    bound = np.abs(x64) @ np.abs(w64).T * w.shape[1] * 2.0**-24
    assert (np.abs(reference - x64 @ w64.T) <= bound).all()
    for name in tables["sets"]:
        got = product(tables, name, kind, in_steps(w), len(w), x)
        np.testing.assert_array_equal(got.view(np.uint32), reference.view(np.uint32))


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of float32 (a * b exact in double), rounded once: the sum in double to odd, then to float32."""
    product = a.astype(np.float64) * b
    total = product + c
    rest = product - (total - c) + (c - (total - (total - c)))  # Knuth's: what the sum has lost, exactly
    even = (total.view(np.int64) & 1) == 0
    toward = np.where((rest > 0) == (total > 0), 1, -1)
    odd = np.where((rest != 0) & even, total.view(np.int64) + toward, total.view(np.int64))
    return odd.view(np.float64).astype(np.float32)


def tdpbf16ps(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[rows, columns], [tokens, columns] of bf16's bits -> float32 [tokens, rows], as Intel's manual says that the
    instruction adds (Intel 64 and IA-32 Architectures Software Developer's Manual, TDPBF16PS).
    """
    w, x = from_bf16(w).astype(np.float32), from_bf16(x).astype(np.float32)
    total = np.zeros((len(x), len(w)), np.float32)
    for start in range(0, w.shape[1], 32):
        chains = np.zeros((2, *total.shape), np.float32)
        for column in range(start, start + 32):
            chain = chains[column % 2]
            chain[:] = fused(x[:, column, None], w[None, :, column], chain)
        total += chains[0] + chains[1]
    return total


@quick
@given(*shapes, st.sampled_from([0, 3, 12, 49]), seeds)
def test_bf16_adds_in_the_order_of_the_instruction(tables, tiles, groups, tokens, spread, seed):
    """Sizes from 2^-spread to 2^spread, signs that cancel, zeros of both signs; none below 2^-50."""
    rng = np.random.default_rng(seed)

    def numbers(rows: int) -> np.ndarray:
        shape = rows, GROUP * groups
        signs, exponents = rng.choice([-1.0, 1.0], shape), rng.integers(-spread, spread + 1, shape)
        values = signs * rng.uniform(1, 2, shape) * 2.0**exponents
        return to_bf16(np.where(rng.random(shape) < 0.1, 0 * signs, values))

    w, x = numbers(16 * tiles), numbers(tokens)
    want = tdpbf16ps(w, x)
    for name in tables["sets"]:
        got = product(tables, name, "bf16", in_steps(w), len(w), x)
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@quick
@given(*shapes, st.sampled_from(["any", "small", "largest"]), seeds)
def test_fp8_is_multiplied_as_bf16(tables, tiles, groups, tokens, kind, seed):
    """Which holds its numbers exactly; and so does float64 their sum, but for float32's rounding."""
    rng = np.random.default_rng(seed)
    most = {"any": 0x7F, "small": 9, "largest": 0x7F}[kind]  # 0x7f is not a number
    codes = rng.integers(most - 1 if kind == "largest" else 0, most, (16 * tiles, GROUP * groups)).astype(np.uint8)
    codes |= rng.choice(np.uint8([0, 0x80]), codes.shape)
    q = rng.integers(0, 0x7F, (tokens, codes.shape[1])).astype(np.uint8) | rng.choice(np.uint8([0, 0x80]))
    x = to_bf16(from_fp8(q))
    want = tdpbf16ps(to_bf16(from_fp8(codes)), x)
    for name in tables["sets"]:
        got = product(tables, name, "fp8", pack_fp8(codes), len(codes), x)
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("kind", ["ternary", "ternary-1.6", "int8", "int4"])
@pytest.mark.parametrize(("code", "value"), [(-1, 127), (1, 127), (-1, -127), (1, -127)])
def test_long_rows_do_not_overflow_sixteen_bits(tables, kind, code, value):
    columns = 7168
    q = np.full((13, columns), value, np.int8)
    largest = {"ternary": 1, "ternary-1.6": 1, "int8": 127, "int4": 120}[kind]
    packed = {
        "ternary": lambda: pack_ternary(np.full((32, columns), code)),
        "ternary-1.6": lambda: pack_dense(np.full((32, columns), code)),
        "int8": lambda: in_steps(np.full((32, columns), 128 + 127 * code, np.uint8)),
        "int4": lambda: pack_int4(np.full((32, columns), -8), np.full((32, columns // 32), -15 * code)),
    }[kind]()
    for name in tables["sets"]:
        assert (product(tables, name, kind, packed, 32, q) == code * largest * value * columns).all()


@pytest.mark.parametrize("value", [127, -127])
def test_the_longest_rows_fit_thirty_two_bits(tables, value):
    columns = 65536
    packed = in_steps(np.full((16, columns), 255, np.uint8))
    for name in tables["sets"]:
        got = product(tables, name, "int8", packed, 16, np.full((1, columns), value, np.int8))
        assert (got == 127 * value * columns).all()


def norm_quantise(tables: dict, name: str, x: np.ndarray, weight: np.ndarray | None, eps: float):
    """The codes, their sum and s of one token."""
    ffi, table = tables["ffi"], tables["sets"][name]
    padded = -(-len(x) // 16) * 16
    q, total, row = aligned(padded, np.uint8), np.zeros(1, np.int32), np.zeros(padded)
    xs, weights = np.zeros(padded), np.zeros(padded)
    xs[: len(x)], weights[: len(x)] = x, 0 if weight is None else weight
    s = table.norm_quantise(
        pointer(ffi, q), pointer(ffi, total), pointer(ffi, row), pointer(ffi, xs),
        ffi.NULL if weight is None else pointer(ffi, weights), len(x), padded, eps,
    )  # fmt: skip
    return q.view(np.int8), int(total[0]), s


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


def test_quantisation_without_a_norm(tables):
    x = np.random.default_rng(0).normal(size=37)
    s = 127 / np.abs(x).max()
    for name in tables["sets"]:
        q, total, scale = norm_quantise(tables, name, x, None, 1e-5)
        np.testing.assert_array_equal(q[:37], np.round(x * s))
        assert (scale, total) == (s, q.sum())


def test_ties_round_to_even(tables):
    x = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5] + [0.0] * 8)  # the largest is 127: codes are x, rounded
    for name in tables["sets"]:
        q, _, _ = norm_quantise(tables, name, x, np.ones(16), 1e-5)
        assert q[:8].tolist() == [127, 0, 2, 2, 0, -2, -2, 126]


@quick
@given(st.integers(1, 400), st.sampled_from([1e-30, 1.0, 1e100]), st.sampled_from(["bf16", "fp32"]), seeds)
def test_norm_and_rounding(tables, n, size, kind, seed):
    rng = np.random.default_rng(seed)
    padded, ffi = -(-n // 16) * 16, tables["ffi"]
    x, weight, row = np.zeros(padded), np.zeros(padded), np.zeros(padded)
    x[:n], weight[:n] = rng.normal(size=n) * size, rng.uniform(0.5, 1.5, n)
    normed = x / np.sqrt((x[:n] ** 2).mean() + 1e-5) * weight
    bits = []
    for table in tables["sets"].values():
        q = aligned(padded * (4 if kind == "fp32" else 2), np.uint8)
        table.norm_round(
            pointer(ffi, q), FORMATS.index(kind), pointer(ffi, row), pointer(ffi, x), pointer(ffi, weight),
            n, padded, 1e-5,
        )  # fmt: skip
        bits.append(q.view(np.uint16 if kind == "bf16" else np.uint32))
        np.testing.assert_array_equal(bits[-1], bits[0])
    got = from_bf16(bits[0]) if kind == "bf16" else bits[0].view(np.float32)
    np.testing.assert_allclose(got, normed, rtol=2.0**-8 if kind == "bf16" else 2.0**-23, atol=2.0**-50)


@quick
@given(st.integers(1, 400), st.sampled_from([1e-30, 1.0, 1e100]), st.booleans(), seeds)
def test_norm_and_rounding_to_fp8(tables, n, size, normed, seed):
    rng = np.random.default_rng(seed)
    padded, ffi = -(-n // 16) * 16, tables["ffi"]
    x, weight, row = np.zeros(padded), np.zeros(padded), np.zeros(padded)
    x[:n], weight[:n] = rng.normal(size=n) * np.exp(rng.normal(size=n) * 3) * size, rng.uniform(0.5, 1.5, n)
    results, scales = [], set()
    for table in tables["sets"].values():
        q = aligned(padded * 2, np.uint8)
        scales.add(
            table.norm_fp8(
                pointer(ffi, q), pointer(ffi, row), pointer(ffi, x), pointer(ffi, weight) if normed else ffi.NULL,
                n, padded, 1e-5,
            )
        )  # fmt: skip
        results.append(q.view(np.uint16))
        np.testing.assert_array_equal(results[-1], results[0])
    values = x / np.sqrt((x[:n] ** 2).mean() + 1e-5) * weight if normed else x
    (s,) = scales
    assert s == pytest.approx(448 / max(np.abs(values).max(), 1e-5), rel=1e-12)
    exact = (values * s).astype(np.float32)
    near = [(exact * np.float32(1 + e)).astype(ml_dtypes.float8_e4m3fn).astype(float) for e in (0, -1e-6, 1e-6)]
    got = from_bf16(results[0])  # where they lie between two, by float32's last bit either may be
    assert ((got == near[0]) | (got == near[1]) | (got == near[2])).all()


@quick
@given(st.integers(1, 8), st.sampled_from([1, 1000, 2**31 - 1]), seeds)
def test_elementwise_kernels(tables, vectors, largest, seed):
    rng = np.random.default_rng(seed)
    n = 16 * vectors
    sums = rng.integers(-largest, largest, n, dtype=np.int32)
    scale = float(rng.uniform(1e-6, 1))
    a, b, rows, rope = (rng.normal(size=n) for _ in range(4))
    half, gate, floats = int(rng.integers(1, n // 2 + 1)), sums * scale, rng.normal(size=n).astype(np.float32)
    ffi, results = tables["ffi"], {}
    for name, table in tables["sets"].items():
        out = [np.zeros(n), np.zeros(n), np.zeros(n), a.copy(), *(np.zeros(n) for _ in range(5)), gate.copy()]
        table.capped(pointer(ffi, out[9]), n, scale, 3.0)
        table.scaled(pointer(ffi, out[0]), pointer(ffi, sums), scale, n - half % 8)
        table.scaled_rows(pointer(ffi, out[1]), pointer(ffi, sums), pointer(ffi, rows), scale, n)
        table.gated(pointer(ffi, out[2]), pointer(ffi, a), pointer(ffi, b), n)
        table.added(pointer(ffi, out[3]), pointer(ffi, b), n)
        table.rotated(pointer(ffi, out[4]), pointer(ffi, a), pointer(ffi, rope), half)
        table.gated_silu(pointer(ffi, out[5]), pointer(ffi, gate), pointer(ffi, b), n)
        table.gated_gelu(pointer(ffi, out[6]), pointer(ffi, gate), pointer(ffi, b), n)
        table.scaled_floats(pointer(ffi, out[7]), pointer(ffi, floats), scale, n - half % 8)
        table.scaled_float_rows(pointer(ffi, out[8]), pointer(ffi, floats), pointer(ffi, rows), scale, n)
        results[name] = out
    want = results["scalar"]
    np.testing.assert_allclose(want[9], 3 * np.tanh(gate * scale / 3), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(want[8], floats.astype(np.float64) * scale * rows)
    np.testing.assert_array_equal(want[7][: n - half % 8], (floats.astype(np.float64) * scale)[: n - half % 8])
    np.testing.assert_array_equal(want[0][: n - half % 8], (sums * scale)[: n - half % 8])
    np.testing.assert_array_equal(want[1], sums * scale * rows)
    np.testing.assert_allclose(want[2], np.maximum(a, 0) ** 2 * b, rtol=1e-13)
    np.testing.assert_array_equal(want[3], a + b)
    gate = gate.astype(np.longdouble)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(want[5], (gate / (1 + np.exp(-gate)) * b).astype(float), rtol=1e-13, atol=1e-280)
        twice = 2 * np.sqrt(2 / np.longdouble(np.pi)) * (gate + np.longdouble(0.044715) * gate**3)
        # The exponent's own rounding, relative: up to 700 * 2^-53.
        np.testing.assert_allclose(want[6], (gate / (1 + np.exp(-twice)) * b).astype(float), rtol=1e-12, atol=1e-280)
    torch_gelu = torch.nn.functional.gelu(torch.from_numpy(gate.astype(float)), approximate="tanh").numpy() * b
    np.testing.assert_allclose(want[6], torch_gelu, rtol=1e-9, atol=1e-14)
    turned = (a[:half] + 1j * a[half : 2 * half]) * (rope[:half] + 1j * rope[half : 2 * half])
    np.testing.assert_allclose(want[4][: 2 * half], [*turned.real, *turned.imag], rtol=1e-9, atol=1e-12)
    for out in results.values():
        for got, expected in zip(out, want, strict=True):
            np.testing.assert_array_equal(got, expected)


@quick
@given(st.integers(1, 40), st.sampled_from([0.1, 1.0, 50.0]), st.sampled_from([0.3, 1.0, 7.0]), seeds)
def test_sum_of_exponentials(tables, n, size, scale, seed):
    x = (np.random.default_rng(seed).normal(size=n) * size).astype(np.float32)
    ffi, most = tables["ffi"], float(x.max())
    got = [table.exp_sum(ffi.cast("float *", x.ctypes.data), n, most, scale) for table in tables["sets"].values()]
    assert set(got) == {got[0]}
    assert got[0] == pytest.approx(np.exp((x.astype(np.float64) - most) * scale).sum(), rel=1e-13)


@quick
@given(st.integers(1, 400), st.sampled_from([1e-30, 1.0, 1e100]), seeds)
def test_norm(tables, n, size, seed):
    rng = np.random.default_rng(seed)
    padded, ffi = -(-n // 16) * 16, tables["ffi"]
    x, weight = np.zeros(padded), np.zeros(padded)
    x[:n], weight[:n] = rng.normal(size=n) * size, rng.uniform(-1.5, 1.5, n)
    results = []
    for table in tables["sets"].values():
        results.append(np.full(padded, 7.0))
        table.normalise(pointer(ffi, results[-1]), pointer(ffi, x), pointer(ffi, weight), n, padded, 1e-5)
        np.testing.assert_array_equal(results[-1], results[0])
    np.testing.assert_allclose(results[0], x / np.sqrt((x[:n] ** 2).mean() + 1e-5) * weight, rtol=1e-13)


def cached(rows: np.ndarray, keys: bool = False) -> np.ndarray:
    """Rows [n, padded] as a cache has them: keys in groups of eight, [groups, padded, 8], free places not zero."""
    filled = np.concatenate([rows, np.full((-len(rows) % 8, rows.shape[1]), 3.0)])
    grouped = filled.reshape(-1, 8, rows.shape[1]).transpose(0, 2, 1) if keys else filled
    return np.ascontiguousarray(grouped)


@quick
@given(
    st.integers(1, 40), st.integers(1, 40).map(lambda half: 2 * half), st.integers(1, 6),
    st.sampled_from([0.1, 1.0, 30.0]), st.sampled_from([0, 1, 3, 8, 9, 100]), st.booleans(), seeds,
)  # fmt: skip
def test_attention(tables, length, head_dim, heads, size, window, single, seed):
    rng = np.random.default_rng(seed)
    past = length - 1 if single else int(rng.integers(0, length))
    start = int(rng.integers(0, past + 1))
    first = int(rng.integers(0, length - past))  # of the text's own tokens
    padded, scale = -(-head_dim // 16) * 16, 1 / math.sqrt(head_dim)
    q = np.zeros((heads, length, padded))
    k, v = (np.zeros((length, padded + 3)) for _ in range(2))
    for array in (q, k, v):
        array[..., :head_dim] = rng.normal(size=(*array.shape[:-1], head_dim)) * size
    seen = np.tri(length, dtype=bool) & (~np.tri(length, k=-window, dtype=bool) if window else True)
    cap = size * float(rng.choice([0, 0.5, 5.0]))
    scores = q @ k[:, :padded].T * scale
    scores = np.where(seen, cap * np.tanh(scores / cap) if cap else scores, -np.inf)
    weights = np.exp(scores - scores.max(2, keepdims=True))
    want = (weights / weights.sum(2, keepdims=True) @ v)[:, past + first :, :head_dim]
    queries = np.ascontiguousarray(q.transpose(1, 0, 2)[past:])  # [own tokens, heads, padded]
    kept = [cached(k[:start, :padded], True), cached(v[:start, :padded])]
    kept += [cached(k[start:past, :padded], True), cached(v[start:past, :padded])]
    ffi, results = tables["ffi"], []
    for table in tables["sets"].values():
        out = np.full((length - past, heads * head_dim + 3), 7.0)
        scratch = aligned(((length + 15) // 16 * 16 + 8) * (head_dim + padded + 8 + 4), np.float64)
        task = ffi.new("attention_task *")
        task.q, task.k, task.v = pointer(ffi, queries), pointer(ffi, k[past:]), pointer(ffi, v[past:])
        task.start_k, task.start_v, task.past_k, task.past_v = (pointer(ffi, each) for each in kept)
        task.out, task.start = pointer(ffi, out), start
        task.q_stride, task.kv_stride, task.out_stride = heads * padded, padded + 3, out.shape[1]
        task.head_stride, task.heads, task.head_dim = padded, heads, head_dim
        task.past, task.first, task.count = past, first, length - past - first
        task.window, task.scale, task.cap = window, scale, cap
        table.attend(task, pointer(ffi, scratch))
        assert (out[:, heads * head_dim :] == 7).all()
        assert (out[:first] == 7).all()
        for h in range(heads):
            got = out[first:, h * head_dim : (h + 1) * head_dim]
            np.testing.assert_allclose(got, want[h], rtol=1e-9, atol=1e-12 * size)
        results.append(out)
    for out in results:
        np.testing.assert_array_equal(out, results[-1])


def some_weights(rng: np.random.Generator, n: int, kind: str) -> np.ndarray:
    """float32 [n], rounded up to a multiple of 64 with zeros behind."""
    weights = np.zeros(-(-n // GROUP) * GROUP, np.float32)
    weights[:n] = {
        "normal": lambda: rng.normal(size=n),
        "tiny": lambda: rng.normal(size=n) * 1e-42,
        "huge": lambda: rng.normal(size=n) * 1e37,
        "zero": lambda: np.full(n, -0.0),
        "ternary": lambda: rng.integers(-1, 2, n) * np.float32(0.37),
        "ties": lambda: rng.integers(-15, 16, n) * 0.5,  # halves of the largest, of either sign
        "spread": lambda: rng.normal(size=n) * np.exp(rng.normal(size=n) * 5),
    }[kind]()
    return weights


weight_kinds = st.sampled_from(["normal", "tiny", "huge", "zero", "ternary", "ties", "spread"])


def rounded(weights: np.ndarray, step: np.ndarray | float, least: int, most: int) -> np.ndarray:
    """Codes of float64 weights, by the definition."""
    return np.where(step == 0, 0, np.rint(weights / np.where(step == 0, 1, step))).clip(least, most)


@quick
@given(st.integers(1, 400), weight_kinds, st.sampled_from([1, 7, 8, 127]), seeds)
def test_weights_are_rounded_to_codes(tables, n, kind, most, seed):
    row = some_weights(np.random.default_rng(seed), n, kind)
    scale = float(np.abs(row).max()) / 127
    if kind == "ties":
        scale, row[:4] = 1.0, [126.5, -126.5, 0.5, -1.5]
    for table in tables["sets"].values():
        codes, ffi = np.full(len(row), 99, np.int8), tables["ffi"]
        table.round_codes(pointer(ffi, codes), pointer(ffi, row), len(row), scale, -most, most, ffi.NULL)
        np.testing.assert_array_equal(codes, rounded(row.astype(float), scale, -most, most))


@quick
@given(st.integers(1, 400), weight_kinds, seeds)
def test_weights_are_rounded_to_int4_whichever_step_errs_less(tables, n, kind, seed):
    row = some_weights(np.random.default_rng(seed), n, kind)
    scale = float(np.abs(row).max()) / 119
    blocks = row.astype(float).reshape(-1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    tries = []
    for end in (7, -8):
        times = rounded(largest, np.float64(end * scale), -17, 17)
        codes = rounded(blocks, times * scale, -abs(end), 7)
        squares = (blocks - codes * (times * scale)) ** 2
        tries.append((codes, times, np.add.accumulate(squares, 1)[:, -1:]))  # from the first on
    better = tries[1][2] < tries[0][2]
    for table in tables["sets"].values():
        codes, times, ffi = np.full(len(row), 99, np.int8), np.full(len(row) // 32, 99, np.int8), tables["ffi"]
        table.round_int4(*(pointer(ffi, array) for array in (codes, times, row)), len(row), scale, ffi.NULL)
        np.testing.assert_array_equal(times, np.where(better, tries[1][1], tries[0][1])[:, 0])
        np.testing.assert_array_equal(codes.reshape(-1, 32), np.where(better, tries[1][0], tries[0][0]))


@quick
@given(st.integers(1, 400), st.floats(2.0**-24, 2.0**100, width=32), seeds)
def test_ternary_weights_are_told_from_others(tables, n, scale, seed):
    rng, ffi = np.random.default_rng(seed), tables["ffi"]
    row = np.zeros(-(-n // GROUP) * GROUP, np.float32)
    row[:n] = rng.integers(-1, 2, n) * np.float32(scale)
    other = row.copy()
    other[rng.integers(n)] = np.nextafter(np.float32(scale), np.float32(0)) * rng.choice([-1, 1])
    for table in tables["sets"].values():
        codes = np.full(len(row), 99, np.int8)
        assert table.ternary_codes(pointer(ffi, codes), pointer(ffi, row), len(row), scale)
        np.testing.assert_array_equal(codes, np.sign(row))
        assert not table.ternary_codes(pointer(ffi, codes), pointer(ffi, other), len(row), scale)


@quick
@given(st.integers(1, 400), weight_kinds, seeds)
def test_weights_are_rounded_to_bf16(tables, n, kind, seed):
    row = some_weights(np.random.default_rng(seed), n, kind)
    want = to_bf16(np.where(np.abs(row) < np.float32(2.0**-50), np.float32(0), row))
    for table in tables["sets"].values():
        halves = np.full(len(row), 99, np.uint16)
        table.round_bf16(pointer(tables["ffi"], halves), pointer(tables["ffi"], row), len(row), tables["ffi"].NULL)
        np.testing.assert_array_equal(halves, want)


def rounded_to_fp8(tables: dict, row: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """E4M3's bytes of floats, [n], the same on every instruction set."""
    padded, results = np.zeros(-(-len(row) // GROUP) * GROUP, np.float32), []
    padded[: len(row)] = row
    for table in tables["sets"].values():
        codes, ffi = np.full(len(padded), 99, np.uint8), tables["ffi"]
        table.round_fp8(pointer(ffi, codes), pointer(ffi, padded), len(padded), scale, ffi.NULL)
        results.append(codes[: len(row)])
        np.testing.assert_array_equal(results[-1], results[0])
    return results[0]


def test_every_bf16_is_rounded_to_fp8_as_ml_dtypes_does(tables):
    values = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    values = values[np.isfinite(values)]
    got = rounded_to_fp8(tables, values)
    known = np.abs(values) <= 464  # the tie between 448 and what would follow it
    np.testing.assert_array_equal(got[known], values[known].astype(ml_dtypes.float8_e4m3fn).view(np.uint8))
    np.testing.assert_array_equal(from_fp8(got[~known]), np.copysign(np.float32(448), values[~known]))


@quick
@given(st.integers(1, 400), weight_kinds, seeds)
def test_floats_are_rounded_to_fp8_as_ml_dtypes_does(tables, n, kind, seed):
    row = some_weights(np.random.default_rng(seed), n, kind)
    scale = float(np.abs(row).max()) / 448
    want = (row.astype(float) / (scale or np.inf)).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(rounded_to_fp8(tables, row, scale), want)


def test_numbers_between_two_of_fp8(tables):
    """Ties, and their neighbours on both sides, of every two that follow each other."""
    numbers = from_fp8(np.arange(0x7F, dtype=np.uint8))
    ties = (numbers[:-1] + numbers[1:]) / 2
    for values in (ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9)), numbers, -ties):
        want = values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        np.testing.assert_array_equal(rounded_to_fp8(tables, values), want)


def random_bits(tables: dict, n: int, key: int) -> np.ndarray:
    """uint32 [n], the same on every instruction set."""
    results = []
    for table in tables["sets"].values():
        results.append(np.zeros(n, np.int32))
        table.random_bits(pointer(tables["ffi"], results[-1]), n, key)
        np.testing.assert_array_equal(results[-1], results[0])
    return results[0].view(np.uint32)


def test_random_bits_are_uniform_and_their_own_for_each_key(tables):
    n = 1 << 16
    rows = np.stack([random_bits(tables, n, key) for key in (0, 1, 1 << 32, 2**64 - 1, 0x1234567890ABCDEF)])
    np.testing.assert_array_equal(random_bits(tables, 64, 1), rows[1][:64])  # whatever follows
    for row in rows:
        bits = (row[:, None] >> np.arange(32, dtype=np.uint32)) & 1
        assert np.abs(bits.mean(0) - 0.5).max() < 4.5 * 0.5 / n**0.5
        both = np.corrcoef(bits.T.astype(float)) - np.eye(32)
        assert np.abs(both).max() < 4.5 / n**0.5
        following = np.corrcoef(row[:-1].astype(float), row[1:])[0, 1]
        assert abs(following) < 4.5 / n**0.5
        counts = np.bincount(row >> 24, minlength=256)
        assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 255 + 4.5 * (2 * 255) ** 0.5
    between = np.corrcoef(rows.astype(float)) - np.eye(len(rows))
    assert np.abs(between).max() < 4.5 / n**0.5


@quick
@given(st.integers(1, 200), st.sampled_from(["normal", "ternary", "ties", "zero", "spread"]), seeds)
def test_stochastic_rounding_takes_one_of_the_two_neighbours_on_every_instruction_set(tables, n, kind, seed):
    row, ffi = some_weights(np.random.default_rng(seed), n, kind), tables["ffi"]
    random = random_bits(tables, len(row), seed).view(np.int32)
    uniform = (random.view(np.uint32) >> 12) / 2.0**20
    most = float(np.abs(row).max())
    step, step8 = most / 127, most / 448
    exact = row.astype(float) / (step or np.inf)
    magnitude = np.abs(row.astype(float) / (step8 or np.inf)).astype(np.float32).astype(float)
    spacing = np.exp2(np.floor(np.log2(np.maximum(magnitude, 2.0**-6))) - 3)
    first = None
    for table in tables["sets"].values():
        codes, fp8, halves = np.zeros(len(row), np.int8), np.zeros(len(row), np.uint8), np.zeros(len(row), np.uint16)
        int4, times = np.zeros(len(row), np.int8), np.zeros(len(row) // 32, np.int8)
        rows, bits = pointer(ffi, row), pointer(ffi, random)
        table.round_codes(pointer(ffi, codes), rows, len(row), step, -127, 127, bits)
        table.round_fp8(pointer(ffi, fp8), rows, len(row), step8, bits)
        table.round_bf16(pointer(ffi, halves), rows, len(row), bits)
        table.round_int4(pointer(ffi, int4), pointer(ffi, times), rows, len(row), most / 119, bits)
        noise = (random.astype(float) + 0.5) / 2.0**32
        np.testing.assert_array_equal(codes, np.rint(exact + noise).clip(-127, 127))
        assert (np.abs(codes - exact) < 1).all()
        exact8 = magnitude / spacing + uniform
        far = np.abs(exact8 - np.rint(exact8)) > 1e-4  # where float32's last bit decides, either may be
        np.testing.assert_array_equal(np.abs(from_fp8(fp8))[far], (np.floor(exact8) * spacing)[far])
        assert (np.abs(np.abs(from_fp8(fp8)) - magnitude) <= spacing).all()
        assert (np.abs(from_bf16(halves) - row) <= np.maximum(np.abs(row) * 2.0**-7, 2.0**-50)).all()
        by = np.repeat(times, 32) * (most / 119)
        assert (np.abs(int4 * by - row) <= np.abs(by) * (1 + 1e-6)).all()
        assert np.abs(int4).max(initial=0) <= 7
        first = first or (codes, fp8, halves, int4, times)
        for got, expected in zip((codes, fp8, halves, int4, times), first, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("format", ["int8", "int4", "fp8", "bf16"])
def test_stochastic_rounding_is_unbiased(tables, format):
    """The mean of 4,000 roundings of each weight is the weight within 4 standard errors (of 64: 4.5)."""
    table, ffi, times = next(iter(tables["sets"].values())), tables["ffi"], 4000
    row = (np.random.default_rng(3).normal(size=64) * np.exp(np.linspace(-6, 0, 64))).astype(np.float32)
    most, found = float(np.abs(row).max()), np.zeros((times, 64))
    for i in range(times):
        random = np.zeros(64, np.int32)
        table.random_bits(pointer(ffi, random), 64, i * 0x9E3779B97F4A7C15 % 2**64)
        rows, bits = pointer(ffi, row), pointer(ffi, random)
        if format == "int8":
            codes = np.zeros(64, np.int8)
            table.round_codes(pointer(ffi, codes), rows, 64, most / 127, -127, 127, bits)
            found[i] = codes * (most / 127)
        elif format == "int4":
            codes, steps = np.zeros(64, np.int8), np.zeros(2, np.int8)
            table.round_int4(pointer(ffi, codes), pointer(ffi, steps), rows, 64, most / 119, bits)
            found[i] = codes * np.repeat(steps, 32) * (most / 119)
        elif format == "fp8":
            codes = np.zeros(64, np.uint8)
            table.round_fp8(pointer(ffi, codes), rows, 64, most / 448, bits)
            found[i] = from_fp8(codes) * (most / 448)
        else:
            halves = np.zeros(64, np.uint16)
            table.round_bf16(pointer(ffi, halves), rows, 64, bits)
            found[i] = from_bf16(halves)
    assert (found.std(0) > 0).mean() > 0.9
    error = found.std(0) / times**0.5
    bound = 4.5 * error + np.ptp(found, 0) * 4.5 / times + np.abs(row) * 1e-6  # of those nearly always rounded one way
    assert (np.abs(found.mean(0) - row) <= bound).all()


# ---- learning ----


def units(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error in units of the last place of what float64 says, where float32 holds it."""
    held = np.isfinite(want.astype(np.float32))
    np.testing.assert_array_equal(got[~held], want.astype(np.float32)[~held])
    size = np.maximum(np.abs(want[held]), 2.0**-126)
    return float((np.abs(got[held] - want[held]) / 2.0 ** (np.floor(np.log2(size)) - 23)).max())


@pytest.mark.parametrize(("name", "most"), [("exp", 1.0), ("log", 1.0), ("tanh", 2.0)])
def test_functions_of_floats_are_within_units_of_the_last_place(tables, name, most):
    """On every 10,007th float of all there are, and near the ends of what float32 holds."""
    x = np.arange(0, 2**32, 10_007, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ends = np.float32([0, -0.0, 1, np.inf, -np.inf, np.nan, 2.0**-149, 2.0**-126, 88.72283, 88.72284, -103.97, -103.98])
    x = np.concatenate([x, ends, np.nextafter(ends, np.float32(0)), np.nextafter(ends, np.float32(9))])
    with np.errstate(all="ignore"):
        want = getattr(np, name)(x.astype(np.float64))
    ffi, first = tables["ffi"], None
    for table in tables["sets"].values():
        got = x.copy()
        if name == "tanh":
            table.tanhs(pointer(ffi, got), len(x), 1, len(x))
        else:
            {"exp": table.exps, "log": table.logs}[name](pointer(ffi, got), pointer(ffi, got), len(x))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        is_number = ~np.isnan(want)
        assert units(got[is_number], want[is_number]) <= most
        first = got if first is None else first
        np.testing.assert_array_equal(got[is_number].view(np.uint32), first[is_number].view(np.uint32))


@quick
@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 40), st.booleans(), st.booleans(), seeds)
def test_panels_are_multiplied_in_order(tables, rows, columns, steps, turned, starts, seed):
    """The sums of each number, fused and one after another, whichever way the factors lie."""
    rng, ffi = np.random.default_rng(seed), tables["ffi"]
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, steps), (steps, columns)))
    start = rng.normal(size=columns).astype(np.float32) * starts
    want = np.tile(start, (rows, 1))
    for k in range(steps):
        want = fused(a[:, k, None], b[None, k], want)
    a, b = (np.asfortranarray(each) if turned else each for each in (a, b))
    a_row, a_step, b_step, b_column = (stride // 4 for stride in (*a.strides, *b.strides))
    for table in tables["sets"].values():
        wide = -(-columns // table.panel) * table.panel
        c, padded = np.full((rows, wide + 3), 7, np.float32), np.pad(start, (0, wide - columns))
        for column in range(0, columns, table.panel):
            packed = np.full((steps, table.panel), 7, np.float32)
            few = min(table.panel, columns - column)
            at = ffi.cast("float *", b.ctypes.data + 4 * column * b_column)
            table.pack_panel(pointer(ffi, packed), at, b_step, b_column, steps, few)
            assert (packed[:, few:] == 0).all()
            begin = pointer(ffi, padded) + column if starts else ffi.NULL
            to = pointer(ffi, c) + column
            table.multiply_panel(
                to, c.shape[1], rows, pointer(ffi, a), a_row, a_step, pointer(ffi, packed), steps, begin, 0
            )
        np.testing.assert_array_equal(c[:, :columns], want)
        assert (c[:, wide:] == 7).all()

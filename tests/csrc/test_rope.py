"""The angles of rotary positions against extended precision."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_programs import CSRC, compiler
from cffi import FFI


@pytest.fixture(scope="module")
def rope(tmp_path_factory: pytest.TempPathFactory):
    """positions, head_dim, theta -> float64 [positions, head_dim] of the engine."""
    library = tmp_path_factory.mktemp("rope") / "rope.so"
    flags = ["-std=c11", "-O3", "-ffp-contract=off", "-shared", "-fPIC", f"-I{CSRC}"]
    subprocess.run([*compiler(), *flags, str(Path(CSRC) / "rope.c"), "-lm", "-o", str(library)], check=True)
    ffi = FFI()
    ffi.cdef("void bitrl_rope(double *rope, size_t positions, size_t dims, const double *frequencies, double factor);")
    ffi.cdef("void bitrl_frequencies(double *out, size_t dims, double theta);")
    lib = ffi.dlopen(str(library))

    def made(positions: int, head_dim: int, theta: float) -> np.ndarray:
        out, frequencies = np.full((positions, head_dim), np.nan), ffi.new("double[]", head_dim // 2)
        lib.bitrl_frequencies(frequencies, head_dim, theta)
        lib.bitrl_rope(ffi.from_buffer("double *", out), positions, head_dim, frequencies, 1)
        return out

    return made


@pytest.mark.parametrize("head_dim", [2, 26, 64, 128, 256])
@pytest.mark.parametrize("theta", [0.5, 1.0, 2.0, 1e4, 5e5, 1e6, 73456.789])
def test_angles(rope, head_dim, theta):
    positions, half = 5000, head_dim // 2
    exponents = -2 * np.arange(half, dtype=np.longdouble) / head_dim
    frequency = np.longdouble(theta) ** exponents
    angle = np.arange(positions, dtype=np.longdouble)[:, None] * frequency
    got = rope(positions, head_dim, theta)
    # In units of 2^-53: two and a half of the frequency's logarithm, two of its power, one of the angle; the result.
    bound = angle * (3 + 2.5 * np.abs(exponents * np.log(theta))) * 2.0**-53 + 2.0**-52
    assert (np.abs(got[:, :half] - np.cos(angle)) <= bound).all()
    assert (np.abs(got[:, half:] - np.sin(angle)) <= bound).all()


def test_a_frequency_without_sense_is_still_a_rotation(rope):
    got = rope(64, 128, 1e-38)
    np.testing.assert_allclose(got[:, :64] ** 2 + got[:, 64:] ** 2, 1, rtol=1e-15)

"""csrc/limits.c: every loop runs cleanly, on every CPU that can be had here, and really does its work."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from c_programs import compiler

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.benchmark.limits import NAMES, Limits, instructions

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = [str(CSRC / f"{name}.c") for name in ("limits", "cpu", "threads", "common")]
FASTEST = 1e10
"""No clock ticks faster (Hz)."""
MOST_A_TICK = {"int8": 2 * 64, "bf16": 2 * 32, "fp32": 2 * 16, "amx_int8": 1024, "amx_bf16": 512, "memory": 2 * 64}
"""What one thread of any CPU known does in a tick: two instructions on the widest registers."""


def build(out: Path, command: list[str], *flags: str) -> Path:
    own = str(Path(__file__).with_name("limits.c"))
    base = [*command, "-std=c11", "-O3", *flags, f"-I{CSRC}", *SOURCES, own, "-lm", "-lpthread", "-o", str(out)]
    subprocess.run(base, check=True, capture_output=True)
    return out


def measured(command: list[str | Path]) -> dict[str, tuple[float, str]]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = (line.split(" ", 2) for line in done.stdout.splitlines())
    found = {name: (float(value), how) for name, value, how in lines}
    assert all(value > 0 for value, _ in found.values())
    return found


def test_a_limit_is_what_a_processor_can_do():
    """A loop that the compiler thought it could leave out would be faster than any processor."""
    limits = Limits(2, buffer_bytes=1 << 25)
    for name in instructions():
        for threads in (1, 2):
            rate = limits.measure(name, threads, 0.02)
            assert 1e6 < rate <= threads * MOST_A_TICK[name] * FASTEST, (name, rate)


def test_every_cpu_has_the_plain_limits_and_amx_where_it_says_so():
    found = instructions()
    assert {"int8", "bf16", "fp32", "memory"} <= set(found) <= set(NAMES)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        flags = set(re.findall(r"\w+", cpuinfo.read_text()))
        assert ("amx_int8" in found) == ("amx_bf16" in found) == ({"amx_int8", "amx_bf16"} <= flags)
        assert ("512 bits" in found["int8"]) == ("avx512_vnni" in flags)


@pytest.mark.parametrize(
    ("name", "threads", "seconds"),
    [
        ("int9", 1, 0.01),
        ("", 1, 0.01),
        ("int8", 0, 0.01),
        ("int8", 3, 0.01),
        ("int8", 1, 0.0),
        ("int8", 1, float("nan")),
    ],
)
def test_what_cannot_be_measured_is_refused(name, threads, seconds):
    with pytest.raises(UsageError):
        Limits(2, buffer_bytes=1 << 22).measure(name, threads, seconds)


@pytest.mark.parametrize("threads", [0, 5000])
def test_impossible_numbers_of_threads_are_refused(threads):
    with pytest.raises(UsageError):
        Limits(threads, buffer_bytes=1 << 22)


def test_each_thread_has_something_to_read():
    assert Limits(8, buffer_bytes=1).measure("memory", 8, 0.001) > 0


def test_no_error_under_the_sanitizers(tmp_path):
    flags = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    assert set(measured([build(tmp_path / "limits", compiler(), *flags)])) == set(instructions())


def test_no_data_race(tmp_path):
    program = build(tmp_path / "limits", compiler(), "-g", "-fsanitize=thread")
    assert set(measured([program])) == set(instructions())


@pytest.mark.parametrize(("cpu", "int8"), [("max", "sdot"), ("cortex-a72", "smlal")])
def test_arm_with_and_without_dot_products(tmp_path, cpu, int8):
    cross, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if not cross or not emulator:
        pytest.skip("needs the ARM compiler and emulator: apt install gcc-aarch64-linux-gnu qemu-user")
    found = measured([emulator, "-cpu", cpu, build(tmp_path / "limits", [cross], "-static")])
    assert {name: how for name, (_, how) in found.items()} == {
        "int8": int8,
        "bf16": "fmla",
        "fp32": "fmla",
        "memory": "sequential reads",
    }


@pytest.mark.parametrize(
    ("cpu", "int8", "fp32"),
    [("qemu64", "plain C", "plain C"), ("Haswell", "vpmaddubsw and vpaddw, 256 bits", "vfmadd231ps, 256 bits")],
)
def test_older_x86(tmp_path, cpu, int8, fp32):
    emulator = shutil.which("qemu-x86_64")
    if not emulator:
        pytest.skip("needs an emulator of older CPUs: apt install qemu-user")
    if os.uname().machine != "x86_64":
        pytest.skip("needs a compiler for x86-64, which is this machine's own there")
    found = measured([emulator, "-cpu", cpu, build(tmp_path / "limits", compiler(), "-static")])
    assert (found["int8"][1], found["fp32"][1], found["bf16"][1]) == (int8, fp32, fp32)

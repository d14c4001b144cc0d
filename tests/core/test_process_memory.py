"""Sizes as they are typed, and what the system says of this process."""

import subprocess
import sys

import pytest

from bitrl.core.process_memory import MB, in_mb, parse_size


@pytest.mark.parametrize(
    ("typed", "size"),
    [
        ("300MB", 300 * 2**20),
        ("1.5GB", 3 * 2**29),
        ("64 kb", 64 * 2**10),
        (" 2gb ", 2**31),
        ("1048576GB", 2**50),
        *((wrong, None) for wrong in ("300", "-1MB", "1e99GB", "lots", "0MB", "0.0GB", "", "MB", "1048577GB")),
        *((wrong, None) for wrong in ("300MiB", "nanMB", "1,5GB", "٣MB", "9" * 400 + "MB", "1MB 2MB")),
    ],
)
def test_sizes_are_numbers_with_a_unit(typed, size):
    assert parse_size(typed) == size


def test_sizes_are_written_in_megabytes():
    assert [in_mb(size) for size in (312 * MB, 9.94 * MB, 1000 * 1024 * MB, 0)] == [
        "312 MB", "9.9 MB", "1,024,000 MB", "0.0 MB",
    ]  # fmt: skip


TOUCHED = """
from bitrl.core.process_memory import MB, peak, resident
before = resident()
block = bytearray(b"x") * (64 * MB)
print(resident() - before, peak() - resident())
"""


def test_resident_memory_is_what_was_touched():
    """In a process of its own: the system may take idle pages of a large one meanwhile."""
    done = subprocess.run([sys.executable, "-c", TOUCHED], capture_output=True, text=True, check=True)
    grown, below_peak = map(int, done.stdout.split())
    assert 60 * MB < grown < 80 * MB
    assert below_peak >= -MB


RETURNED = """
import numpy as np
from bitrl.core.acting.cache import Cache
from bitrl.core.process_memory import MB, give_back, resident
cache = Cache(100 * MB)
for batch in range(60):
    cache.rows([f"{batch} {i}" for i in range(256)], lambda texts: np.ones((len(texts), 1000), np.float32))
full = resident()
cache.limit(cache.bytes // 2)
give_back()
half = resident()
cache.limit(0)
give_back()
print(full / MB, half / MB, resident() / MB, cache.bytes, cache.entries)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives back what is free in its middle")
def test_what_a_cache_drops_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True)
    full, half, empty, size, entries = map(float, done.stdout.split())
    assert (size, entries) == (0, 0)
    assert full - half > 20
    assert full - empty > 50, "of 60 MB"

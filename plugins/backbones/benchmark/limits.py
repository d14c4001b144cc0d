"""The machine's limits, measured in C (csrc/limits.c): multiply-adds a second, and bytes read.

Knows the cffi calls. Does not know what is compared with the limits.
"""

from __future__ import annotations

import os

from bitrl._limits import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.files.model_file import message

NAMES = ("int8", "bf16", "fp32", "amx_int8", "amx_bf16", "memory")
"""All that can be measured, on one CPU or another: the last in bytes read, the others in multiply-adds."""

_BUFFER_BYTES = 3 << 29
"""What is read: three times the largest caches there are (1.5 GB)."""


def instructions() -> dict[str, str]:
    """The limits that this CPU has: name → the instructions that reach it."""
    found = {name: lib.bitrl_limit_instructions(name.encode()) for name in NAMES}
    return {name: ffi.string(text).decode() for name, text in found.items() if text != ffi.NULL}


class Limits:
    """Measures limits with up to `threads` threads; holds a large buffer, at most a quarter of the memory.

    Raises UsageError when there is no memory for it.
    """

    def __init__(self, threads: int, buffer_bytes: int = _BUFFER_BYTES) -> None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.buffer_bytes = max(min(buffer_bytes, memory // 4), threads << 20)
        handle, error = ffi.new("bitrl_limits **"), ffi.new("char[]", 256)
        if lib.bitrl_limits_open(threads, self.buffer_bytes, handle, error):
            raise UsageError(message(error))
        self._handle = ffi.gc(handle[0], lib.bitrl_limits_close)

    def measure(self, name: str, threads: int, seconds: float) -> float:
        """What `threads` threads do in a second, together. Raises UsageError for a limit that this CPU has not."""
        out, error = ffi.new("double *"), ffi.new("char[]", 256)
        if lib.bitrl_limits_measure(self._handle, name.encode(), threads, seconds, out, error):
            raise UsageError(message(error))
        return float(out[0])

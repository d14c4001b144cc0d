"""How cffi compiles the engine: bitrl.h is the declaration, the other C files are the sources."""

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
ROOT = HERE.parent
SOURCES = sorted(path.relative_to(ROOT).as_posix() for path in HERE.glob("*.c") if path.name != "_engine.c")


def declarations() -> str:
    """The part of bitrl.h that cffi reads."""
    return re.search(r"/\* cdef begin \*/(.*)/\* cdef end \*/", (HERE / "bitrl.h").read_text(), re.S)[1]


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "bitrl._engine",
    '#include "bitrl.h"',
    sources=SOURCES,
    depends=sorted(path.relative_to(ROOT).as_posix() for path in HERE.glob("*.h")),
    include_dirs=["csrc"],
    # No fused multiply-add: every instruction set must round alike (kernels.h).
    extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-ffp-contract=off", "-Wall", "-Wextra"],
    libraries=["m", "pthread"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)

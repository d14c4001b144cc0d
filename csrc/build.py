"""How cffi compiles the engine and, as an extension of its own, the machine's limits.

bitrl.h and machine_limits.h are the declarations, the other C files are the sources.
"""

import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
ROOT = HERE.parent
LIMITS = ["csrc/common.c", "csrc/cpu.c", "csrc/limits.c", "csrc/threads.c"]
ENGINE = sorted(
    path.relative_to(ROOT).as_posix()
    for path in HERE.glob("*.c")
    if path.name not in ("limits.c", "_engine.c", "_limits.c")
)


def extension(name: str, header: str, sources: list[str], callbacks: str = "") -> FFI:
    """`bitrl.<name>`: what stands between the marks of the header, compiled from these sources; `callbacks` declares
    functions that Python defines.
    """
    builder = FFI()
    builder.cdef(re.search(r"/\* cdef begin \*/(.*)/\* cdef end \*/", (HERE / header).read_text(), re.S)[1])
    builder.cdef(callbacks)
    builder.set_source(
        f"bitrl.{name}",
        f'#include "{header}"',
        sources=sources,
        depends=sorted(path.relative_to(ROOT).as_posix() for path in HERE.glob("*.h")),
        include_dirs=["csrc"],
        # No fused multiply-add: every instruction set must round alike (kernels.h).
        extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-ffp-contract=off", "-Wall", "-Wextra"],
        libraries=["m", "pthread"],
        py_limited_api=True,
    )
    return builder


engine = extension("_engine", "bitrl.h", ENGINE, callbacks='extern "Python" int bitrl_go_on(void *asked);')
limits = extension("_limits", "machine_limits.h", LIMITS)

if __name__ == "__main__":
    engine.compile(verbose=True)
    limits.compile(verbose=True)

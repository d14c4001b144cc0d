"""Compiles the engine together with a C program of the tests: for the sanitizers, or for another CPU.

The engine's objects are kept in build/test_engines, one folder for each compiler and its flags, and compiled anew when
the compiler or a source has changed. Tests that run at once, in one process or several, share them.
"""

import fcntl
import hashlib
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
KEPT = CSRC.parent / "build" / "test_engines"


def compiler() -> list[str]:
    """The compiler Python was built with, or the one in CC."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]


def engine_sources() -> list[Path]:
    """The engine's C files, without those that cffi writes and the measuring of the machine's limits."""
    return sorted(path for path in CSRC.glob("*.c") if path.name not in ("_engine.c", "_limits.c", "limits.c"))


def build(out: Path, main: str, *flags: str, compiled_by: Sequence[str] | None = None, kept: Path = KEPT) -> Path:
    """The engine and a program of tests/csrc; any finding of a sanitizer ends the process."""
    always = ["-std=c11", "-g", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fno-sanitize-recover=all"]
    always.append("-Werror=incompatible-pointer-types")
    command = [*(compiled_by or compiler()), *always, *flags, f"-I{CSRC}"]
    own = str(CSRC.parent / "tests" / "csrc" / main)
    with engine(command, kept) as objects:
        subprocess.run([*command, *objects, own, "-lm", "-lpthread", "-o", out], check=True, capture_output=True)
    return out


@contextmanager
def engine(command: Sequence[str], kept: Path) -> Iterator[list[Path]]:
    """The engine's objects as `command` compiles them. Nobody else compiles or links these meanwhile."""
    sources = engine_sources()
    folder = kept / hashlib.sha256("\0".join(command).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, also by being killed
        made_from, wanted = folder / "made_from", _digest(command, sources)
        if not (made_from.is_file() and made_from.read_text() == wanted):
            made_from.unlink(missing_ok=True)
            subprocess.run([*command, "-c", *sources], cwd=folder, check=True, capture_output=True)
            made_from.write_text(wanted)
        yield [folder / f"{path.stem}.o" for path in sources]


def _digest(command: Sequence[str], sources: Sequence[Path]) -> str:
    """Of everything that the objects depend on: the compiler's version, its flags, and what it reads."""
    version = subprocess.run([command[0], "--version"], check=True, capture_output=True).stdout
    whole = hashlib.sha256(version + "\0".join(command).encode())
    for path in [*sources, *sorted(CSRC.glob("*.h"))]:
        whole.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return whole.hexdigest()

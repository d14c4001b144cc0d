"""Compiles the engine together with a C program of the tests: for the sanitizers, or for another CPU."""

import functools
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

CSRC = Path(__file__).parents[2] / "csrc"


def compiler() -> list[str]:
    """The compiler Python was built with, or the one in CC."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]


@functools.cache
def engine(command: tuple[str, ...]) -> tuple[TemporaryDirectory, list[str]]:
    """The engine, compiled once for all programs of a compiler and its flags: its folder (kept alive) and objects."""
    folder = TemporaryDirectory()
    sources = [path for path in CSRC.glob("*.c") if path.name not in ("_engine.c", "_limits.c", "limits.c")]
    subprocess.run([*command, "-c", *sources], cwd=folder.name, check=True, capture_output=True)
    return folder, [f"{folder.name}/{path.stem}.o" for path in sources]


def build(out: Path, main: str, *flags: str, compiled_by: Sequence[str] | None = None) -> Path:
    """The engine and a program of tests/csrc; any finding of a sanitizer ends the process."""
    always = ["-std=c11", "-g", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fno-sanitize-recover=all"]
    always.append("-Werror=incompatible-pointer-types")
    command = (*(compiled_by or compiler()), *always, *flags, f"-I{CSRC}")
    own = str(CSRC.parent / "tests" / "csrc" / main)
    subprocess.run([*command, *engine(command)[1], own, "-lm", "-lpthread", "-o", out], check=True, capture_output=True)
    return out

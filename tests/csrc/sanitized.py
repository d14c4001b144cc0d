"""Compiles the engine together with a program of the tests, under the compiler's sanitizers."""

import functools
import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"


def compiler() -> list[str]:
    """The compiler Python was built with, or the one in CC."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]


ALWAYS = ("-std=c11", "-g", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fno-sanitize-recover=all")


@functools.cache
def engine(*flags: str) -> tempfile.TemporaryDirectory[str]:
    """The engine's object files, compiled once for all programs with these flags; gone with the process."""
    directory = tempfile.TemporaryDirectory()
    sources = [str(path) for path in CSRC.glob("*.c") if path.name != "_engine.c"]
    command = [*compiler(), *ALWAYS, *flags, f"-I{CSRC}", "-c", *sources]
    subprocess.run(command, check=True, capture_output=True, cwd=directory.name)
    return directory


def build(out: Path, main: str, *flags: str) -> Path:
    """The engine and a program beside this file, compiled with sanitizers; any finding ends the process."""
    objects = map(str, Path(engine(*flags).name).glob("*.o"))
    own = str(Path(__file__).with_name(main))
    command = [*compiler(), *ALWAYS, *flags, f"-I{CSRC}", own, *objects, "-lm", "-lpthread", "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out

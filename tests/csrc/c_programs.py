"""Compiles the engine together with a C program of the tests: for the sanitizers, or for another CPU."""

import os
import shlex
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"


def compiler() -> list[str]:
    """The compiler Python was built with, or the one in CC."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]


def build(out: Path, main: str, *flags: str, compiled_by: Sequence[str] | None = None) -> Path:
    """The engine and a program beside this file; any finding of a sanitizer ends the process."""
    sources = [str(path) for path in CSRC.glob("*.c") if path.name != "_engine.c"]
    always = ["-std=c11", "-g", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fno-sanitize-recover=all"]
    own = str(Path(__file__).with_name(main))
    command = [*(compiled_by or compiler()), *always, *flags, f"-I{CSRC}", *sources, own]
    subprocess.run([*command, "-lm", "-lpthread", "-o", str(out)], check=True, capture_output=True)
    return out

"""Compiles the C programs of tests/csrc with the engine's sources, and runs them."""

import os
import shlex
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

CSRC = Path(__file__).parents[1] / "csrc"
FLAGS = ("-std=c11", "-fno-math-errno", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}")


def compiler() -> list[str]:
    """The compiler Python was built with, or the one in CC."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]


def build(folder: Path, *flags: str, compiled_by: Sequence[str] | None = None) -> Path:
    """Writes the programs of tests/csrc, each linked with the engine, into `folder`; any warning is an error."""
    command = [*(compiled_by or compiler()), *FLAGS, *flags]
    programs = sorted(Path(__file__).parent.glob("csrc/*.c"))
    sources = [path for path in CSRC.glob("*.c") if path.name != "_engine.c"]
    compile_all(folder, *command, "-c", *programs, *sources)
    for program in programs:
        objects = [f"{path.stem}.o" for path in [program, *sources]]
        compile_all(folder, *command, *objects, "-lm", "-lpthread", "-o", program.stem)
    return folder


def compile_all(folder: Path, *command: str | Path) -> None:
    """One call of the compiler inside that folder."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def run(program: Sequence[str | Path], *arguments: str | Path, timeout: float = 300) -> list[str]:
    """The lines that a program prints; it must end with 0."""
    command = [*program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    return done.stdout.splitlines()

"""Compiles the engine together with a C program of the tests: for the sanitizers, or for another CPU.

The engine's objects are kept in the user's cache, bitrl/test_engines, one folder for each compiler and its flags, and
each is compiled anew when the compiler, its source or a header has changed. Tests that run at once, in one process or
several, share them, also those of another clone; so do programs that differ in definitions of which a source knows
nothing. `python tests/helpers/c_programs.py` makes all that the tests ask for.
"""

import ctypes
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bitrl import _engine
from bitrl.core.files import cache_home

CSRC = Path(__file__).parents[2] / "csrc"
SANITIZED = ("-fsanitize=address,undefined",)
RACES = ("-fsanitize=thread", "-O1")  # these programs run longer than they compile
ARM_COMPILER, ARM = "aarch64-linux-gnu-gcc", ("-O3", "-static")


def compiler() -> list[str]:
    """The compiler Python was built with, or the one in CC."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]


def engine_sources() -> list[Path]:
    """The engine's C files, without those that cffi writes and the measuring of the machine's limits."""
    return sorted(path for path in CSRC.glob("*.c") if path.name not in ("_engine.c", "_limits.c", "limits.c"))


def agent_sources() -> list[Path]:
    """The C files of what runs an agent upon the engine, without the program."""
    return sorted(path for path in (CSRC / "agent").glob("*.c") if path.name != "main.c")


def build(
    out: Path,
    main: str | Path,
    *flags: str,
    compiled_by: Sequence[str] | None = None,
    kept: Path | None = None,
    agent: bool = False,
) -> Path:
    """The engine, what runs an `agent`, and a program of tests/csrc; any finding of a sanitizer ends the process."""
    command = [*_command(flags, compiled_by), *_places()]
    own = CSRC.parent / "tests" / "csrc" / main
    with engine(_command(flags, compiled_by), kept, agent) as objects:
        link = [*command, *objects, own, "-lm", "-lpthread", "-o", out]
        subprocess.run(link, check=True, capture_output=True)
    return out


def _command(flags: Sequence[str], compiled_by: Sequence[str] | None) -> list[str]:
    """`flags` may ask for more than -Og, with which code that is instrumented compiles in a third of the time."""
    always = ["-std=c11", "-g1", "-Og", "-ffp-contract=off", "-fno-math-errno", "-fno-sanitize-recover=all"]
    return [*(compiled_by or compiler()), *always, "-Werror=incompatible-pointer-types", *flags]


@contextmanager
def engine(command: Sequence[str], kept: Path | None = None, agent: bool = False) -> Iterator[list[Path]]:
    """The engine's objects, and those of what runs an `agent`, as `command` compiles them. Nobody else compiles or
    links these meanwhile.
    """
    version = subprocess.run([command[0], "--version"], check=True, capture_output=True).stdout
    headers = b"".join(path.name.encode() + path.read_bytes() for path in sorted(CSRC.glob("*.h")))
    kept = kept or cache_home() / "bitrl" / "test_engines"
    folders: dict[Path, list[Path]] = {}
    commands: dict[Path, list[str]] = {}
    for path in [*engine_sources(), *(agent_sources() if agent else ())]:
        wanted = _as_it_concerns(path.read_bytes() + headers, command)
        folder = kept / hashlib.sha256("\0".join(wanted).encode()).hexdigest()[:16]
        folders.setdefault(folder, []).append(path)
        commands[folder] = wanted
    with ExitStack() as locks:
        for folder in sorted(folders):  # all in one order, so that nobody waits for one who waits for them
            folder.mkdir(parents=True, exist_ok=True)
            lock = locks.enter_context((folder / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, also by being killed
            _compile(commands[folder], folders[folder], folder, version + headers)
        yield [folder / f"{path.stem}.o" for folder, sources in folders.items() for path in sources]


def _places() -> list[str]:
    """Where the sources lie, which an object does not show: a sanitizer names them as files of csrc."""
    return [f"-I{CSRC}", f"-I{CSRC / 'agent'}", f"-ffile-prefix-map={CSRC}=csrc"]


def _as_it_concerns(text: bytes, command: Sequence[str]) -> list[str]:
    """The command without the definitions of names that do not stand in the text."""
    return [word for word in command if not word.startswith("-D") or word[2:].partition("=")[0].encode() in text]


def _own_headers(path: Path) -> bytes:
    """Those of a folder below csrc, which the engine knows nothing of."""
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob("*.h"))) if path.parent != CSRC else b""


def _compile(command: Sequence[str], sources: Sequence[Path], folder: Path, shared: bytes) -> None:
    """Make the objects that are not there, or not of what their sources and what these share are now."""
    made_from = {path: hashlib.sha256(shared + _own_headers(path) + path.read_bytes()).hexdigest() for path in sources}
    stale = []
    for path, wanted in made_from.items():
        note = folder / f"{path.stem}.made_from"
        if not (note.is_file() and note.read_text() == wanted):
            note.unlink(missing_ok=True)
            stale.append(path)
    if stale:
        subprocess.run([*command, *_places(), "-c", *stale], cwd=folder, check=True, capture_output=True)
    for path in stale:
        (folder / f"{path.stem}.made_from").write_text(made_from[path])


def agent_library(kept: Path | None = None) -> ctypes.CDLL:
    """What runs an agent, upon the engine that is installed, in this process: every function of csrc/agent."""
    folder = (kept or cache_home() / "bitrl" / "test_engines") / "agent"
    folder.mkdir(parents=True, exist_ok=True)
    texts = [path.read_bytes() for path in (*agent_sources(), *sorted(CSRC.rglob("*.h")))]
    library = folder / f"{hashlib.sha256(b''.join(texts)).hexdigest()[:16]}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.is_file():
            for old in folder.glob("*.so"):
                old.unlink()
            command = [*compiler(), "-std=c11", "-O1", "-ffp-contract=off", "-shared", "-fPIC", *_places()]
            unfinished = library.with_suffix(".tmp")
            subprocess.run([*command, *agent_sources(), "-o", unfinished], check=True, capture_output=True)
            unfinished.rename(library)
        ctypes.CDLL(_engine.__file__, ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(library))


if __name__ == "__main__":
    for compiled_by, flags in ((None, SANITIZED), (None, RACES), ([ARM_COMPILER], ARM)):
        if not compiled_by or shutil.which(ARM_COMPILER):
            with engine(_command(flags, compiled_by), agent=flags != RACES):
                pass

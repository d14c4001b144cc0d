"""Power cuts: what a disk that drops what was not synced leaves, worked out by hand; and learning on over it."""

from __future__ import annotations

import importlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bitrl.core.files import make_directory, write_atomically
from bitrl.plugins.backbones.files.gguf_writing import add_digests, gguf_writer, write_all

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def cuts() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("power_cuts")


@pytest.fixture
def disk(cuts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A disk with the file `old`."""
    root = tmp_path / "disk"
    root.mkdir()
    (root / "old").write_text("old")
    found = cuts.LossyDisk(root)
    monkeypatch.setattr(os, "fsync", os.fsync)  # to be put back
    monkeypatch.setattr(os, "replace", os.replace)
    found.install()
    return found


def left(disk: Any, kept: float, seed: int = 0) -> dict[str, bytes]:
    """What a power cut leaves: path → contents; of a directory None."""
    into = disk.root.with_name("left")
    disk.cut(into, random.Random(seed), kept)
    found = {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}
    shutil.rmtree(into)
    return found


def test_what_was_written_and_not_synced_is_lost(disk: Any) -> None:
    with open(disk.root / "new", "w") as file:
        file.write("new")
        file.flush()
        assert left(disk, 1.0) == {"old": b"old", "new": b"new"}
        os.fsync(file.fileno())
    assert left(disk, 0.0) == {"old": b"old"}  # its bytes are there, its name is not
    folder = os.open(disk.root, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    assert left(disk, 0.0) == {"old": b"old", "new": b"new"}
    with open(disk.root / "new", "a") as file:
        file.write("er line")
    assert left(disk, 0.0)["new"] == b"new"
    torn = {left(disk, 0.5, seed)["new"] for seed in range(40)}
    assert {b"new", b"newer line"} < torn
    assert any(b"\0" in each for each in torn)
    assert all(each.startswith(b"new") and b"newer line".startswith(each.rstrip(b"\0")) for each in torn)


def test_a_rename_without_syncs_may_leave_an_empty_file(disk: Any) -> None:
    (disk.root / "new").write_text("new")
    os.replace(disk.root / "new", disk.root / "old")
    states = [left(disk, 0.5, seed) for seed in range(40)]
    assert {"old": b""} in states
    assert {"old": b"old"} in states
    assert left(disk, 0.0) == {"old": b"old"}


def test_a_file_that_is_written_atomically_is_the_old_or_the_new_one(disk: Any) -> None:
    states = []
    disk.before = lambda calls: states.extend(left(disk, kept, calls) for kept in (0.0, 0.5, 1.0))
    write_atomically(disk.root / "old", "newer")
    write_atomically(disk.root / "other", "text")
    assert {each["old"] for each in states} == {b"old", b"newer"}
    assert {each.get("other") for each in states} <= {None, b"", b"text"}
    assert left(disk, 0.0) == {"old": b"newer", "other": b"text"}


def test_a_model_file_is_the_old_or_the_new_one(disk: Any) -> None:
    for size in (1, 2):
        states: list[dict[str, bytes]] = []
        before = left(disk, 0.0).get("model.gguf")
        disk.before = lambda calls, states=states: states.extend(left(disk, kept, calls) for kept in (0.0, 0.5, 1.0))
        with gguf_writer(disk.root / "model.gguf", "llama") as writer:
            writer.add_uint32("test.size", size)
            add_digests(writer)
            writer.add_tensor("weights", np.arange(64 * size, dtype=np.float32))
            write_all(writer)
        disk.before = lambda calls: None
        now = left(disk, 0.0)["model.gguf"]
        assert now == (disk.root / "model.gguf").read_bytes()
        assert {each.get("model.gguf") for each in states} <= {before, now}


def test_a_directory_that_was_made_to_last_does(disk: Any) -> None:
    (disk.root / "loose").mkdir()
    write_atomically(disk.root / "loose" / "file", "text")
    make_directory(disk.root / "made" / "deeper")
    write_atomically(disk.root / "made" / "deeper" / "file", "text")
    assert left(disk, 0.0)["made/deeper/file"] == b"text"


def test_what_was_removed_is_there_until_its_directory_is_synced(disk: Any) -> None:
    (disk.root / "old").unlink()
    assert left(disk, 0.0) == {"old": b"old"}
    assert left(disk, 1.0) == {}


@pytest.fixture(scope="module")
def agent(cuts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("first") / "agent.safetensors"
    cuts.first_agent(path)
    return path


def in_a_process(cuts: ModuleType, work: Callable[[], None]) -> None:
    assert cuts.ended(cuts.forked(work)) == 0


def test_cut_at_every_sync_with_nothing_left_that_was_not_synced(cuts: ModuleType, agent: Path, tmp_path: Path) -> None:
    """Equal states are gone on from once."""
    place, steps = tmp_path / "place", 4 * cuts.ROLLOUT * cuts.ENVS
    place.mkdir()
    shutil.copy(agent, place)

    def work() -> None:
        def keep(calls: int) -> None:
            disk.cut(tmp_path / f"cut-{calls:03}", random.Random(0), 0.0)

        disk = cuts.LossyDisk(place, keep)
        disk.install()
        cuts.learn(place, steps)

    in_a_process(cuts, work)
    expected, whole = cuts.contents(place), {agent.read_bytes(), (place / "agent.safetensors").read_bytes()}
    states = {}
    for state in sorted(tmp_path.glob("cut-*")):
        files = tuple(
            (path.relative_to(state), path.read_bytes()) for path in sorted(state.rglob("*")) if path.is_file()
        )
        states[files] = state
    assert len(states) >= 8
    for state in states.values():
        assert (state / "agent.safetensors").read_bytes() in whole
        in_a_process(cuts, lambda state=state: cuts.learn(state, steps))
        assert cuts.contents(state) == expected, state.name


def test_cut_off_at_random_moments(cuts: ModuleType, tmp_path: Path) -> None:
    tally = cuts.cut_again_and_again(tmp_path, 5, tell=lambda line: None)
    assert tally["killed"] + tally["cut"] == 5
    # It goes on from where it was, and has nothing to do.
    assert cuts.cut_again_and_again(tmp_path, 5) == tally

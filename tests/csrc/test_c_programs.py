"""The engine that the tests compile: once for each compiler and flags, again when anything in it has changed."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import c_programs
import pytest

# Stands for a compiler: notes each call and makes the files asked for, slowly enough for another to come meanwhile.
COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then cat "{folder}/version"; exit; fi
sleep 0.1
echo "$*" >> "{folder}/calls"
while [ $# -gt 0 ]; do
    case "$1" in
        -o) shift; echo linked > "$1" ;;
        */csrc/*.c) [ -n "$objects" ] && touch "$(basename "$1" .c).o" ;;
        -c) objects=yes ;;
    esac
    shift
done
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    csrc = tmp_path / "csrc"
    csrc.mkdir()
    for name in ("a.c", "b.c", "a.h", "_engine.c"):
        (csrc / name).write_text(f"/* {name} */")
    monkeypatch.setattr(c_programs, "CSRC", csrc)
    (tmp_path / "version").write_text("1.0")
    path = tmp_path / "cc"
    path.write_text(COMPILER.format(folder=tmp_path))
    path.chmod(0o755)
    return path


def calls(compiler: Path) -> list[str]:
    """The arguments of each call."""
    return (compiler.parent / "calls").read_text().splitlines()


def compiled(compiler: Path) -> int:
    """How often anything of the engine was."""
    return sum(" -c " in call for call in calls(compiler))


def test_it_is_compiled_once_and_again_when_anything_has_changed(compiler: Path, tmp_path: Path) -> None:
    def build(*flags: str) -> int:
        out = c_programs.build(
            tmp_path / "out", "driver.c", *flags, compiled_by=[str(compiler)], kept=tmp_path / "kept"
        )
        assert out.read_text() == "linked\n"
        return compiled(compiler)

    assert [build("-O1"), build("-O1")] == [1, 1]
    assert "_engine" not in (tmp_path / "calls").read_text()
    assert [build("-O2"), build("-O1"), build("-O2")] == [2, 2, 2]
    for changed in ("csrc/a.c", "csrc/a.h", "version"):
        before = build("-O1")
        (tmp_path / changed).write_text("another")
        assert [build("-O1"), build("-O1")] == [before + 1, before + 1], changed
    before = build("-O1")
    (tmp_path / "csrc" / "c.c").write_text("")
    assert build("-O1") == before + 1


def test_those_who_need_it_at_once_share_it(compiler: Path, tmp_path: Path) -> None:
    def build(i: int) -> Path:
        return c_programs.build(tmp_path / f"{i}", "driver.c", compiled_by=[str(compiler)], kept=tmp_path / "kept")

    with ThreadPoolExecutor(4) as pool:
        programs = list(pool.map(build, range(4)))
    assert compiled(compiler) == 1
    assert all(program.is_file() for program in programs)


def test_objects_that_were_not_finished_are_made_again(compiler: Path, tmp_path: Path) -> None:
    def build() -> Path:
        return c_programs.build(tmp_path / "out", "driver.c", compiled_by=[str(compiler)], kept=tmp_path / "kept")

    build()
    for made_from in (tmp_path / "kept").glob("*/a.made_from"):  # as if killed before it was written
        os.unlink(made_from)
    build()
    assert compiled(compiler) == 2
    assert "/csrc/b.c" not in calls(compiler)[-2]


def test_a_source_is_compiled_again_only_for_definitions_that_it_knows(compiler: Path, tmp_path: Path) -> None:
    (tmp_path / "csrc" / "b.c").write_text("void *b = mmap();")

    def build(*flags: str) -> list[str]:
        before = len(calls(compiler)) if (tmp_path / "calls").exists() else 0
        c_programs.build(tmp_path / "out", "driver.c", *flags, compiled_by=[str(compiler)], kept=tmp_path / "kept")
        made = " ".join(call for call in calls(compiler)[before:] if " -c " in call)
        return [name for name in ("a.c", "b.c") if f"/csrc/{name}" in made]

    assert build("-O1") == ["a.c", "b.c"]
    assert build("-O1", "-Dmmap=mine", "-DREPLAY") == ["b.c"]
    assert all(flag in calls(compiler)[-1] for flag in ("-Dmmap=mine", "-DREPLAY"))  # the program itself has them all
    (tmp_path / "csrc" / "a.h").write_text("/* mmap */")
    assert build("-O1", "-Dmmap=another") == ["a.c", "b.c"]

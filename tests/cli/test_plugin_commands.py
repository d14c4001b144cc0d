"""`bitrl plugin new` writes packages that work; `bitrl plugin check` tells a good one from a bad one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitrl.core.registry import registry

Call = Callable[..., Any]  # what conftest.py calls the command line with

COMPONENTS = {
    "serializer": "bins",
    "backbone": "hashing",
    "algorithm": "reinforce",
    "environment": "corridor",
    "logger": "plaintext",
    "command": "leaderboard",
    "doctor-check": "thermal",
    "energy-meter": "battery",
}
EXAMPLE = Path(__file__).parents[2] / "examples" / "bitrl-example"


def contents(directory: Path) -> dict[str, str]:
    found = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(directory).as_posix(): path.read_text() for path in found}


@pytest.mark.parametrize(
    "kinds",
    [
        ["serializer"],
        ["backbone"],
        ["algorithm"],
        ["environment"],
        ["logger", "command", "doctor-check", "energy-meter"],
        ["all"],
    ],
)
def test_a_new_plugin_installs_and_its_tests_pass(bitrl: Call, tmp_path: Path, kinds: list[str]):
    done = bitrl("plugin", "new", "grid.World", "--dir", tmp_path, *(f"--kind={kind}" for kind in kinds))
    assert (done.code, done.err) == (0, "")
    package, site = tmp_path / "grid.World", tmp_path / "site"
    written = contents(package)
    for kind, component in COMPONENTS.items():
        wanted = kind in kinds or kinds == ["all"]
        assert (f"src/grid_world/{component}.py" in written) == wanted
        assert (f"tests/test_{component}.py" in written) == wanted
        assert (f"grid-world-{component}" in written["README.md"]) == wanted
    assert "example" not in "".join(written.values()).lower().replace("for example", "")

    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, package], check=True)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=package,
        # Without plugins of pytest that its tests do not use.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert tests.returncode == 0, tests.stdout
    assert re.search(r"\d+ passed", tests.stdout)


def test_the_example_distribution_is_what_a_new_plugin_of_its_name_would_be(bitrl: Call, tmp_path: Path):
    bitrl("plugin", "new", "bitrl-example", "--dir", tmp_path)
    example = contents(EXAMPLE)
    assert "bitrl plugin new" in example.pop("__init__.py"), "the one file that says why it is here"
    written = contents(tmp_path / "bitrl-example")
    assert written == {path: text for path, text in example.items() if path in written}
    left = {path for path in example if path not in written}
    assert all(path.startswith("build/") or ".egg-info/" in path for path in left), left


def test_several_kinds_can_be_asked_for_and_the_answer_says_what_is_next(bitrl: Call, tmp_path: Path):
    done = bitrl("plugin", "new", "two", "--kind", "environment", "--kind", "serializer", "--dir", tmp_path)
    assert done.out.splitlines()[0] == f"{tmp_path / 'two'}: a plugin with serializer, environment"
    assert "bitrl plugin check two" in done.out
    assert {path.name for path in (tmp_path / "two" / "src" / "two").iterdir()} == {
        "__init__.py",
        "bins.py",
        "corridor.py",
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "cannot be a package's name"),
        ("a/b", "cannot be a package's name"),
        ("../up", "cannot be a package's name"),
        ("grid-", "cannot be a package's name"),
        ("grün", "cannot be a package's name"),
        ("a\nb", "cannot be a package's name"),
        ("3d", "which is no Python name: begin it with a letter, as bitrl-3d"),
        ("class", "which is no Python name"),
        ("json", "would be imported as json, which is taken"),
        ("bitrl", "would be imported as bitrl, which is taken"),
    ],
)
def test_a_name_that_cannot_be_a_packages_is_refused(bitrl: Call, tmp_path: Path, name: str, message: str):
    done = bitrl("plugin", "new", "--dir", tmp_path, "--", name)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_what_exists_is_left_alone(bitrl: Call, tmp_path: Path, kind: str):
    place = tmp_path / "grid"
    if kind == "directory":
        place.mkdir()
    elif kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path / "nowhere")
    done = bitrl("plugin", "new", "grid", "--dir", tmp_path)
    assert (done.code, done.err) == (
        2,
        f"Error: {place}: exists already: choose another name, or another place with --dir\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["grid"]


def test_a_directory_that_is_not_there_is_refused(bitrl: Call, tmp_path: Path):
    done = bitrl("plugin", "new", "grid", "--dir", tmp_path / "none")
    assert (done.code, done.err) == (
        2,
        f"Error: {tmp_path / 'none'}: no such directory: make it first, or choose another with --dir\n",
    )


def test_when_writing_fails_nothing_is_left_behind(bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Path, *args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    done = bitrl("plugin", "new", "grid", "--dir", tmp_path)
    assert (done.code, done.err) == (
        1,
        f"Error: {tmp_path / 'grid'}: cannot be written: No space left on device: choose another place with --dir\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_is_refused(bitrl: Call, tmp_path: Path):
    done = bitrl("plugin", "new", "grid", "--kind", "serialiser", "--dir", tmp_path)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


GOOD = """
import bitrl

class Words:
    def __init__(self, options, observation): ...
    def __call__(self, observation): return f"words {observation}"
    def batch(self, observations): return [self(observation) for observation in observations]

class Bytes(Words):
    def __call__(self, observation):
        print("noise on stdout")
        return b"bytes"

class good:
    @staticmethod
    @bitrl.hookimpl
    def bitrl_serializers():
        yield bitrl.SerializerRecord(name="good-words", summary="words", target=f"{__name__}:Words")

class bad:
    @staticmethod
    @bitrl.hookimpl
    def bitrl_serializers():
        yield bitrl.SerializerRecord(name="bad-words", summary="words", target=f"{__name__}:Bytes")
"""


LEVERS = """
import bitrl, gymnasium

class Levers(bitrl.Environment):
    def make(self, render_mode=None):
        return gymnasium.wrappers.TransformAction(
            gymnasium.make("CartPole-v1"), lambda action: int(action[0]), gymnasium.spaces.MultiDiscrete([2, 3])
        )
"""
LEVERS_PLUGIN = """
import bitrl

class plugin:
    @staticmethod
    @bitrl.hookimpl
    def bitrl_environments():
        yield bitrl.EnvironmentRecord(name="Levers-v0", summary="two levers", target="levers_of_a_test:Levers")
"""


def test_what_no_algorithm_supports_yet_is_a_note(bitrl: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "levers_of_a_test.py").write_text(LEVERS)
    (tmp_path / "levers_plugin.py").write_text(LEVERS_PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry().entries, "algorithm", [])
    done = bitrl("plugin", "check", "levers_plugin:plugin")
    (note,) = [line for line in done.out.splitlines()[:-2] if not line.startswith("ok    ")]
    assert note.startswith('note  environment "Levers-v0": ')
    assert "a MultiDiscrete space, which no installed algorithm declares to support" in note
    assert done.out.splitlines()[-1].endswith(" checks, 0 failed")
    assert done.code == 0


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "checked_plugin.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    return "checked_plugin"


def test_a_good_plugin_gets_a_line_for_every_check(bitrl: Call, module: str):
    done = bitrl("plugin", "check", f"{module}:good")
    *lines, empty, total = done.out.splitlines()
    assert done.code == 0
    assert all(line.startswith("ok    ") for line in lines)
    assert 'ok    serializer "good-words": It does not modify its observations' in lines
    assert (empty, total) == ("", f"{len(lines)} checks, 0 failed")


def test_a_bad_plugin_is_told_what_is_wrong_and_the_code_is_1(bitrl: Call, module: str):
    done = bitrl("plugin", "check", f"{module}:bad")
    failed = [line for line in done.out.splitlines() if line.startswith("FAIL")]
    assert done.code == 1
    assert (
        'FAIL  serializer "bad-words": An observation becomes a non-empty string, or a float32 vector [width]: '
        "expected a str, got bytes"
    ) in failed


@pytest.mark.parametrize(("plugin", "passed"), [("good", True), ("bad", False)])
def test_as_json_there_is_one_object_and_nothing_else_on_stdout(installed: Call, plugin: str, passed: bool):
    done = installed(checked_plugin=GOOD)("plugin", "check", f"checked_plugin:{plugin}", "--json")
    answer = json.loads(done.out)
    assert answer["passed"] == passed == (done.code == 0)
    assert all(set(row) == {"component", "check", "passed", "failure", "note"} for row in answer["checks"])
    assert passed == all(row["passed"] and row["failure"] is None for row in answer["checks"])


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("bitlr", 'unknown plugin "bitlr": did you mean "bitrl"? '),
        ("nowhere:plugin", "nowhere:plugin cannot be imported: ModuleNotFoundError"),
        ("json:", "json: cannot be imported: "),
    ],
)
def test_a_package_that_is_not_there_is_an_error_of_the_command(bitrl: Call, package: str, message: str):
    done = bitrl("plugin", "check", package)
    assert done.code == 2
    assert done.err.startswith(f"Error: {message}")
    assert len(done.err.splitlines()) == 1

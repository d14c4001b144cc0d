"""bitrl where torch is not installed: classic tasks are learned, and what does need it says so in one line."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

from bitrl.cli import doctor
from bitrl.core.installing import LEFT_OUT

SEVERAL = """
import json, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
if sys.argv[1] == "without":
    sys.meta_path.insert(0, Finder())
from bitrl.cli import main
codes = []
for command in json.loads(sys.argv[2]):
    try:
        main(command)
    except SystemExit as stopped:
        codes.append(stopped.code or 0)
with open(sys.argv[3], "w") as file:
    json.dump([codes, "torch" in sys.modules], file)
"""
"""Commands one after another in one process, without torch or as it is; their exit codes, and whether it has torch."""

QUICK = ["-o", "run.num_envs=2", "-o", "run.eval_episodes=1", "-o", "algo.rollout_steps=32", "--quiet"]


class Done(NamedTuple):
    codes: list[int]
    torch: bool
    out: str
    err: str


def commands(folder: Path, *each: list[str], torch: str = "without") -> Done:
    command = [sys.executable, "-c", SEVERAL, torch, json.dumps(each), "found.json"]
    done = subprocess.run(command, cwd=folder, input="[0, 0, 0, 0]\n", capture_output=True, text=True)
    codes, imported = json.loads((folder / "found.json").read_text())
    return Done(codes, imported, done.stdout, done.stderr)


@pytest.mark.parametrize("backbone", ["bitnet", "int8", "int4", "bf16", "mlp"])
def test_an_agent_is_trained_resumed_evaluated_exported_learns_on_and_acts(backbone: str, tmp_path: Path) -> None:
    layers = [] if backbone == "mlp" else ["-o", "backbone.layers=1"]
    done = commands(
        tmp_path,
        ["run", "--backbone", backbone, "--steps", "64", *QUICK, *layers, "--out", "run"],
        ["run", "--resume", "run", "--steps", "128", "--quiet"],
        ["eval", "run", "--episodes", "1"],
        ["export", "run", "--with-optimizer", "--out", "agent"],
        ["run", "--resume", "agent", "--steps", "192", "--quiet", "--out", "on"],
        ["act", "agent"],
    )
    assert (done.codes, done.torch, done.err) == ([0] * 6, False, "")
    assert int(done.out.splitlines()[-1]) in (0, 1)


def test_the_walkthrough_of_learning_on_a_device_in_the_docs(tmp_path: Path) -> None:
    """Every command as it stands there, but for the number of steps, on two machines: folders, and a copy for scp."""
    page = (Path(__file__).parents[2] / "docs" / "getting-started.md").read_text(encoding="utf-8")
    block = page.partition("## Learn on, on the device")[2].partition("```sh\n")[2].partition("```")[0]
    block = block.replace("50_000", "64").replace("60_000", "128")
    words = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [" ".join(each[:2]) for each in words if each[0] == "bitrl"] == [
        "bitrl run", "bitrl export", "bitrl act", "bitrl run", "bitrl export"
    ]  # fmt: skip
    here, board = tmp_path / "here", tmp_path / "board"
    copied = next(index for index, each in enumerate(words) if each[0] == "scp")
    for folder, steps in ((here, words[:copied]), (board, words[copied + 1 :])):
        folder.mkdir()
        if folder is board:
            shutil.copy(here / words[copied][1], board)
        quick = ["-o", "backbone.layers=1", *QUICK] if folder is here else ["--quiet"]
        done = commands(folder, *([*each[1:], *(quick if each[1] == "run" else [])] for each in steps))
        assert (done.codes, done.torch) == ([0] * len(steps), False), done.err
    assert re.search(r"^[01]$", done.out, re.M)
    assert json.loads((board / "there" / "summary.json").read_text())["steps"] == 128


@pytest.mark.parametrize("actions", ["Pendulum-v1", "Acrobot-v1", "MountainCar-v0"])
def test_other_classic_tasks_are_learned(actions: str, tmp_path: Path) -> None:
    done = commands(tmp_path, ["run", "--env", actions, "--backbone", "mlp", "--steps", "64", *QUICK,
                               "-o", "run.eval_max_steps=20", "--out", "run"])  # fmt: skip
    assert (done.codes, done.torch, done.err) == ([0], False, "")


def test_a_run_does_not_import_torch_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    run = ["run", "--steps", "64", *QUICK, "-o", "backbone.layers=1", "--out", "run"]
    assert commands(tmp_path, run, torch="with")[:2] == ([0], False)
    with_adapters = [*run[:-1], "adapters", "-o", "backbone.lora_rank=1"]
    assert commands(tmp_path, with_adapters, torch="with")[:2] == ([0], True)


@pytest.mark.parametrize(
    ("options", "who"),
    [
        (["-o", "backbone.lora_rank=2"], "-o backbone.lora_rank needs torch, which is not installed"),
        (["--backbone", "mlp", "-o", "algo.rollout=int8"], "-o algo.rollout=int8 needs torch, which is not installed"),
        (["--env", "reverse-word", "--algo", "grpo"], '"grpo" could not be loaded'),
        (["--env", "reverse-word", "--algo", "ppo-lm"], '"ppo-lm" could not be loaded'),
    ],
)
def test_what_needs_it_says_so_before_anything_is_written(options: list[str], who: str, tmp_path: Path) -> None:
    done = commands(tmp_path, ["run", "--steps", "32", "--out", "run", "--quiet", *options])
    assert done[:2] == ([2], False)
    assert done.err.count("\n") == 1
    assert who in done.err
    assert done.err.endswith("pip install torch\n")
    assert not (tmp_path / "run").exists()


def test_help_and_doctor_say_what_needs_it(bitrl, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torch is needed by -o backbone.lora_rank, -o algo.rollout" in " ".join(bitrl("run", "--help").out.split())
    version = metadata.version

    def without_torch(name: str) -> str:
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_torch)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    for name in [name for name in sys.modules if name.startswith(("torch", "bitrl.plugins.algos."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    findings = {finding.name: finding for check in doctor.CHECKS for finding in doctor.examine(check)}
    assert all(finding.ok for finding in findings.values()), [each for each in findings.values() if not each.ok]
    assert findings["torch"].detail == f"not installed: {LEFT_OUT['torch']} need it, all else does not"

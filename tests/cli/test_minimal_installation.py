"""bitrl with packages missing: what the rest can do is done, and everything else says what to install."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from served import running

BLOCKING = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
BLOCKED = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Finder())
from bitrl.cli import main
main()
"""
FOR_TRAINING = "torch,gymnasium,gguf,rich,tomli_w"


def without(packages: str, *args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command where these packages cannot be imported."""
    command = [sys.executable, "-c", BLOCKING, packages, *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run and its agent, which reads texts."""
    from bitrl.core.runs.export import export
    from bitrl.core.runs.train import run

    folder = tmp_path_factory.mktemp("trained")
    options = {"run.eval_episodes": 0, "run.num_envs": 2, "algo.rollout_steps": 16, "backbone.layers": 1}
    run("CartPole-v1", steps=32, out=folder / "run", options=options)
    export(folder / "run", folder / "agent.safetensors")
    return folder


def test_an_installation_for_agents_acts_and_lists(trained) -> None:
    agent = trained / "agent.safetensors"
    done = without(FOR_TRAINING, "act", agent, stdin="[0, 0, 0, 0]\n[0]\n")
    assert (done.returncode, done.stderr) == (0, "")
    action, error = map(json.loads, done.stdout.splitlines())
    assert (action in (0, 1), list(error)) == (True, ["error"])
    for args in (("list",), ("show", "backbone", "bitnet"), ("model", "list"), ("--help",), ("act", agent, "--facts")):
        done = without(FOR_TRAINING, *args)
        assert (done.returncode, done.stderr) == (0, ""), args


def test_an_installation_for_agents_profiles_them(trained) -> None:
    done = without(FOR_TRAINING, "profile", trained / "agent.safetensors", "--duration", "100ms", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["results"]["acts"] > 0


def test_an_installation_for_agents_serves(trained, tmp_path) -> None:
    command = [sys.executable, "-c", BLOCKING, FOR_TRAINING, "serve", str(trained / "agent.safetensors"), "--port", "0"]
    with running(command, tmp_path / "log") as served:
        assert served.act([0, 0, 0, 0]) in (0, 1)
        status, found = served.ask("POST", "/demonstration", {"begin": True})
        assert (status, "needs gymnasium, which is not installed" in found["error"]) == (503, True)
        assert served.stop() == 0
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["run", "--steps", "1"], 1),
        (["eval", "run"], 1),
        (["export", "run", "--out", "x"], 1),
        (["show", "env", "E"], 1),
    ],
)
def test_what_it_cannot_do_names_all_that_is_missing_at_once(trained, monkeypatch, args, code) -> None:
    monkeypatch.chdir(trained)
    before = sorted(trained.rglob("*"))
    done = without(FOR_TRAINING, *args)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.endswith("pip install gguf gymnasium rich tomli-w\n")
    assert sorted(trained.rglob("*")) == before


@pytest.mark.parametrize(
    ("package", "args", "install"),
    [
        ("tokenizers", ["run", "--steps", "1", "--out", "new"], "install tokenizers"),
        ("tomli_w", ["run", "--steps", "1", "--out", "new"], "install tomli-w"),
        ("safetensors", ["act", "agent.safetensors", "--facts"], "install safetensors"),
        ("numpy", ["act", "agent.safetensors", "--facts"], "install numpy"),
        ("gguf", ["model", "inspect", "starter"], "install gguf"),
        ("tensorboardX", ["run", "--steps", "1", "--out", "new", "--logger", "tensorboard"], "bitrl[tensorboard]"),
        ("av", ["eval", "run", "--video", "v.mp4"], "bitrl[video]"),
        ("matplotlib", ["model", "probe", "--out", "p.png", "--count", "40"], "bitrl[report]"),
        ("matplotlib", ["profile", "agent.safetensors", "--plot", "p.png"], "bitrl[report]"),
        ("starlette", ["serve", "agent.safetensors"], "bitrl[serve]"),
        ("uvicorn", ["serve", "agent.safetensors"], "bitrl[serve]"),
        ("httptools", ["serve", "agent.safetensors"], "bitrl[serve]"),
        ("scipy", ["study", "--vary", "backbone=mlp", "--steps", "1", "--out", "new"], "bitrl[studies]"),
        ("arch", ["study", "--vary", "backbone=mlp", "--steps", "1", "--out", "new"], "bitrl[studies]"),
        ("huggingface_hub", ["model", "pull", "hf:someone/something"], "bitrl[hub]"),
        ("minigrid", ["run", "--env", "BabyAI-GoToRedBall-v0", "--steps", "1", "--out", "new"], "bitrl[babyai]"),
        ("ale_py", ["run", "--env", "MontezumaRevenge", "--steps", "1", "--out", "new"], "bitrl[atari]"),
        ("ale_py", ["run", "--env", "ALE/Pong-v5", "--steps", "1", "--out", "new"], "bitrl[atari]"),
    ],
)
def test_each_missing_package_is_named_with_what_to_install(trained, monkeypatch, package, args, install) -> None:
    monkeypatch.chdir(trained)
    done = without(package, *args)
    assert done.returncode in (1, 2)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "pip install" in done.stderr
    assert install in done.stderr
    assert "unexpected" not in done.stderr
    assert not (trained / "new").exists()

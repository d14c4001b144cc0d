"""What a shell is offered for an unfinished word, through click's own protocol."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from bitrl.cli import cli


def offered(*words: str) -> list[str]:
    """What is offered for the last of `words`."""
    complete = ShellComplete(cli, {}, "bitrl", "_BITRL_COMPLETE")
    return [item.value for item in complete.get_completions([*words[:-1]], words[-1])]


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (["ru"], ["run"]),
        (["run", "--env", "CartPole"], ["CartPole-v1"]),
        (["run", "--env", "TextW"], ["TextWorld-Cooking"]),
        (["run", "--backbone", ""], ["bitnet", "int8", "mlp"]),
        (["run", "--critic-backbone", "in"], ["int8", "int4"]),
        (["run", "--serializer", "na"], ["natural"]),
        (["run", "--algo", ""], ["ppo"]),
        (["run", "--logger", ""], ["csv", "tensorboard"]),
        (["run", "-o", "algo.clip"], ["algo.clip_coef="]),
        (["run", "--backbone", "mlp", "-o", "run.num"], ["run.num_envs="]),
        (["list", "ser"], ["serializers"]),
        (["list", "ru"], ["runs"]),
        (["show", "al"], ["algo"]),
        (["show", "serializer", "com"], ["compact"]),
        (["bench", "env", "Acro"], ["Acrobot-v1"]),
        (["model", "pu"], ["pull"]),
        (["model", "pull", "smol"], ["smollm2-135m"]),
    ],
)
def test_names_are_offered(words: list[str], some: list[str]) -> None:
    found = offered(*words)
    assert set(some) <= set(found)
    assert all(each.startswith(words[-1]) for each in found)


@pytest.mark.parametrize(
    "words", [["eval"], ["export"], ["run", "--resume"], ["watch"], ["compare", "runs/b"], ["plot"], ["report"]]
)
def test_runs_are_offered_by_their_directories(words: list[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert offered(*words, "") == []
    for name in ("a", "ab", "half"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        if name != "half":
            (tmp_path / "runs" / name / "config.toml").touch()
    assert offered(*words, "") == ["runs/a", "runs/ab"]
    assert offered(*words, "runs/ab") == ["runs/ab"]
    assert offered(*words, "ru") == ["runs/a", "runs/ab"]


def test_a_broken_registry_offers_nothing_and_is_silent(monkeypatch, capsys) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("bitrl.core.registry.registry", broken)
    assert offered("run", "--backbone", "") == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script_and_no_heavy_import(shell: str) -> None:
    program = (
        "import sys; from bitrl.cli import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    )
    env = {"_BITRL_COMPLETE": f"{shell}_source"}
    script = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert "_BITRL_COMPLETE" in script.stdout
    env = {"_BITRL_COMPLETE": f"{shell}_complete", "COMP_WORDS": "bitrl run --algo p", "COMP_CWORD": "3"}
    env |= {"COMP_CWORD": "p"} if shell == "fish" else {}
    found = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert "ppo" in found.stdout
    assert found.stderr == "False\n"

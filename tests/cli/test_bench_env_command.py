"""`bitrl bench env`: what it prints and writes, which environments it takes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitrl.core.config import Config
from bitrl.core.errors import UsageError
from bitrl.core.registry import registry
from bitrl.plugins.backbones.benchmark import run_speed

Call = Callable[..., Any]
SMALL = ("-o", "algo.rollout_steps=64", "-o", "run.num_envs=4", "-o", "algo.epochs=1", "--steps", 1)


def row(config: Config, steps: int) -> dict[str, Any]:
    """What measuring gives, without measuring."""
    rates = dict.fromkeys(("texts_per_second", "texts_per_second_alone"), 1234.0)
    shares = {"share_of_alone": 0.75, "share_of_training": 0.5}
    return {
        "env": config.run.env,
        "serializer": config.run.serializer,
        "steps": steps,
        "steps_per_second": 4321.0,
        "seconds": dict.fromkeys(run_speed.PARTS, 2.0),
        "encoder": {"texts": 99, **rates, **shares},
        "cache": {"hit_rate": 0.987, "gain": 2.5},
    }


def test_json_is_one_object_and_the_file_the_same(bitrl: Call, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    done = bitrl("bench", "env", "FrozenLake-v1", "--threads", 1, *SMALL, "--json", "--out", out)
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record == json.loads(out.read_text())
    assert set(record) == {"command", "date", "commit", "versions", "processor", "results"}
    assert record["command"] == (
        "bitrl bench env FrozenLake-v1 --steps 1 --threads 1 -o algo.rollout_steps=64 -o run.num_envs=4 "
        "-o algo.epochs=1 --json"
    )
    assert record["results"]["left_out"] == {}
    [found] = record["results"]["environments"]
    assert (found["env"], found["serializer"], found["backbone"]) == ("FrozenLake-v1", "values", "bitnet")
    assert (found["seed"], found["threads"], found["num_envs"], found["steps"]) == (0, 1, 4, 64)
    assert list(found["seconds"]) == list(run_speed.PARTS)
    assert found["steps_per_second"] == pytest.approx(64 / sum(found["seconds"].values()))
    assert found["cache"]["hit_rate"] > 0.5  # 16 states


def test_without_names_all_that_are_registered_and_can_be_made(bitrl: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(config: Config, steps: int) -> dict[str, Any]:
        if config.run.env == "Acrobot-v1":
            raise UsageError("Acrobot-v1 needs its arms")
        return row(config, steps)

    monkeypatch.setattr(run_speed, "measure", measure)
    results = json.loads(bitrl("bench", "env", "--json").out)["results"]
    names = {entry.record.name for entry in registry().entries["environment"] if entry.package == "bitrl"}
    assert {found["env"] for found in results["environments"]} == names - {"gymnasium", "Acrobot-v1"}
    assert results["left_out"] == {"Acrobot-v1": "Acrobot-v1 needs its arms"}
    shown = bitrl("bench", "env").out
    assert "\x1b" not in shown
    for text in ("BabyAI-GoToRedBall-v0", "grid", "4,321", "1,234", "75%", "98.7%", "2.50 ×", "needs its arms"):
        assert text in shown


def test_one_that_was_asked_for_is_not_left_out(bitrl: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(config: Config, steps: int) -> dict[str, Any]:
        raise UsageError("no arms")

    monkeypatch.setattr(run_speed, "measure", measure)
    assert bitrl("bench", "env", "Acrobot-v1").code == 2
    nothing = bitrl("bench", "env")
    assert (nothing.code, nothing.out, nothing.err) == (2, "", "Error: no arms\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("env", "CartPole-v1", "CartPol-v1"), 'did you mean "CartPole-v'),
        (("env", "--backbone", "bitnot"), "bitnet"),
        (("env", "CartPole-v1", "--serializer", "vector"), "emits vector"),
        (("env", "CartPole-v1", "--backbone", "mlp", "--threads", "2"), "threads"),
        (("env", "CartPole-v1", "-o", "algo.clip=1"), "clip_coef"),
        (("env", "--steps", "0"), "--steps"),
        (("env", "--threads", "0"), "--threads"),
        (("env", "--out", "nowhere/r.json"), "nowhere"),
        (("--quick", "--isa", "scalar", "env"), "--isa, --quick before env"),
        (("environment",), "environment"),
    ],
)
def test_wrong_commands_are_told_in_one_line(
    bitrl: Call, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(run_speed, "measure", row)
    failed = bitrl("bench", *arguments)
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.strip().splitlines()) == 1
    assert failed.out == ""


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom bitrl.cli import main\n"
        "try: main(['bench', 'env', '--help'])\n"
        "finally: print([m for m in ('torch', 'numpy', 'gguf', 'gymnasium') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "--serializer" in done.stdout

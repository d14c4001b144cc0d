"""A separate distribution beside bitrl: built, installed, and used from the command line with our components."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "bitrl-example"
QUICK = ["--steps", "256", "-o", "run.num_envs=4", "-o", "run.eval_episodes=2", "-o", "algo.rollout_steps=128"]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a process with the example installed from a wheel."""
    base = tmp_path_factory.mktemp("example")
    source, wheels, site = base / "source", base / "wheels", base / "site"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", wheels, source], check=True)
    (wheel,) = wheels.iterdir()
    assert wheel.name == "bitrl_example-0.1.0-py3-none-any.whl"
    subprocess.run([*pip, "install", *quiet, "--target", site, wheel], check=True)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture
def bitrl(environment: dict[str, str], tmp_path: Path) -> Call:
    """Call the command line in a process with the example installed."""

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from bitrl.cli import main; main()", *args]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return call


def test_its_components_are_listed_beside_ours(bitrl: Call):
    listed = json.loads(bitrl("list", "--json").stdout)
    assert listed["problems"] == []
    for kind, name in [
        ("serializers", "example-bins"),
        ("backbones", "example-hashing"),
        ("algorithms", "example-reinforce"),
        ("environments", "example-corridor-v0"),
        ("loggers", "example-plaintext"),
        ("commands", "example-leaderboard"),
        ("doctor-checks", "example-thermal"),
        ("energy-meters", "example-battery"),
    ]:
        packages = {row["name"]: row["package"] for row in listed[kind]}
        assert packages[name] == "bitrl-example"
        assert "bitrl" in packages.values()


def test_listing_stays_light_with_it(environment: dict[str, str], tmp_path: Path):
    code = """
import sys
from bitrl.cli import main
try:
    main(["list"])
except SystemExit as stopped:
    assert not stopped.code
print(sorted({"numpy", "torch", "gymnasium"} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "example-bins" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"


COMBINATIONS = [
    ("example-corridor-v0", "example-bins", "example-hashing", "example-reinforce"),
    ("CartPole-v1", "json", "example-hashing", "example-reinforce"),
    ("example-corridor-v0", "example-bins", "example-hashing", "ppo"),
    ("example-corridor-v0", "vector", "mlp", "ppo"),
    ("example-corridor-v0", "natural", "bitnet", "example-reinforce"),
    (
        "MountainCar-v0",
        "bitrl-example:example-bins",
        "bitrl-example:example-hashing",
        "bitrl-example:example-reinforce",
    ),
]


@pytest.mark.parametrize(("env", "serializer", "backbone", "algo"), COMBINATIONS)
def test_its_components_run_with_ours_and_their_own(
    bitrl: Call, tmp_path: Path, env: str, serializer: str, backbone: str, algo: str
):
    chosen = ["--env", env, "--serializer", serializer, "--backbone", backbone, "--algo", algo]
    done = bitrl("run", *chosen, *QUICK, "--seed", "3", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    found = [summary[key] for key in ("env", "serializer", "backbone", "algo", "seed", "steps")]
    assert found == [env, serializer, backbone, algo, 3, 256]
    assert summary["eval"]["episodes"] == 2


def test_its_logger_and_its_command_work_on_a_run(bitrl: Call, tmp_path: Path):
    done = bitrl("run", "--backbone", "mlp", "--logger", "example-plaintext", *QUICK, "--out", "runs/one", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "runs/one/metrics.jsonl").read_text().splitlines()]
    lines = (tmp_path / "runs/one/log.txt").read_text().splitlines()
    assert [line.rpartition("step=")[2] for line in lines] == [str(row["step"]) for row in rows]
    assert bitrl("example-leaderboard").stdout.split()[1] == "runs/one"


def test_it_learns_in_its_own_environment(bitrl: Call):
    chosen = ["--serializer", "example-bins", "--backbone", "example-hashing", "--algo", "example-reinforce"]
    done = bitrl("run", "--env", "example-corridor-v0", *chosen, "--out", "run", "--json")
    summary = json.loads(done.stdout)
    assert summary["steps"] >= 20_000, "the environment's own default"
    assert summary["eval"]["mean_return"] == 1.0


def test_an_environment_that_its_algorithm_does_not_support_is_refused_in_one_line(bitrl: Call, tmp_path: Path):
    done = bitrl(
        "run", "--env", "Pendulum-v1", "--algo", "example-reinforce", "--backbone", "example-hashing", "--out", "r"
    )
    assert done.returncode == 2
    assert done.stderr == (
        'Error: algorithm "example-reinforce" supports Discrete actions, but those of Pendulum-v1 are Box: '
        "use --algo ppo\n"
    )


def test_it_keeps_every_contract(bitrl: Call):
    done = bitrl("plugin", "check", "bitrl_example")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith(" checks, 0 failed")


def test_its_own_tests_pass(environment: dict[str, str], tmp_path: Path):
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    alone = {**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins of pytest that it does not use
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

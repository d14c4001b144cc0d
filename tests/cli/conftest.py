"""Calling the command line from tests, and installing plugins for a test alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from bitrl.cli import main


@attrs.frozen
class Outcome:
    """What a command did: its exit code and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def bitrl(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Call the command line in this process: `bitrl("run", "--steps", "10")`."""
    monkeypatch.delenv("BITRL_DEBUG", raising=False)

    def call(*args: object) -> Outcome:
        capfd.readouterr()
        stdout = os.dup(1)
        try:
            with pytest.raises(SystemExit) as stopped:
                main([str(arg) for arg in args])
        finally:
            os.dup2(stdout, 1)  # a command with --json sends fd 1 to stderr for good
            os.close(stdout)
        captured = capfd.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., Callable[..., Outcome]]:
    """Install plugin modules in a folder of their own, and get the command line of a process that sees them."""

    def install(**modules: str) -> Callable[..., Outcome]:
        site = tmp_path / "site"
        for name, source in modules.items():
            info = site / f"{name}-1.0.dist-info"
            info.mkdir(parents=True)
            (site / f"{name}.py").write_text(source)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[bitrl]\n{name} = {name}\n")

        def call(*args: object) -> Outcome:
            done = subprocess.run(
                [sys.executable, "-c", "from bitrl.cli import main; main()", *map(str, args)],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(site)},
                cwd=tmp_path,
            )
            return Outcome(done.returncode, done.stdout, done.stderr)

        return call

    return install


@pytest.fixture
def quick_run(tmp_path: Path) -> list[str]:
    """The arguments of a run that takes a second."""
    out = str(tmp_path / "run")
    components = ["run", "--backbone", "mlp", "--serializer", "vector", "--steps", "128", "--out", out]
    options = ["run.eval_episodes=2", "run.num_envs=4", "run.checkpoint_every=1", "algo.rollout_steps=64"]
    return [*components, *(word for option in options for word in ("-o", option))]

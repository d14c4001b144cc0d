"""Which versions a run records."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import bitrl
from bitrl.core.runs.provenance import versions


def test_every_distribution_of_an_imported_module_is_there_in_order() -> None:
    found = versions()
    assert list(found)[:3] == ["python", "platform", "machine"]
    assert list(found)[3:] == sorted(list(found)[3:])
    owners = metadata.packages_distributions()
    imported = {name.partition(".")[0] for name in sys.modules}
    names = {name for module in imported for name in owners.get(module, ())}
    assert {key: found[key] for key in list(found)[3:]} == {
        re.sub(r"[-_.]+", "-", name).lower(): metadata.version(name) for name in names
    }


def test_a_package_that_is_named_is_there_and_one_that_is_not_installed_is_left_out() -> None:
    found = versions(["ruff", "no-such-distribution"])
    assert found["ruff"] == metadata.version("ruff")
    assert "no-such-distribution" not in found


@pytest.mark.parametrize(
    ("env", "package"), [("HalfCheetah-v5", "mujoco"), ("BabyAI-GoToRedBall-v0", "minigrid"), ("CartPole-v1", "cffi")]
)
def test_a_run_records_what_its_environment_brought(tmp_path: Path, env: str, package: str) -> None:
    pytest.importorskip(package)
    options = {"algo.rollout_steps": 8, "run.num_envs": 2, "run.eval_episodes": 0}
    backbone, serializer = ("bitnet", "grid") if package == "minigrid" else ("mlp", None)
    bitrl.run(env, backbone=backbone, serializer=serializer, steps=8, out=tmp_path / "run", options=options)
    recorded = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["provenance"]["versions"]
    for name in (package, "bitrl", "numpy", "gymnasium"):
        assert recorded[name] == metadata.version(name)


def test_a_distribution_installed_meanwhile_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late_module.py").write_text("")
    assert "late-one" not in versions()
    info = tmp_path / "Late_One-1.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("late_module.py,,\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Late_One\nVersion: 1.5\n\nVersion: 3 of its readme\n")
    importlib.import_module("late_module")
    assert versions()["late-one"] == "1.5"
    (info / "METADATA").write_text("")  # as an uninstallation leaves it that was stopped
    assert "late-one" not in versions()

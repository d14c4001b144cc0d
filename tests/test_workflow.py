"""The files that other machines read (CI, pre-commit, wheels) say the same as pyproject.toml and name what is there."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_the_matrix_has_the_python_versions_of_the_classifiers():
    classifiers = "\n".join(PYPROJECT["project"]["classifiers"])
    versions = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == versions
    assert PYPROJECT["project"]["requires-python"] == f">={versions[0]}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + versions[0].replace(".", "")
    assert PYPROJECT["tool"]["mypy"]["python_version"] == versions[0]


def test_wheels_are_built_once_for_the_oldest_python():
    oldest = "cp" + PYPROJECT["project"]["requires-python"].removeprefix(">=").replace(".", "")
    assert PYPROJECT["tool"]["cibuildwheel"]["build"].startswith(oldest + "-")
    assert f'"py_limited_api": "{oldest}"' in (ROOT / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("action", sorted({step["uses"] for step in STEPS if "uses" in step}))
def test_an_action_is_pinned_to_a_major_version(action: str):
    assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)?", action)


def test_what_the_workflow_runs_is_there():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    run = "\n".join(step["run"] for step in STEPS if "run" in step)
    asked = set(re.findall(r"^make (\w+)", run, re.MULTILINE))
    assert asked
    assert asked <= targets
    paths = re.findall(r"\btests/[\w/.]+", run)
    assert paths
    assert all((ROOT / path).exists() for path in paths)


def test_hooks_are_local_and_use_the_pinned_tools():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        program = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert program in ("git", "python") or f"\n{program}==" in pins

"""The folders, the package list and the import names are one and the same thing, and what is installed is whole."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bitrl import _engine

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pip install .` fills it, with the engine that has been built already."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    leave_out = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    for name in ("core", "plugins", "cli", "csrc", "src", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=leave_out)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for command in (["build_py", "--build-lib"], ["dist_info", "--output-dir"]):
        done = subprocess.run(
            [sys.executable, "setup.py", "--quiet", *command, site], cwd=source, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    shutil.copy(_engine.__file__, site / "bitrl")
    return site


def python(code: str, site: Path, cwd: Path) -> str:
    """What `code` prints in a Python that is started in `cwd` and finds what is installed in `site`."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_in_the_clones_root_finds_the_installed_package_whole(installed: Path):
    code = """
import importlib.util, json, sys
import bitrl, bitrl.cli, bitrl.testing
from bitrl.plugins.backbones.engine import engine
for name in bitrl.__all__:
    getattr(bitrl, name)
ours = [name for name in sys.modules if name.partition(".")[0] == "bitrl" and name != "bitrl._engine.lib"]
print(json.dumps({name: importlib.util.find_spec(name).origin for name in ours}))
"""
    found = json.loads(python(code, installed, ROOT))
    assert {"bitrl", "bitrl.cli", "bitrl.core.registry", "bitrl.testing", "bitrl._engine"} <= set(found)
    for name, file in found.items():
        assert Path(file).is_relative_to(installed), f"{name} is not the installed one"


def test_commands_in_the_clones_root_find_the_installed_components(installed: Path):
    code = "from bitrl.cli import main; main(['list', '--json'])"
    listed = json.loads(python(code, installed, ROOT))
    assert listed["problems"] == []
    assert {row["name"] for row in listed["backbones"]} >= {"bitnet", "int8", "int4", "mlp"}


def test_what_is_installed_has_one_top_level_name(installed: Path, tmp_path: Path):
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"bitrl"}
    code = "import importlib.util as u; print([u.find_spec(n) for n in ('core', 'plugins', 'cli', 'csrc')])"
    assert python(code, installed, tmp_path).strip() == "[None, None, None, None]"


def test_the_version_stands_in_one_place(installed: Path, tmp_path: Path):
    import bitrl

    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    assert importlib.metadata.version("bitrl") == bitrl.__version__, "the environment is stale: `make` installs anew"
    assert [path.name for path in installed.glob("*.dist-info")] == [f"bitrl-{bitrl.__version__}.dist-info"]
    newest = re.search(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == bitrl.__version__
    code = """
import sys
from bitrl.cli import main
try:
    main(["--version"])
except SystemExit:
    print([m for m in ("torch", "numpy", "gymnasium", "pluggy", "importlib.metadata") if m in sys.modules])
"""
    assert python(code, installed, tmp_path).splitlines() == [f"bitrl {bitrl.__version__}", "[]"]


def test_an_extra_for_all_and_every_extra_is_known():
    extras = PROJECT["project"]["optional-dependencies"]
    asked = {name for lines in extras.values() for line in lines for name in re.findall(r"bitrl\[([\w,]+)\]", line)}
    assert {name for names in asked for name in names.split(",")} <= set(extras)
    everything = {name for line in extras["all"] for name in re.search(r"bitrl\[([\w,]+)\]", line)[1].split(",")}
    assert everything == set(extras) - {"all", "bench", "dev", "docs", "fuzz", "ray"}


def test_every_folder_of_code_is_in_the_package_list():
    folders = {"core": "bitrl.core", "plugins": "bitrl.plugins", "cli": "bitrl.cli"}
    found = {"bitrl", "bitrl.testing", "bitrl.example"}
    for folder, name in folders.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            if (folder, *parts[:1]) != ("core", "testing"):
                found.add(".".join((name, *parts)))
    assert set(SETUPTOOLS["packages"]) == found


@pytest.mark.parametrize("name", ["core", "plugins", "cli", "csrc"])
def test_nothing_of_ours_is_importable_under_a_bare_name(name, tmp_path):
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert answer.stdout.strip() == "None"


def test_import_bitrl_is_light(tmp_path):
    code = (
        "import sys, bitrl; print([m for m in ('torch', 'numpy', 'gymnasium', 'click', 'pluggy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_public_names_exist():
    import bitrl

    for name in bitrl.__all__:
        assert getattr(bitrl, name) is not None
    assert sorted(bitrl._MODULE_OF) == sorted(bitrl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        bitrl.nonsense  # noqa: B018


def test_every_dependency_is_imported_somewhere():
    text = "".join(
        path.read_text()
        for folder in ("src", "core", "plugins", "cli", "csrc")
        for path in (ROOT / folder).rglob("*.py")
    )
    for requirement in PROJECT["project"]["dependencies"]:
        name = requirement.split(">")[0].replace("-", "_")
        assert f"import {name}" in text or f"from {name}" in text or name == "cffi", f"{name} is required but not used"

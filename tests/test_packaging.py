"""The folders, the package list and the import names are one and the same thing."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


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
    assert bitrl.__version__ == PROJECT["project"]["version"]
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        bitrl.nonsense  # noqa: B018


def test_every_dependency_is_imported_somewhere():
    text = "".join(
        path.read_text()
        for folder in ("bitrl", "core", "plugins", "cli", "csrc")
        for path in (ROOT / folder).rglob("*.py")
    )
    for requirement in PROJECT["project"]["dependencies"]:
        name = requirement.split(">")[0].replace("-", "_")
        assert f"import {name}" in text or f"from {name}" in text or name == "cffi", f"{name} is required but not used"

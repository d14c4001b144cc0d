"""What README and docs/ call by its dotted name in Python is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = sorted({name for page in PAGES for name in re.findall(r"`(bitrl(?:\.\w+)+)", page.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name):
    module, *attributes = name.split(".")
    found = importlib.import_module(module)
    for attribute in attributes:
        module = f"{module}.{attribute}"
        found = getattr(found, attribute, None) or importlib.import_module(module)
    assert found is not None

"""Loading in a process of its own, from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitrl.plugins.backbones.benchmark import footprint
from bitrl.plugins.backbones.language_model import starter_path


def test_modules_of_the_users_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('another json')")
    monkeypatch.chdir(tmp_path)
    found = footprint.measure(starter_path(), "ternary", "scalar", 1, 4)
    assert found["load_seconds"] > 0
    assert 10 < found["peak_rss_mb"] < 500
    assert found["torch_imported"] is False

"""A study that was left alone, made once, and few resamples: tests of intervals have their own number."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_studies import go

from bitrl.core.studies import statistics


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("study") / "undisturbed"
    go(directory)
    return directory


@pytest.fixture(autouse=True)
def _few_resamples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.module.__name__ != "test_statistics":
        monkeypatch.setattr(statistics, "RESAMPLES", 100)

"""Small instances of the benchmarks of generating: who generates and who learns agree; costs are counted right."""

import importlib
from pathlib import Path

import pytest
from tiny_models import TinyModel

from bitrl.plugins.backbones.engine.engine import Engine

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def tiny(folder: Path, weights: str | None) -> Path:
    return TinyModel(width=48, ffn=80, heads=4, kv_heads=2, blocks=2, weights=weights, vocabulary=270).write(
        folder / "model.gguf"
    )


@pytest.mark.parametrize(
    ("weights", "format"), [("F32", "fp32"), ("F32", "bf16"), ("F32", "int8"), ("F32", "int4"), (None, "ternary")]
)
def test_who_generates_and_who_learns_agree(benchmarks, tmp_path: Path, weights: str | None, format: str) -> None:
    engine = Engine(tiny(tmp_path, weights), format, threads=1)
    found = importlib.import_module("zero_mismatch").mismatch(engine, 9, 32)
    assert found["tokens"] == 9 * 32
    assert found["largest"] <= 1e-5


def test_costs_of_a_token(benchmarks, tmp_path: Path) -> None:
    generation = importlib.import_module("generation")
    engine = Engine(tiny(tmp_path, "F32"), "fp32", threads=1)
    engine.generate([[1]], 1)  # the head is read, too
    multiplied, weights, kept = generation.costs(engine, prompt=8, new=5)
    assert multiplied == 2 * (48 * 48 * 2 + 48 * 24 * 2 + 3 * 48 * 80) + 270 * 48
    assert weights >= 4 * multiplied
    assert kept == 2 * 2 * 2 * 16 * 8 * (2 + 8 / generation.GROUP)  # blocks, k and v, heads, their columns, float64


def test_everyone_is_measured(benchmarks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = importlib.import_module("generation")
    monkeypatch.setattr(generation, "LIMIT_SECONDS", 1e-3)
    found = generation.measure(tiny(tmp_path, "F32"), {}, sequences=5, prompt=3, new=4, threads=1, rounds=1)
    assert set(found["tokens_per_second"]) == set(generation.FORMATS) == set(found["fraction_of_limit"])
    assert found["full_precision"] in ("bf16", "fp32")
    assert found["int8_to_full_precision"] > 0
    assert found["transformers"] is None

"""The directions of numbers: found on texts with other numbers, they tell numbers that no state had."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitrl.plugins.backbones import TernaryOptions
from bitrl.plugins.backbones.directions import written
from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.plugins.backbones.tools import number_directions as module
from bitrl.plugins.backbones.tools.number_directions import number_directions, others
from bitrl.plugins.backbones.tools.ridge import r_squared

TEXTS = [f'"x1": e-2. {x:.3f} {-x:.3f} 0.000' for x in np.linspace(0, 0.05, 60)]


def test_only_numbers_with_decimals_are_others_and_known_as_they_are_written():
    texts = ['{"a1": 0.25, "b": -1.5, "c": 3}', '{"a1": 0.75, "b": 90.0, "c": null}'] * 200
    found, values = others(texts)
    number = r"(-?\d+\.\d{%d})"
    for text, row, c in zip(found, values, ("3", "null") * 200, strict=True):
        match = re.fullmatch(rf'{{"a1": {number % 2}, "b": {number % 1}, "c": {c}}}', text)
        assert match, text
        np.testing.assert_array_equal(row, [float(match[1]), float(match[2]), np.nan])
    for column, largest in ((0, 2), (1, 90)):  # of all sizes, and both signs
        assert 0.9 * largest < np.abs(values[:, column]).max() <= largest
        assert (np.abs(values[:, column]) < largest / 20).mean() > 0.1
        assert 0.3 < (values[:, column] < 0).mean() < 0.7
    assert others(texts)[0] == found


def test_four_directions_tell_numbers_of_all_sizes_wherever_they_stand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "NUMBERS", 3000)
    options = TernaryOptions(layers=1, pooling="field", cache_mb=0)
    directions = number_directions(LanguageModel(options, 3), TEXTS)
    assert directions is not None
    assert directions.shape == (4, 256)
    random = np.random.default_rng(7)
    numbers = random.uniform(-1.5, 1.5, (1200, 3))
    texts = [f'"x1": e-2. {a:.3f} {b:.3f} {c:.3f}' for a, b, c in numbers]
    reader = LanguageModel(TernaryOptions(layers=1, pooling="field", directions=written(directions)), 3)
    features = reader.encode(texts).astype(np.float64)
    assert features.shape == (1200, 12)
    found = [
        r_squared(features[:, 4 * i : 4 * i + 4], numbers[:, [i]])[0] for i in range(3)
    ]  # of its own features alone
    assert min(found) > 0.98


def test_a_model_that_reads_all_numbers_alike_has_none():
    class Blind:
        engine = SimpleNamespace(width=8)

        def encode(self, texts):
            return np.ones((len(texts), 24), np.float32)

    blind: Any = Blind()
    assert number_directions(blind, TEXTS) is None


def test_texts_without_decimals_have_none():
    assert number_directions(LanguageModel(TernaryOptions(layers=1, pooling="field"), 2), ["3 4", "5 6"]) is None

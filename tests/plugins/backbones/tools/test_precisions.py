"""The precisions of a language model: how weights are rounded, which models are a pair, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import bitrl
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.catalogue import packaged
from bitrl.plugins.backbones.language_model import STARTER, TWIN
from bitrl.plugins.backbones.tools.precisions import (
    TRAINED,
    UNTRAINED,
    epsilon,
    precisions_of,
    rounding,
    to_bits,
    towards,
)

TEXTS = ['{"cart_position": 0.1, "cart_velocity": -0.2}', '{"cart_position": -0.9, "cart_velocity": 1.5}']
SMALL = {"layers": 1, "threads": 1}


@pytest.fixture(scope="module")
def ladder():
    return precisions_of(bitrl.load_backbone("bitnet", **SMALL))


def test_the_epsilon_of_a_matrix_by_hand():
    weights = np.float32([[4, -4, 1, 0]])  # mean |w| = 2.25: ternary 2.25·(1, −1, 0, 0)
    rounded = rounding("ternary")(weights)
    np.testing.assert_allclose(rounded, [[2.25, -2.25, 0, 0]])
    each, overall = epsilon(iter([("blk.0.attn_q.weight", rounded, weights)]))
    assert each == {"blk.0.attn_q": pytest.approx(np.sqrt((1.75**2 * 2 + 1) / 33))}
    assert overall == each["blk.0.attn_q"]
    two = [
        ("a.weight", np.float32([[0.0]]), np.float32([[3.0]])),
        ("b.weight", np.float32([[4.0]]), np.float32([[4.0]])),
    ]
    assert epsilon(iter(two)) == ({"a": 1, "b": 0}, pytest.approx(0.6))


def test_rounding_to_bits_by_hand():
    weights = np.float32([[7, -3.4, 0.6, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(to_bits(4)(weights), [[7, -3, 1, 0], [0, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(to_bits(2)(weights), [[7, 0, 0, 0], [0, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(to_bits(8)(weights), rounding("int8")(weights), atol=1e-6)
    np.testing.assert_allclose(towards(0.25, to_bits(4))(weights)[0], [7, -3.3, 0.7, 0], atol=1e-6)


def test_the_starter_pair_is_known_and_its_twin_is_full_precision(ladder):
    assert ladder.reference.summary.startswith("starter-fp16")
    assert [each.name for each in ladder.precisions] == ["bf16", "int8", "int4", UNTRAINED, TRAINED]
    assert (ladder.run, ladder.run_own_training, ladder.notes) == (TRAINED, True, ())
    assert [each.own_training for each in ladder.precisions] == [False] * 4 + [True]
    rounded = [each.overall for each in ladder.precisions[:4]]
    assert 0 < rounded[0] < rounded[1] < rounded[2] < rounded[3] < 1
    assert set(ladder.reference.epsilon.values()) == {0.0}
    names = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}
    assert all({*each.epsilon} == {f"blk.0.{name}" for name in names} for each in ladder.precisions)
    floats = precisions_of(bitrl.load_backbone("int8", **SMALL))
    assert (floats.run, floats.run_own_training) == ("int8", False)
    assert [each.name for each in floats.precisions] == [each.name for each in ladder.precisions]


def test_precisions_read_as_the_backbones_of_a_run_do(ladder):
    opened = {each.name: each.open() for each in ladder.precisions}
    for name, backbone in (("int4", "int4"), ("bf16", "bf16"), (TRAINED, "bitnet")):
        features = bitrl.load_backbone(backbone, **SMALL).encode(TEXTS)
        np.testing.assert_array_equal(opened[name].encode(TEXTS), features)
        np.testing.assert_allclose(opened[name].after_blocks(TEXTS)[:, -1], features, atol=1e-6)


def test_weights_alone_are_put_into_the_reference(ladder):
    exact = ladder.reference.open().encode(TEXTS)
    steps = {each.name: each for each in ladder.steps}
    errors = {
        name: float(np.linalg.norm(steps[name].open().encode(TEXTS) - exact))
        for name in ("rounded, 3 bits", "rounded, 8 bits", "towards ternary, 1 of the way")
    }
    assert errors["rounded, 8 bits"] < errors["rounded, 3 bits"] < errors["towards ternary, 1 of the way"]
    whole, half = steps["towards ternary, 1 of the way"].overall, steps["towards ternary, 0.125 of the way"].overall
    assert half == pytest.approx(whole / 8, rel=1e-3)
    assert whole == pytest.approx(ladder.precisions[3].overall, rel=1e-6)


def test_a_model_without_a_pair(tmp_path):
    alone = tmp_path / "own.gguf"
    alone.symlink_to(packaged(STARTER))
    backbone = bitrl.load_backbone("bitnet", str(alone), **SMALL)
    with pytest.raises(UsageError, match=r"holds ternary weights, and no full-precision twin .*twin.MODEL"):
        precisions_of(backbone)
    assert precisions_of(backbone, str(packaged(TWIN))).run_own_training
    with pytest.raises(UsageError, match="holds ternary weights, as the run's model does"):
        precisions_of(backbone, str(packaged(STARTER)))
    floats = tmp_path / "floats.gguf"
    floats.symlink_to(packaged(TWIN))
    found = precisions_of(bitrl.load_backbone("bf16", str(floats), **SMALL))
    assert [each.name for each in found.precisions] == ["bf16", "int8", "int4", UNTRAINED]
    assert "no ternary model trained beside" in found.notes[0]
    with pytest.raises(UsageError, match="holds floats, as the run's model does"):
        precisions_of(bitrl.load_backbone("bf16", str(floats), **SMALL), str(packaged(TWIN)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"width": 4}, "has no language model"),
        ("bitnet", {**SMALL, "lora_rank": 2}, "learned adapters"),
        ("bitnet", {**SMALL, "model": "random:starter"}, "no full-precision twin"),
    ],
)
def test_what_cannot_be_compared_is_refused(name, options, message, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=message):
        precisions_of(bitrl.load_backbone(name, **options))


def test_a_twin_of_another_shape_is_refused(tmp_path):
    from tiny_models import TinyModel

    other = TinyModel(width=128, ffn=256, blocks=1, weights="F16").write(tmp_path / "other.gguf", "F16")
    with pytest.raises(UsageError, match="is no twin of the run's model"):
        precisions_of(bitrl.load_backbone("bitnet", **SMALL), str(other))

"""The starter model's shape with random weights, read back by gguf's own reader."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from tiny_models import TinyModel

import bitrl
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import catalogue
from bitrl.plugins.backbones.catalogue import resolve
from bitrl.plugins.backbones.files.model_file import ModelFile, seal
from bitrl.plugins.backbones.language_model import starter_path

TEXTS = ["x=0.031 v=-0.520", "red ball 2 ahead", ""]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_only_the_weights_are_random() -> None:
    ours, original = gguf.GGUFReader(resolve("random:starter")), gguf.GGUFReader(starter_path())
    assert [(t.name, t.tensor_type, list(t.shape)) for t in ours.tensors] == [
        (t.name, t.tensor_type, list(t.shape)) for t in original.tensors
    ]
    tokens = [reader.fields["tokenizer.ggml.tokens"].contents() for reader in (ours, original)]
    assert tokens[0] == tokens[1]
    for tensor, before in zip(ours.tensors, original.tensors, strict=True):
        if tensor.tensor_type.name == "F32":
            assert (np.asarray(tensor.data) == 1).all()
        elif tensor.tensor_type.name == "TQ2_0":
            weights, old = (dequantize(each.data, each.tensor_type) for each in (tensor, before))
            values, counts = np.unique(np.sign(weights), return_counts=True)
            assert values.tolist() == [-1, 0, 1]
            assert counts / counts.sum() == pytest.approx([1 / 3] * 3, abs=0.01)
            assert np.abs(weights).max() == np.abs(old).max(), "the original's scale"
            assert abs(np.corrcoef(weights.ravel(), old.ravel())[0, 1]) < 0.02
        else:
            assert np.asarray(tensor.data, np.float32).std() == pytest.approx(
                np.asarray(before.data, np.float32).std(), rel=0.02
            )


def test_a_seed_is_one_model_and_another_seed_another() -> None:
    first = bitrl.load_backbone("bitnet", model="random:starter@1")
    features = first.encode(TEXTS)
    resolve("random:starter@1").unlink()
    assert np.array_equal(bitrl.load_backbone("bitnet", model="random:starter@1").encode(TEXTS), features)
    other = bitrl.load_backbone("bitnet", model="random:starter@2")
    assert other.identity != first.identity
    assert not np.allclose(other.encode(TEXTS), features)
    assert np.isfinite(features).all()


@pytest.mark.parametrize("name", ["random:", "random:starter@-1", "random:nothing", "random:STARTER"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        resolve(name)


def test_another_versions_original_has_copies_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy was kept by name alone, so that an update of the starter model did not reach it."""
    before = resolve("random:starter")
    later = TinyModel(blocks=1).write(tmp_path / "starter.gguf", "TQ2_0", seal=True)
    seal(later)
    monkeypatch.setattr(catalogue, "packaged", lambda file: later)
    after = resolve("random:starter")
    assert ModelFile(after).metadata()["tokenizer.ggml.tokens"] == ModelFile(later).metadata()["tokenizer.ggml.tokens"]
    assert ModelFile(after).verify() == "sealed"
    assert before.exists()


def test_what_lies_in_the_working_directory_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "starter").mkdir()
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("random:starter").is_file()
    with pytest.raises(UsageError, match="random:docs: only packaged models have random copies: random:starter"):
        resolve("random:docs")

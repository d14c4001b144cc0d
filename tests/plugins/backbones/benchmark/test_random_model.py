"""Random models: their shapes are the published ones, others read their files, and their weights are sane."""

import errno
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import attrs
import gguf
import numpy as np
import pytest

from bitrl.core.errors import RunFailed, UsageError
from bitrl.plugins.backbones.benchmark import random_model as module
from bitrl.plugins.backbones.benchmark.random_model import (
    SHAPES,
    RandomShape,
    random_model,
    random_shape,
    write_random_model,
)
from bitrl.plugins.backbones.engine.engine import Engine


def small(name: str) -> RandomShape:
    """The shape with one block and few tokens, the widest one narrower."""
    shape = attrs.evolve(SHAPES[name], blocks=1, vocabulary=64)
    return attrs.evolve(shape, width=512, ffn=1024, heads=8, kv_heads=2) if shape.width > 1024 else shape


@pytest.mark.parametrize(("name", "parameters"), [("bitnet-2b-4t", 2_412_820_480), ("smollm2-135m", 134_515_008)])
def test_shapes_have_as_many_parameters_as_was_published(name, parameters):
    assert sum(int(np.prod(shape)) for _, shape, _ in SHAPES[name].tensors) == parameters


@pytest.mark.parametrize("name", SHAPES)
def test_the_gguf_package_reads_the_same_tensors_and_sane_weights(tmp_path, name):
    shape = small(name)
    write_random_model(tmp_path / "m.gguf", shape)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert [*read] == [tensor for tensor, _, _ in shape.tensors]
    for tensor, dimensions, kind in shape.tensors:
        assert read[tensor].tensor_type.name == kind
        assert tuple(reversed(read[tensor].shape.tolist())) == dimensions
        values = gguf.dequantize(read[tensor].data, read[tensor].tensor_type).astype(np.float64).ravel()
        if kind == "F32":
            assert 0.9 <= values.min() <= values.max() <= 1.1
            continue
        wanted = dimensions[-1] ** -0.5 if tensor != "token_embd.weight" else 1.0
        assert values.std() == pytest.approx(wanted, rel=0.05), tensor
        assert abs(values.mean()) < 0.1 * wanted
        if kind == "TQ2_0":
            levels, counts = np.unique(values, return_counts=True)
            assert len(levels) == 3
            assert levels[1] == 0
            assert counts == pytest.approx(len(values) / 3, rel=0.1)


@pytest.mark.parametrize("shape", [*map(small, SHAPES), random_shape("256x512x2")], ids=[*SHAPES, "256x512x2"])
def test_the_engine_runs_them(tmp_path, shape):
    write_random_model(tmp_path / "m.gguf", shape)
    engine = Engine(tmp_path / "m.gguf", threads=1)
    assert (engine.width, engine.blocks, engine.vocabulary) == (shape.width, shape.blocks, shape.vocabulary)
    features = engine.encode([[1, 2, 3], [4]])
    assert 0.1 < features.std() < 100


def test_chunks_join_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 1 << 14)
    write_random_model(tmp_path / "m.gguf", small("starter"))
    monkeypatch.undo()
    write_random_model(tmp_path / "whole.gguf", small("starter"))
    assert (tmp_path / "m.gguf").stat().st_size == (tmp_path / "whole.gguf").stat().st_size
    assert np.isfinite(Engine(tmp_path / "m.gguf").encode([[1, 2]])).all()


def test_bytes_are_those_of_the_tensors(tmp_path):
    shape = small("smollm2-135m")
    write_random_model(tmp_path / "m.gguf", shape)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert shape.bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)


@pytest.mark.parametrize(
    "name", ["", "bitnet", "256x512", "0x256x1", "256x0x1", "256x256x0", "300x256x1", "256x300x1", "-256x256x1"]
)
def test_unknown_shapes_are_named(name):
    with pytest.raises(UsageError, match="random:"):
        random_shape(name)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stop(path: Path) -> None:
        assert path.is_file()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), random_model(random_shape("256x256x1")) as path:
        stop(path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10, 9, 1 << 20))
    with pytest.raises(RunFailed, match="TMPDIR"), random_model(random_shape("256x256x1")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(path: Path, shape: RandomShape, **given: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_random_model", full)
    with pytest.raises(RunFailed, match="no space left"), random_model(random_shape("256x256x1")):
        pass
    assert list(tmp_path.iterdir()) == []

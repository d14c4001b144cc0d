"""The reader's view of a file, the seal, and what a user is told about damaged files."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from tiny_models import TinyModel

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import HEADER_KEY, TENSOR_KEY, ModelFile, ModelFileError, seal


@pytest.fixture
def small() -> TinyModel:
    return TinyModel(width=16, ffn=16, heads=2, kv_heads=1, blocks=1, vocabulary=260)


@pytest.fixture
def sealed(small: TinyModel, tmp_path: Path) -> Path:
    path = small.write(tmp_path / "sealed.gguf", seal=True)
    seal(path)
    return path


def test_reads_what_the_gguf_package_wrote(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "bitnet")
    values = {
        "uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 2**32 - 1, "int32": -(2**31),
        "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 1 / 3, "bool": True, "string": "süß",
        "array": ["a", "", "ü"],
    }  # fmt: skip
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.add_array("test.numbers", [1, 2, 3])
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((3, 256), np.float16)}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    packed = gguf.quantize(np.ones((4, 256), np.float32), gguf.GGMLQuantizationType.TQ2_0)
    writer.add_tensor("c", packed, raw_dtype=gguf.GGMLQuantizationType.TQ2_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = ModelFile(path)
    metadata = file.metadata()
    for kind, value in values.items():
        assert metadata[f"test.{kind}"] == value
        assert type(metadata[f"test.{kind}"]) is type(value)
    assert metadata["test.numbers"].tolist() == [1, 2, 3]
    oracle = gguf.GGUFReader(path)
    assert set(metadata) == {name for name in oracle.fields if not name.startswith("GGUF.")}
    assert file.data_offset == oracle.data_offset
    for tensor, other in zip(file.tensors(), oracle.tensors, strict=True):
        assert tensor.name == other.name
        assert tensor.type == other.tensor_type.name
        assert tensor.shape == tuple(reversed(other.shape.tolist()))
        assert tensor.bytes == other.n_bytes


def test_a_sealed_file_verifies(sealed: Path, small: TinyModel, tmp_path: Path) -> None:
    assert ModelFile(sealed).verify() == "sealed"
    assert ModelFile(sealed).verify(largest=10) == "header"
    assert ModelFile(small.write(tmp_path / "plain.gguf")).verify() == "unsealed"
    before = sealed.read_bytes()
    seal(sealed)
    assert sealed.read_bytes() == before


def test_any_flipped_bit_or_lost_tail_is_an_error_naming_the_file(sealed: Path, tmp_path: Path) -> None:
    good = sealed.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.gguf"
    for i in range(300):
        damaged = bytearray(good)
        if i % 4 == 0:
            del damaged[rng.integers(len(good)) :]
        else:
            damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"damaged\.gguf ") as caught:
            Engine(path)
        assert "\n" not in str(caught.value)


def test_every_bit_of_the_seal_itself_counts(sealed: Path, tmp_path: Path) -> None:
    good = sealed.read_bytes()
    path = tmp_path / "damaged.gguf"
    for key in (TENSOR_KEY, HEADER_KEY):
        start = good.index(key.encode())
        for at in range(start, start + len(key) + 12 + 64):
            damaged = bytearray(good)
            damaged[at] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(ModelFileError):
                Engine(path)


def test_an_unfilled_seal_is_an_error(small: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="checksum"):
        Engine(small.write(tmp_path / "unsealed.gguf", seal=True))
    with pytest.raises(ValueError, match=TENSOR_KEY):
        seal(small.write(tmp_path / "plain.gguf"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"", "not a GGUF file"), (b"hello, this is a text file, not a model", "not a GGUF file")],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=words) as caught:
        Engine(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, UsageError)
    with pytest.raises(ModelFileError, match="is not a file"):
        ModelFile(tmp_path)

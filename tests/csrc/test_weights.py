"""Every weight type against the gguf package's dequantisation, bit for bit; as embedding and matrices of a model."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_models import TinyModel, gguf_bytes, i2_s

from bitrl.cli.model import model as model_command
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError

SCALES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "TQ1_0": [52], "TQ2_0": [64],
}  # fmt: skip
KINDS = ("F32", "F16", "BF16", *SCALES)
"""Where the half-precision scales of a block stand."""


def random_bytes(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Any bytes at all, [rows, bytes], with finite scales: tiny, negative, zero and large ones."""
    rng = np.random.default_rng(seed)
    number = gguf.GGMLQuantizationType[kind]
    if kind in ("F32", "F16", "BF16"):
        values = rng.normal(size=(rows, columns)) * 10.0 ** rng.integers(-6, 4, (rows, columns))
        return gguf.quantize(values.astype(np.float32), number).view(np.uint8)
    block, size = gguf.GGML_QUANT_SIZES[number]
    out = rng.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scales = rng.choice(np.array([1e-7, 6e-5, 0.0, -0.0, -0.3, 0.7, 1.0, 900.0], np.float16), len(out))
        out[:, at : at + 2] = scales.reshape(-1, 1).view(np.uint8)
    return out.reshape(rows, -1)


def one_tensor(path: Path, kind: int, shape: tuple[int, ...], data: bytes) -> ModelFile:
    path.write_bytes(gguf_bytes({}, [("first", 0, (3,), bytes(12)), ("t", kind, shape, data)]))
    return ModelFile(path)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_gguf_package(tmp_path: Path, kind: str) -> None:
    number = gguf.GGMLQuantizationType[kind]
    for columns in (256, 1280):
        raw = random_bytes(kind, 7, columns)
        want = gguf.dequantize(raw.view({"F32": np.float32, "F16": np.float16}.get(kind, np.uint8)), number)
        file = one_tensor(tmp_path / "t.gguf", number.value, (7, columns), raw.tobytes())
        assert file.tensors()[1] == ("t", kind, (7, columns), raw.size)
        got = file.weights("t")
        assert got.shape == (7, columns)
        np.testing.assert_array_equal(got.view(np.uint32), want.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize(("kind", "block"), [(41, 128), (42, 64), (42, 128)], ids=["Q1_0", "Q2_0", "Bonsai's Q2_0"])
def test_types_that_the_gguf_package_does_not_read(tmp_path: Path, kind: int, block: int) -> None:
    """Spelt out a weight at a time: a sign, or a code of two bits less 1, times the block's scale. Bonsai's publisher
    has blocks of 128 under the number that others have for blocks of 64: only the room that a tensor has tells.
    """
    bits, rng = kind - 40, np.random.default_rng(0)
    codes = rng.integers(0, 2**bits, (6, 512))
    scales = rng.choice(np.array([0.5, -0.25, 3.0], np.float16), (6, 512 // block))
    data = b""
    for row, row_scales in zip(codes.reshape(6, -1, block), scales, strict=True):
        for some, scale in zip(row, row_scales, strict=True):
            whole = sum(int(code) << (bits * i) for i, code in enumerate(some))
            data += scale.tobytes() + whole.to_bytes(block * bits // 8, "little")
    values = 2 * codes - 1 if bits == 1 else codes - 1
    want = values * np.repeat(scales.astype(np.float32), block, axis=1)
    path = tmp_path / "t.gguf"
    for other in ([], [("last", 0, (3,), bytes(12))]):
        path.write_bytes(gguf_bytes({}, [("t", kind, (6, 512), data), *other]))
        np.testing.assert_array_equal(ModelFile(path).weights("t"), want)
        assert ModelFile(path).tensors()[0].type == f"Q{bits}_0"
    path.write_bytes(gguf_bytes({}, [("t", kind, (6, 512), data), ("u", kind, (6, 512), data)])[:-200])
    with pytest.raises(ModelFileError, match="u lies beyond its end"):
        ModelFile(path)


def test_types_are_named_by_name(tmp_path: Path) -> None:
    unknown = r"GGUF does not have \(99\)"
    for kind, words in ((23, "type IQ4_XS, which is not supported; supported are F32"), (99, unknown)):
        with pytest.raises(ModelFileError, match=words):
            one_tensor(tmp_path / "t.gguf", kind, (4,), bytes(64))
    with pytest.raises(ModelFileError, match="t has rows of 100 weights; in type Q4_K they have a multiple of 256"):
        one_tensor(tmp_path / "t.gguf", 12, (2, 100), bytes(512))


def test_a_tensor_may_have_three_dimensions_or_one(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    file = one_tensor(tmp_path / "t.gguf", 0, values.shape, values.tobytes())
    np.testing.assert_array_equal(file.weights("t"), values)
    np.testing.assert_array_equal(file.weights("first"), np.zeros(3))
    with pytest.raises(KeyError):
        file.weights("second")


@pytest.mark.parametrize(("packing", "block"), [("x86", 128), ("arm", 64)])
def test_i2_s_in_both_packings(tmp_path: Path, packing: str, block: int) -> None:
    """The layouts spelt out one weight at a time; rows of 24 straddle blocks."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (2 * block // 8, 24))
    data = bytearray(codes.size // 4)
    for i, code in enumerate(codes.ravel() + 1):
        within = i % block
        data[i // block * (block // 4) + within % (block // 4)] |= int(code) << (6 - 2 * (within // (block // 4)))
    file = one_tensor(tmp_path / "t.gguf", 36, codes.shape, bytes(data) + struct.pack("<f", 0.3) + bytes(28))
    np.testing.assert_array_equal(file.weights("t", packing), codes * np.float32(0.3))
    other = {"x86": "arm", "arm": "x86"}[packing]
    assert not np.array_equal(file.weights("t", other), codes * np.float32(0.3))


def test_an_i2_s_tensor_too_small_for_x86_blocks_names_the_option(tmp_path: Path) -> None:
    codes = np.ones((3, 64))
    file = one_tensor(tmp_path / "t.gguf", 36, codes.shape, i2_s(codes, 2.0, 16))
    assert (file.weights("t", "arm") == 2).all()
    with pytest.raises(ModelFileError, match=r"t in I2_S .*-o backbone\.i2s_packing=arm"):
        file.weights("t")
    with pytest.raises(UsageError, match="known: x86, arm"):
        file.weights("t", "mips")


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_of_every_type(tmp_path: Path, kind: str) -> None:
    model = TinyModel(ffn=128, blocks=1)
    number = gguf.GGMLQuantizationType[kind]
    raw = random_bytes(kind, model.vocabulary, model.width)
    values = ModelFile(model.write(tmp_path / "a.gguf", embedding=(number.value, raw.tobytes())))
    floats = values.weights("token_embd.weight")
    model.write(tmp_path / "b.gguf", embedding=(0, floats.tobytes()))
    texts = [[0, 1, 2, 299], [17]]
    got, want = (Engine(tmp_path / f"{name}.gguf").encode(texts, "none") for name in "ab")
    np.testing.assert_array_equal(got, want)


def test_matrices_of_every_ternary_type(tmp_path: Path) -> None:
    model = TinyModel(ffn=256, blocks=2)
    texts = [[1, 2, 3], [250, 7]]
    want = np.concatenate([model.forward(text)[-1] for text in texts])
    for kind in ("TQ1_0", "TQ2_0", "I2_S", "I2_S on ARM"):
        path = model.write(tmp_path / "model.gguf", kind)
        got = Engine(path, i2s_packing="arm" if kind.endswith("ARM") else "x86").encode(texts, "none")
        assert np.linalg.norm(got - want) < 1e-6 * np.linalg.norm(want), kind


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in SCALES])
def test_scales_that_are_not_finite_are_errors_naming_the_tensor(tmp_path: Path, kind: str) -> None:
    model = TinyModel(ffn=128, blocks=1)
    number = gguf.GGMLQuantizationType[kind]
    raw = random_bytes(kind, model.vocabulary, model.width)
    size = gguf.GGML_QUANT_SIZES[number][1]
    for at in SCALES[kind]:
        for value in (np.nan, np.inf):
            broken = raw.copy()
            row = broken[5].reshape(-1, size)
            row[0, at : at + 2] = np.array([value], np.float16).view(np.uint8)
            path = model.write(tmp_path / "a.gguf", embedding=(number.value, broken.tobytes()))
            with pytest.raises(ModelFileError, match=r"token_embd\.weight is not finite"):
                ModelFile(path).weights("token_embd.weight")
            engine = Engine(path)
            assert np.isfinite(engine.encode([[4, 6]])).all()
            with pytest.raises(ModelFileError, match=r"token_embd\.weight is not finite in row 5"):
                engine.encode([[4, 6], [1, 5, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_can_be_inspected(tmp_path: Path, kind: str) -> None:
    model = TinyModel(ffn=128, blocks=1)
    number = gguf.GGMLQuantizationType[kind]
    raw = random_bytes(kind, model.vocabulary, model.width).tobytes()
    path = model.write(tmp_path / "model.gguf", embedding=(number.value, raw))
    done = CliRunner().invoke(model_command, ["inspect", str(path)])
    assert done.exit_code == 0, done.output
    assert kind in done.output

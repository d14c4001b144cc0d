"""The safetensors container: against the library that defines it, and against files made to break a reader."""

import json
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from safetensors_attacks import ATTACKS, VALID, file_bytes

from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.files.safetensors_file import read_safetensors, read_shards

CORPUS = Path(__file__).parent / "corpus" / "safetensors"


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(3, 5), "b": torch.randn(7).to(torch.bfloat16), "c": torch.randn(2, 3, 4).half(),
        "d": torch.randint(0, 255, (4, 6), dtype=torch.uint8), "e": torch.tensor(1.5), "süß": torch.randn(0, 3),
        "f": torch.randn(2).double(), "g": torch.tensor([True, False]), "h": torch.arange(5),
    }  # fmt: skip
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    found = read_safetensors(path)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].data.read() == tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", ATTACKS)
def test_known_attacks_are_errors_within_a_second(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(ATTACKS[name]())
    began = time.process_time()
    with pytest.raises(ModelFileError) as caught:
        read_safetensors(path)
    assert time.process_time() - began < 1  # CPU time: the promise itself, not how busy the machine is
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize("name", VALID)
def test_odd_but_valid_files_are_read(tmp_path: Path, name: str) -> None:
    data, count = VALID[name]
    (tmp_path / "x.safetensors").write_bytes(data)
    assert len(read_safetensors(tmp_path / "x.safetensors")) == count


def library_reads(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)
    except Exception:
        return False
    return True


def test_mutations_of_the_corpus_never_get_past_the_library_or_crash(tmp_path: Path) -> None:
    """What is read here, the library that defines the format reads too; all else is a ModelFileError."""
    rng = random.Random(0)
    corpus = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    assert len(corpus) >= 5
    path, read = tmp_path / "x.safetensors", 0
    for _ in range(3000):
        valid = rng.random() < 0.7
        data = bytearray(rng.choice([data for data, _ in VALID.values()] if valid else corpus))
        for _ in range(1 if valid else rng.randint(1, 4)):
            at = rng.randrange(max(len(data), 1))
            kind = rng.randrange(4)
            if kind == 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            elif kind == 1:
                del data[at : at + rng.randint(1, 8)]
            elif kind == 2:
                data[at:at] = rng.choice([b"0", b"9", b"-", b'"', b"[", b"{", b",", b"1e9", b"\xff", b"null", b"  "])
            else:
                data[:8] = struct.pack("<Q", max(0, len(data) + rng.randint(-40, 2)))
        path.write_bytes(data)
        try:
            found = read_safetensors(path)
        except ModelFileError:
            continue
        read += 1
        assert library_reads(bytes(data)) or any(t.dtype in ("C64", "F8_E8M0") for t in found.values())
    assert read > 20


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map"),
        ({"weight_map": {}}, "weight_map"),
        ({"weight_map": [1]}, "weight_map"),
        ({"weight_map": {"a": "../one.safetensors"}}, "beside"),
        ({"weight_map": {"a": "/etc/passwd"}}, "beside"),
        ({"weight_map": {"a": "sub/one.safetensors"}}, "beside"),
        ({"weight_map": {"a": "..\\one.safetensors"}}, "beside"),
        ({"weight_map": {"a": "one.gguf"}}, "beside"),
        ({"weight_map": {"a": "one.safetensors\0"}}, "beside"),
        ({"weight_map": {"a": 1}}, "beside"),
        ({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}, "not beside it: two"),
        ({"weight_map": {"c": "one.safetensors"}}, "tensor c is in one.safetensors"),
    ],
)
def test_an_index_that_lies_is_an_error(tmp_path: Path, index: Any, message: str) -> None:
    safetensors.torch.save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "one.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=message):
        read_shards(path)


def test_an_index_chooses_among_shards(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "one.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "two.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "two.safetensors", "b": "one.safetensors"}}))
    tensors, shards = read_shards(path)
    assert np.frombuffer(tensors["a"].data.read(), np.float32).tolist() == [0, 0]
    assert np.frombuffer(tensors["b"].data.read(), np.float32).tolist() == [1, 1, 1]
    assert [shard.name for shard in shards] == ["one.safetensors", "two.safetensors"]


def test_what_is_no_regular_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.safetensors")
    for path in (tmp_path / "fifo.safetensors", tmp_path, Path("/dev/zero")):
        with pytest.raises(ModelFileError, match="is not a file"):
            read_safetensors(path)
    with pytest.raises(ModelFileError, match="cannot be read: No such file"):
        read_safetensors(tmp_path / "none.safetensors")


def test_the_corpus_is_what_this_makes() -> None:
    """The fuzzer's seeds are the attacks and odd files that are small; the two must not drift apart."""
    small = {name: make() for name, make in ATTACKS.items()} | {name: data for name, (data, _) in VALID.items()}
    small = {name.replace(" ", "_"): data for name, data in small.items() if len(data) < 1000}
    assert {path.name: path.read_bytes() for path in CORPUS.iterdir()} == small
    assert file_bytes({}) in small.values()

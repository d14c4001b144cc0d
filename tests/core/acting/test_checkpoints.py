"""Checkpoints: what is written is read, and anything else is found out."""

import hashlib
import json
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from bitrl.core.acting import checkpoints
from bitrl.core.acting.checkpoints import Checkpoint, DamagedCheckpoint

ARRAYS = {
    "weights": np.arange(12, dtype=np.float32).reshape(3, 4),
    "step": np.array(7),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 2)),
    "transposed": np.arange(6).reshape(2, 3).T,
}


def test_round_trip(tmp_path):
    path = checkpoints.write(tmp_path / "c", 5, Checkpoint(ARRAYS, {"step": 5, "starts": [{"seed": None}]}))
    read = checkpoints.read(path)
    assert read.meta == {"step": 5, "starts": [{"seed": None}]}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read.arrays[name], array)
        assert read.arrays[name].dtype == array.dtype
        assert read.arrays[name].shape == array.shape


def test_equal_checkpoints_are_equal_files(tmp_path):
    paths = [checkpoints.write(tmp_path / name, 5, Checkpoint(ARRAYS, {"a": 1, "b": 2})) for name in ("x", "y")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_two_newest_are_kept(tmp_path):
    for step in (1, 20, 300, 4000):
        checkpoints.write(tmp_path, step, Checkpoint({"a": np.zeros(1)}, {}))
    assert [int(path.stem) for path in checkpoints.paths(tmp_path)] == [4000, 300]


def test_a_checkpoint_that_training_drops_before_it_is_read_is_not_called_damaged(tmp_path, monkeypatch):
    def save_at(step):
        checkpoints.write(tmp_path, step, Checkpoint({"a": np.full(1, step)}, {"step": step}))

    save_at(1)
    save_at(2)
    real = checkpoints.read

    def slow(path):
        if path.stem.endswith("2"):
            save_at(3)
            save_at(4)
        return real(path)

    monkeypatch.setattr(checkpoints, "read", slow)
    assert [found.meta["step"] for _, found in checkpoints.newest_first(tmp_path)] == [4, 3]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("c"), 5, Checkpoint(ARRAYS, {"step": 5}))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found(written, tmp_path_factory, data):
    whole = bytearray(written.read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("d") / "1.safetensors"
    path.write_bytes(whole)
    try:
        read = checkpoints.read(path)
    except DamagedCheckpoint:
        return
    # A flip that changes nothing that is read (a space of JSON padding) is no damage.
    assert read.meta == {"step": 5}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read.arrays[name], array)


@pytest.mark.parametrize(
    "meta", ["[" * 100_000, "[{}, []]", "[{}, 3]", '[{}, {"a": ' + "[" * 100_000, '[{}, {"a": "|O"}]', "7", 7]
)
def test_a_description_of_nonsense_is_damage(tmp_path, meta):
    array = np.zeros(4, np.float32)
    digest = hashlib.sha256(str(meta).encode() + b"a float32 (4,)" + array.tobytes()).hexdigest()
    path = tmp_path / "1.safetensors"
    path.write_bytes(save({"a": array}, {"bitrl": json.dumps([meta, digest])}))
    with pytest.raises(DamagedCheckpoint):
        checkpoints.read(path)


@pytest.mark.parametrize("depth", [102, 300])
def test_records_that_nest_too_deeply_are_damage(tmp_path, depth):
    path, dtype = tmp_path / "1.safetensors", np.dtype("f4")
    for _ in range(depth):
        dtype = np.dtype([("a", dtype)])
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * depth)
    try:
        path.write_bytes(checkpoints.as_bytes(Checkpoint({"a": np.zeros(1, dtype)}, {})))
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(DamagedCheckpoint, match="nested too deeply"):
        checkpoints.read(path)


def test_metadata_that_nests_too_deeply_is_damage(tmp_path):
    path = tmp_path / "1.safetensors"
    path.write_bytes(save({"a": np.zeros(4, np.float32)}, {"bitrl": "[" * 100_000}))
    with pytest.raises(DamagedCheckpoint):
        checkpoints.read(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_any_cut_is_found(written, tmp_path, length):
    path = tmp_path / "1.safetensors"
    path.write_bytes(written.read_bytes()[:length])
    with pytest.raises(DamagedCheckpoint):
        checkpoints.read(path)


DTYPES = ("bool", "u1", "i1", "i2", "u2", "f2", "i4", "u4", "f4", "f8", "i8", "u8", ">f4", ">i8")


@given(st.lists(st.sampled_from(DTYPES), max_size=6), st.text(max_size=3), st.text(max_size=8))
@settings(max_examples=50, deadline=None)
def test_the_file_is_the_one_that_safetensors_writes(dtypes, name, note):
    shapes = [(), (3,), (0, 2), (2, 3), (1, 1, 5), (7,)]
    arrays = {f"{name}{i}": np.arange(np.prod(shapes[i])).reshape(shapes[i]).astype(d) for i, d in enumerate(dtypes)}
    written = checkpoints.as_bytes(Checkpoint(arrays, {"note": note}))
    header = json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])
    assert written == save(arrays, metadata=header["__metadata__"])


def test_a_checkpoint_is_not_copied_to_be_written(tmp_path):
    saved = Checkpoint({"weights": np.zeros(2**20), "more": np.zeros((2**9, 2**10))}, {})
    tracemalloc.start()
    try:
        checkpoints.write(tmp_path, 1, saved)
        assert tracemalloc.get_traced_memory()[1] < 2**20, "of 12 MB"
    finally:
        tracemalloc.stop()


def test_what_safetensors_has_no_name_for_is_refused():
    with pytest.raises(TypeError, match="arrays of complex128 cannot be saved"):
        checkpoints.as_bytes(Checkpoint({"a": np.zeros(2, complex)}, {}))

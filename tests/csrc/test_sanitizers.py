"""The whole C code under AddressSanitizer and UndefinedBehaviorSanitizer, on good files and on damaged ones."""

import struct
from collections.abc import Callable
from pathlib import Path

import c_programs
import numpy as np
import pytest
from c_programs import build
from tiny_models import TinyModel, gguf_bytes, gguf_string, gguf_value

SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the C programs, compiled with both sanitizers; any finding ends the process."""
    return build(tmp_path_factory.mktemp("sanitized"), *SANITIZED)


@pytest.fixture(scope="module")
def driver(programs: Path) -> Path:
    """driver.c."""
    return programs / "driver"


def run(driver: Path, files: list[Path], *flags: str, timeout: float = 300) -> list[str]:
    """The driver's line for each file."""
    lines = c_programs.run([driver], *flags, *files, timeout=timeout)
    assert len(lines) == len(files)
    return lines


def test_every_kernel_stays_within_its_memory(programs):
    lines = c_programs.run([programs / "kernels_check"])
    assert all(line.endswith("attention 60") for line in lines), lines


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (TinyModel(width=256, ffn=256, blocks=1, context=512), "TQ2_0"),
        (TinyModel(width=256, ffn=256, blocks=1), "TQ1_0"),
        (TinyModel(width=48, ffn=80, heads=4, kv_heads=2, blocks=2), "I2_S"),
    ],
    ids=["tq2_0", "tq1_0", "i2_s"],
)
def test_every_instruction_set_and_thread_count_gives_the_same_bits(driver, tmp_path, model, kind):
    (line,) = run(driver, [model.write(tmp_path / "model.gguf", kind)])
    assert line.startswith("ok "), line


def test_every_format_and_pooling_gives_the_same_bits(driver, tmp_path):
    model = TinyModel(width=48, ffn=36, heads=3, kv_heads=1, blocks=1, weights="F16")
    (line,) = run(driver, [model.write(tmp_path / "model.gguf")], "--thorough")
    assert line.startswith("ok "), line


def test_flipped_bits_and_truncations_never_reach_undefined_behaviour(driver, tmp_path):
    model = TinyModel(width=16, ffn=16, heads=2, kv_heads=1, blocks=1, vocabulary=260)
    good = model.write(tmp_path / "good.gguf").read_bytes()
    rng = np.random.default_rng(0)
    files = []
    for i in range(300):
        damaged = bytearray(good)
        if i % 3 == 0:
            damaged = damaged[: rng.integers(len(good))]
        else:  # half of the flips in the keys and the list of tensors, where the lengths are
            header = i % 3 == 1
            for _ in range(rng.integers(1, 4)):
                at = rng.integers(700 if header else len(good))
                damaged[at] ^= 1 << rng.integers(8)
        files.append(tmp_path / f"{i}.gguf")
        files[-1].write_bytes(damaged)
    lines = run(driver, files)
    assert all(line.startswith(("ok ", "error ")) for line in lines)
    assert sum(line.startswith("error ") for line in lines) > 100
    assert any(line.startswith("ok ") for line in lines)


def test_hostile_headers_are_errors(driver, tmp_path):
    f32 = ("t", 0, (4,), bytes(16))

    def header(tensors: int, keys: int, rest: bytes) -> bytes:
        return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest

    def key(name: bytes, rest: bytes) -> bytes:
        return gguf_string(name) + rest

    huge = 2**63
    array = struct.pack("<I", 9)
    hostile = {
        "empty": b"",
        "not gguf": bytes(64),
        "version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
        "keys 2^63": header(0, huge, bytes(64)),
        "tensors 2^64-1": header(2**64 - 1, 0, bytes(64)),
        "name 2^63": header(0, 1, struct.pack("<Q", huge) + bytes(64)),
        "name 2^64-1": header(0, 1, struct.pack("<Q", 2**64 - 1) + bytes(64)),
        "empty name": header(0, 1, struct.pack("<Q", 0) + bytes(64)),
        "string 2^64-8": header(0, 1, key(b"k", struct.pack("<IQ", 8, 2**64 - 8)) + bytes(64)),
        "array 2^62 u64": header(0, 1, key(b"k", array + struct.pack("<IQ", 10, 2**62)) + bytes(64)),
        "array 2^61 strings": header(0, 1, key(b"k", array + struct.pack("<IQ", 8, 2**61)) + bytes(64)),
        "nested array": header(0, 1, key(b"k", array + struct.pack("<IQ", 9, 1)) + bytes(64)),
        "value type": header(0, 1, key(b"k", struct.pack("<I", 77)) + bytes(64)),
        "twice a key": header(0, 2, key(b"k", gguf_value(1)) * 2 + bytes(64)),
        "twice a tensor": gguf_bytes({}, [f32, f32]),
        "no dimensions": gguf_bytes({}, [("t", 0, (), b"")]),
        "five dimensions": gguf_bytes({}, [("t", 0, (1,) * 5, bytes(4))]),
        "zero dimension": gguf_bytes({}, [("t", 0, (0,), b"")]),
        "product wraps": gguf_bytes({}, [("t", 0, (2**32, 2**32), bytes(64))]),
        "product wraps to 4": gguf_bytes({}, [("t", 0, (2**62 + 1, 4), bytes(64))]),
        "bytes wrap": gguf_bytes({}, [("t", 0, (2**62,), bytes(64))]),
        "beyond the end": gguf_bytes({}, [("t", 0, (4096,), bytes(64))]),
        "unknown type": gguf_bytes({}, [("t", 1000, (4,), bytes(64))]),
        "alignment 0": gguf_bytes({"general.alignment": 0}, [f32]),
        "alignment 2^30": gguf_bytes({"general.alignment": 2**30}, [f32]),
        "alignment 3": gguf_bytes({"general.alignment": 3}, [f32]),
        "alignment text": gguf_bytes({"general.alignment": "32"}, [f32]),
        "nothing inside": gguf_bytes({}, []),
        "another architecture": gguf_bytes({"general.architecture": "llama"}, [f32]),
    }
    misaligned = bytearray(gguf_bytes({}, [f32]))
    misaligned[24 + 8 + 1 + 4 + 8 + 4] = 1
    hostile["misaligned"] = bytes(misaligned)
    files = []
    for i, data in enumerate(hostile.values()):
        files.append(tmp_path / f"{i}.gguf")
        files[-1].write_bytes(data)
    for name, line in zip(hostile, run(driver, files, timeout=60), strict=True):
        assert line.startswith("error "), f"{name}: {line}"


@pytest.mark.parametrize(
    "changes",
    [
        {"block_count": None},
        {"block_count": 0},
        {"block_count": 2**31},
        {"block_count": 5},
        {"block_count": "one"},
        {"embedding_length": 64},
        {"embedding_length": 2**31},
        {"feed_forward_length": 2**31},
        {"feed_forward_length": None},
        {"attention.head_count": 0},
        {"attention.head_count": 5},
        {"attention.head_count_kv": 3},
        {"attention.layer_norm_rms_epsilon": float("nan")},
        {"attention.layer_norm_rms_epsilon": None},
        {"rope.freq_base": float("inf")},
        {"rope.freq_base": -1.0},
        {"rope.dimension_count": 2},
        {"context_length": 2**32 - 1},
        {"vocab_size": 7},
    ],
    ids=str,
)
def test_keys_that_contradict_the_tensors_are_errors(driver, tmp_path, changes):
    model = TinyModel(width=48, ffn=80, heads=4, kv_heads=2, blocks=1)
    changes = {f"bitnet-b1.58.{name}": value for name, value in changes.items()}
    (line,) = run(driver, [model.write(tmp_path / "model.gguf", changes=changes)])
    assert line.startswith("error "), line


def test_weights_that_are_not_ternary_are_errors(driver, tmp_path):
    def scale(value: float) -> dict[str, Callable[[bytes], bytes]]:
        half, single = np.float16(value).tobytes(), np.float32(value).tobytes()
        return {
            "TQ2_0": lambda data: data[:64] + half + data[66:],
            "I2_S": lambda data: data[:-32] + single + data[-28:],
        }

    fourth_code = {kind: lambda data: b"\xff" + data[1:] for kind in ("TQ2_0", "I2_S")}
    another_scale = {"TQ2_0": scale(0.5)["TQ2_0"]}
    files = []
    for breakage in (scale(np.nan), scale(np.inf), scale(-1.0), fourth_code, another_scale):
        for kind, broken in breakage.items():

            def patch(name: str, data: bytes, broken: Callable[[bytes], bytes] = broken) -> bytes:
                return broken(data) if name == "blk.0.attn_q.weight" else data

            files.append(tmp_path / f"{len(files)}.gguf")
            TinyModel(blocks=1, ffn=256).write(files[-1], kind, patch=patch)
    lines = run(driver, files)
    assert len(lines) == 9
    assert all("attn_q" in line for line in lines), lines

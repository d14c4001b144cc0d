"""The whole C code under AddressSanitizer and UndefinedBehaviorSanitizer, on good files and on wrong ones; and under
ThreadSanitizer, with many threads at once."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from c_programs import RACES, SANITIZED, build
from tiny_models import TinyModel

from bitrl.plugins.backbones.engine.engine import formats, instruction_sets


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("driver") / "driver", "driver.c", *SANITIZED)


@pytest.fixture(scope="module")
def many_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("threads") / "many_threads", "many_threads.c", *RACES)


def run(driver: Path, files: list[Path], *flags: str, timeout: float = 300) -> list[str]:
    """The driver's line for each file."""
    done = subprocess.run([driver, *flags, *files], capture_output=True, text=True, errors="replace", timeout=timeout)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(files)
    return lines


def test_every_kernel_stays_within_its_memory(tmp_path):
    program = build(tmp_path / "kernels_check", "kernels_check.c", *SANITIZED)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (TinyModel(width=256, ffn=256, blocks=1, context=512), "TQ2_0"),
        (TinyModel(width=256, ffn=256, blocks=1), "TQ1_0"),
        (TinyModel(width=48, ffn=80, heads=4, kv_heads=2, blocks=2), "I2_S"),
        (TinyModel(architecture="llama", width=48, ffn=80, heads=3, kv_heads=1, head_dim=24, blocks=1), "I2_S"),
        (TinyModel(architecture="qwen3", width=48, ffn=80, head_dim=24, blocks=1, input_norms=True), "I2_S"),
        (TinyModel(architecture="gemma3", width=48, ffn=80, head_dim=24, blocks=2, window=9, every=2), "I2_S"),
        (TinyModel(architecture="gemma2", width=48, ffn=80, head_dim=24, blocks=2, window=9, every=2), "I2_S"),
        (TinyModel(architecture="qwen2", width=48, ffn=80, head_dim=24, blocks=1), "I2_S"),
    ],
    ids=["tq2_0", "tq1_0", "i2_s", "llama", "qwen3 with input norms", "gemma3", "gemma2", "qwen2"],
)
def test_every_instruction_set_and_thread_count_gives_the_same_bits(driver, tmp_path, model, kind):
    (line,) = run(driver, [model.write(tmp_path / "model.gguf", kind)])
    assert line.startswith("ok "), line


@pytest.mark.parametrize("kind", ["TQ2_0", "TQ1_0"])
def test_scales_of_blocks_give_the_same_bits(driver, tmp_path, kind):
    """Every other block has half the scale, or twice."""
    at, step = {"TQ2_0": (64, 66), "TQ1_0": (52, 54)}[kind]

    def patch(name: str, data: bytes) -> bytes:
        if not name.startswith("blk.") or "norm" in name:
            return data
        blocks = np.frombuffer(data, np.uint8).reshape(-1, step).copy()
        scales = blocks[:, at : at + 2].copy().view(np.float16)
        scales[::2] *= np.float16(0.5)
        blocks[:, at : at + 2] = scales.view(np.uint8)
        return blocks.tobytes()

    model = TinyModel(width=256, ffn=256, blocks=1)
    (line,) = run(driver, [model.write(tmp_path / "model.gguf", kind, patch=patch)])
    assert line.startswith("ok "), line


def test_every_format_and_pooling_gives_the_same_bits(driver, tmp_path):
    model = TinyModel(width=48, ffn=36, heads=3, kv_heads=1, blocks=1, weights="F16")
    gemma = TinyModel(
        architecture="gemma3",
        width=32,
        ffn=36,
        heads=2,
        kv_heads=1,
        head_dim=12,
        blocks=2,
        window=9,
        every=2,
        input_norms=True,
        weights="F16",
    )
    files = [model.write(tmp_path / "model.gguf"), gemma.write(tmp_path / "gemma.gguf")]
    for line in run(driver, files, "--thorough"):
        assert line.startswith("ok "), line


@pytest.mark.parametrize("format", formats())
def test_threads_and_sessions_side_by_side_have_no_data_race(many_threads, tmp_path, format):
    path = TinyModel(width=48, ffn=80, heads=2, kv_heads=1, blocks=1).write(tmp_path / "model.gguf")
    done = subprocess.run([many_threads, path, format], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr[:5000]


def test_threads_that_outnumber_everything_have_no_data_race(many_threads, tmp_path):
    path = TinyModel(width=2, ffn=64, heads=1, kv_heads=1, blocks=1, weights="F16").write(tmp_path / "model.gguf")
    done = subprocess.run([many_threads, path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr[:5000]


@pytest.mark.parametrize("sanitizer", [SANITIZED, RACES], ids=["address,undefined", "thread"])
def test_generating_and_replacing_weights_is_clean_in_every_format(tmp_path, sanitizer):
    program = build(tmp_path / "generate", "generate.c", *sanitizer)
    # Threads meet the same way in each block and with each instruction set.
    blocks, isas = (1, instruction_sets()[:1]) if sanitizer == RACES else (2, [])
    model = TinyModel(width=48, ffn=48, heads=2, kv_heads=1, blocks=blocks, vocabulary=256)
    path = model.write(tmp_path / "model.gguf")
    done = subprocess.run([program, path, *isas], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[:5000]
    assert done.stdout.startswith("ok ")


@pytest.mark.parametrize("sanitizer", [SANITIZED, RACES], ids=["address,undefined", "thread"])
def test_learning_is_clean_and_gives_the_same_bits_with_every_instruction_set_and_thread_count(tmp_path, sanitizer):
    program = build(tmp_path / "learn", "learn.c", *sanitizer)
    isas = instruction_sets()[:1] if sanitizer == RACES else []
    done = subprocess.run([program, *isas], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[:5000]
    assert done.stdout.startswith("ok ")


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
    files = []
    for breakage in (scale(np.nan), scale(np.inf), {"I2_S": scale(-1.0)["I2_S"]}, fourth_code):
        for kind, broken in breakage.items():

            def patch(name: str, data: bytes, broken: Callable[[bytes], bytes] = broken) -> bytes:
                return broken(data) if name == "blk.0.attn_q.weight" else data

            files.append(tmp_path / f"{len(files)}.gguf")
            TinyModel(blocks=1, ffn=256).write(files[-1], kind, patch=patch)
    lines = run(driver, files)
    assert len(lines) == 7
    assert all("attn_q" in line for line in lines), lines

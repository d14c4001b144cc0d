"""The engine built for 64-bit ARM and run by an emulator: every kernel, and the same bits as on this CPU."""

import shutil
from pathlib import Path

import pytest
from c_programs import build, run
from tiny_models import TinyModel

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR}: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
)


def emulated(cpu: str, program: Path) -> list[str | Path]:
    """The command that runs a program as if on that CPU."""
    return [EMULATOR, "-cpu", cpu, program]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the C programs for ARM."""
    return build(tmp_path_factory.mktemp("arm"), "-O3", "-static", compiled_by=[COMPILER])


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the C programs for this CPU."""
    return build(tmp_path_factory.mktemp("native"), "-O3")


@pytest.mark.parametrize(("cpu", "sets"), [("max", ["neondot", "neon"]), ("cortex-a53", ["neon"])])
def test_every_kernel_gives_the_bits_of_its_scalar_twin(programs, cpu, sets):
    lines = run(emulated(cpu, programs / "kernels_check"))
    assert [line.split(":")[0] for line in lines] == sets, lines


def test_every_type_of_weights_gives_the_bits_of_this_cpu(programs, native, tmp_path):
    models = [TinyModel(width=48, ffn=80, heads=3, kv_heads=1, blocks=2).write(tmp_path / "I2_S.gguf")]
    for kind in ("TQ1_0", "TQ2_0"):
        models.append(TinyModel(ffn=256, blocks=1).write(tmp_path / f"{kind}.gguf", kind))
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
        model = TinyModel(width=64, ffn=96, heads=2, kv_heads=1, blocks=1, weights=kind)
        models.append(model.write(tmp_path / f"{kind}.gguf"))
    lines = run(emulated("max", programs / "driver"), *models)
    assert lines == run([native / "driver"], *models)
    assert all(line.startswith("ok ") for line in lines), lines


@pytest.mark.parametrize("cpu", ["max", "cortex-a57"])
def test_every_format_and_pooling_gives_the_bits_of_this_cpu(programs, native, tmp_path, cpu):
    model = TinyModel(width=48, ffn=36, heads=3, kv_heads=1, blocks=1, weights="F16").write(tmp_path / "model.gguf")
    lines = run(emulated(cpu, programs / "driver"), "--thorough", model)
    assert lines == run([native / "driver"], "--thorough", model)
    assert lines[0].startswith("ok "), lines

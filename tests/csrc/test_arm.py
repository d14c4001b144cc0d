"""The engine built for 64-bit ARM and run by an emulator: every kernel, and the same bits as on this CPU."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from c_programs import ARM, ARM_COMPILER, CSRC, build, compiler
from tiny_models import TinyModel

from bitrl import _engine

EMULATOR = "qemu-aarch64"
"""As a cortex-a72 (Raspberry Pi 4, without dot products), a cortex-a76 (Raspberry Pi 5), a neoverse-n1 (servers)."""
pytestmark = pytest.mark.skipif(
    not (shutil.which(ARM_COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {ARM_COMPILER} and {EMULATOR}: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
)
ON_THE_INSTALLED = """
import ctypes, sys
ctypes.CDLL({engine!r}, ctypes.RTLD_GLOBAL)
arguments = [argument.encode() for argument in sys.argv]
ended = ctypes.CDLL({library!r}).driver(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))
ctypes.CDLL(None).fflush(None)
sys.exit(ended)
"""


def run(program: Path, *arguments: str | Path, cpu: str | None = None) -> list[str]:
    """The lines it prints, as if on that CPU or on this one."""
    emulator = [EMULATOR, "-cpu", cpu] if cpu else []
    done = subprocess.run([*emulator, program, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kernels_check.c for ARM."""
    out = tmp_path_factory.mktemp("arm") / "kernels_check"
    return build(out, "kernels_check.c", *ARM, compiled_by=[ARM_COMPILER])


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """driver.c for ARM."""
    out = tmp_path_factory.mktemp("arm") / "driver"
    return build(out, "driver.c", *ARM, compiled_by=[ARM_COMPILER])


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """driver.c for this CPU."""
    return on_the_installed(tmp_path_factory.mktemp("native"), "driver.c")


def on_the_installed(folder: Path, main: str) -> Path:
    """A program of tests/csrc for this CPU, upon the engine that is installed: it loads both."""
    library = folder / "driver.so"
    command = [*compiler(), "-std=c11", "-shared", "-fPIC", "-Dmain=driver", f"-I{CSRC}"]
    subprocess.run([*command, CSRC.parent / "tests" / "csrc" / main, "-o", library], check=True)
    program = folder / "driver"
    program.write_text(f"#!{sys.executable}\n" + ON_THE_INSTALLED.format(engine=_engine.__file__, library=str(library)))
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(("cpu", "sets"), [("cortex-a76", ["neondot", "neon"]), ("cortex-a72", ["neon"])])
def test_every_kernel_gives_the_bits_of_its_scalar_twin(check, cpu, sets):
    lines = run(check, cpu=cpu)
    assert [line.split(":")[0] for line in lines] == sets, lines


def test_every_type_of_weights_and_architecture_gives_the_bits_of_this_cpu(driver, native, tmp_path):
    models = [TinyModel(width=48, ffn=80, heads=3, kv_heads=1, blocks=1).write(tmp_path / "I2_S.gguf")]
    for kind in ("TQ1_0", "TQ2_0"):
        models.append(TinyModel(ffn=256, blocks=1).write(tmp_path / f"{kind}.gguf", kind))
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
        model = TinyModel(width=32, ffn=64, heads=2, kv_heads=1, blocks=1, weights=kind)
        models.append(model.write(tmp_path / f"{kind}.gguf"))
    for architecture, more in (("llama", {}), ("qwen3", {}), ("gemma3", {"blocks": 2, "window": 9, "every": 2})):
        shape = {"width": 48, "ffn": 80, "heads": 2, "kv_heads": 1, "head_dim": 24, "blocks": 1}
        model = TinyModel(architecture=architecture, **(shape | more))
        models.append(model.write(tmp_path / f"{architecture}.gguf"))
    lines = run(driver, *models, cpu="neoverse-n1")
    assert lines == run(native, *models)
    assert all(line.startswith("ok ") for line in lines), lines


# Without dot products everything but the kernels is the same code, and the first test runs each kernel there.
@pytest.mark.parametrize(("cpu", "how"), [("cortex-a76", ["--thorough"]), ("cortex-a72", [])])
def test_every_format_and_pooling_gives_the_bits_of_this_cpu(driver, native, tmp_path, cpu, how):
    model = TinyModel(width=48, ffn=36, heads=3, kv_heads=1, blocks=1, weights="F16").write(tmp_path / "model.gguf")
    lines = run(driver, *how, model, cpu=cpu)
    assert lines == run(native, *how, model)
    assert lines[0].startswith("ok "), lines


@pytest.mark.parametrize(("cpu", "sets"), [("cortex-a76", ["neondot", "scalar"]), ("cortex-a72", ["neon"])])
def test_what_is_learned_has_the_bits_of_this_cpu(tmp_path, cpu, sets):
    program = build(tmp_path / "learn", "learn.c", *ARM, compiled_by=[ARM_COMPILER])
    (line,) = run(program, *sets, cpu=cpu)
    assert line.startswith("ok "), line
    assert [line] == run(on_the_installed(tmp_path, "learn.c"), "auto")

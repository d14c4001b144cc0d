"""The model of speed by hand, and its page beside the results and the code."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from bitrl.plugins.backbones.benchmark import speed_model
from bitrl.plugins.backbones.benchmark.random_model import SHAPES, RandomShape
from bitrl.plugins.backbones.benchmark.speed_model import (
    PI_4,
    PI_5,
    ZEN4,
    Core,
    Kernel,
    Loop,
    between_bytes,
    between_cycles,
    multiply_adds_a_cycle,
    predict,
    product_cycles,
)

ROOT = Path(__file__).parents[4]
CORE = Core("test", "none", 2.0, instructions=4, vectors=2, multiplications=1, loads=2, stores=1, fused=3)


@pytest.mark.parametrize(
    ("loop", "cycles"),
    [
        (Loop(1, instructions=40, vectors=4, multiplications=2, loads=3), 10),  # 40 at 4 a cycle
        (Loop(1, instructions=8, vectors=10, multiplications=6, loads=3), 6),  # on their pipe, the others on the other
        (Loop(1, instructions=8, vectors=14, multiplications=6, loads=3), 7),  # on both
        (Loop(1, instructions=8, vectors=2, multiplications=1, loads=14), 7),
        (Loop(1, instructions=8, vectors=2, multiplications=1, loads=2, stores=9), 9),
        (Loop(1, instructions=8, vectors=2, multiplications=1, loads=2, chain=5), 15),
    ],
)
def test_a_pass_takes_as_long_as_its_scarcest_resource(loop: Loop, cycles: float) -> None:
    assert loop.cycles(CORE) == cycles


def test_tokens_left_over_go_through_loops_of_fewer_and_weights_are_unpacked_once() -> None:
    """Of 11 tokens eight take 2 · 64 / 256 cycles of a weight, two 8 / 16 and one 8 / 8; unpacking takes 4 / 32."""
    four, two, one = (Loop(work, 4 * cycles, 0, 0, 0) for work, cycles in ((256, 32), (32, 8), (8, 8)))
    kernel = Kernel({4: four, 2: two, 1: one}, (Loop(32, 16, 0, 0, 0),))
    assert kernel.cycles(CORE, 11) == pytest.approx(8 * 32 / 256 + 2 * 8 / 32 + 8 / 8 + 4 / 32)


SHAPE = RandomShape("bitnet-b1.58", 256, 512, 3, 4, 2, 64, 64, 10000.0, matrices="TQ2_0", embedding="Q6_K")
"""Two query heads share one of 64 columns: rows are 256 + 2 · 128 + 256 + 2 · 512 + 256 in a block."""


@pytest.mark.parametrize(("format", "rounding", "scaling"), [
    ("ternary", "quantise", "scaled"), ("int8", "quantise", "scaled rows"), ("bf16", "bf16", "scaled floats"),
])  # fmt: skip
def test_between_products_each_number_goes_through_its_loops(
    monkeypatch: pytest.MonkeyPatch, format: str, rounding: str, scaling: str
) -> None:
    """Of eight tokens a query has eight keys on average, in groups. Loops of other formats must not be asked for."""
    amounts = {
        "norm": 3 * 256 + 512, rounding: 3 * 256 + 512, scaling: 2048, "gated": 512, "added": 512, "rotated": 384,
        "copied": 128, "attended": 2 * 256 * 8, "softmax": 4 * 8, "rows": 4,
    }  # fmt: skip
    loops = {name: Loop(2, instructions=8 * i, vectors=0, multiplications=0, loads=0) for i, name in enumerate(amounts)}
    monkeypatch.setattr(speed_model, "BETWEEN", {"none": loops})
    assert between_cycles(CORE, format, 8, SHAPE) == sum(i * amount for i, amount in enumerate(amounts.values()))
    assert between_bytes(SHAPE) == 2 * (4 * 2048 + 2 * 8 * 256)


def test_a_prediction_adds_what_is_between_to_the_slower_of_arithmetic_and_memory() -> None:
    """A Cortex-A72's pipe for multiplications has 64 of them in 512 multiply-adds; unpacking 256 weights takes 16
    stores. In 2 bits a weight 12.8 GB/s are 51.2 billion weights.
    """
    cycles = 32 * 64 / 512 + 16 / 256
    assert multiply_adds_a_cycle(PI_4, "ternary", 32) == pytest.approx(32 / cycles)
    weights = 30 * (2 * 2560 * 2560 + 2 * 640 * 2560 + 3 * 6912 * 2560)
    found = predict(PI_4, "ternary", 32, SHAPES["bitnet-2b-4t"])
    assert found.products == pytest.approx(weights * cycles / (4 * 1.8e9))
    assert found.memory == pytest.approx(weights / 51.2e9)
    assert found.tokens_per_second == 32 / (found.products + found.between)
    one = predict(PI_5, "ternary", 1, SHAPES["bitnet-2b-4t"])
    assert one.tokens_per_second == 1 / (one.memory + one.between) < 1 / (one.products + one.between)


def test_a_prediction_has_all_blocks_and_the_embedding_once() -> None:
    found, core = predict(PI_4, "ternary", 5, SHAPE), 4 * 1.8e9
    embedded = 256 * 29 / 3  # instructions of a column, three of which begin in a cycle
    block = between_cycles(PI_4, "ternary", 5, SHAPE) / core + between_bytes(SHAPE) / 12.8e9
    assert found.between == pytest.approx(5 * (3 * block + embedded / core))


def test_activations_are_loud_but_for_those_that_a_gate_leaves() -> None:
    """Where int8 has a loop of its own for them."""
    down, all_weights = 256 * 512, 2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512
    quiet, loud = (multiply_adds_a_cycle(ZEN4, kind, 8) for kind in ("int8", "loud-int8"))
    expected = 8 * (down / quiet + (all_weights - down) / loud)
    assert product_cycles(ZEN4, "int8", 8, SHAPE) == pytest.approx(expected)
    assert product_cycles(ZEN4, "bf16", 8, SHAPE) == pytest.approx(
        8 * all_weights / multiply_adds_a_cycle(ZEN4, "bf16", 8)
    )


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("speed_model")


def test_the_page_has_the_results(benchmark: ModuleType) -> None:
    page = (ROOT / "docs" / "speed-model.md").read_text(encoding="utf-8")
    assert page.split(benchmark.START)[1].split(benchmark.END)[0] == benchmark.tables(benchmark.recorded())


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks" / "results").glob("speed-model-*.json")), ids=lambda path: path.stem
)
def test_results_are_within_fifteen_per_cent_of_the_model(benchmark: ModuleType, path: Path) -> None:
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert all(abs(row["error"]) <= 0.15 for row in results["compared"] + results["whole"])
    processor = path.stem.removeprefix("speed-model-")
    assert benchmark.with_todays_model(processor, results) == results


def test_what_a_loop_around_does_comes_on_top_for_each_pass() -> None:
    """Eight cycles for 32 multiply-adds, and 20 for the 640 of which they are."""
    around = Loop(640, instructions=80, vectors=0, multiplications=0, loads=0)
    assert Loop(32, instructions=32, vectors=4, multiplications=2, loads=3, around=around).cycles(CORE) == 8 + 20 / 20


DISASSEMBLY = """
0000000000000000 <product>:
   0:\tmov    (%rsi),%eax
   4:\tvpbroadcastd (%r8),%ymm4
   8:\tvpmaddubsw %ymm4,%ymm13,%ymm3
   c:\tvpaddw (%rdi),%ymm3,%ymm3
  10:\tvmovdqa %ymm3,%ymm7
  14:\tvmovdqa %ymm3,-0x20(%rdx)
  18:\tjb     4 <product+0x4>
  1c:\tvpslld $0x10,%zmm1,%zmm1
  20:\tvpslld $0x10,%ymm1,%ymm1
  22:\tvpsignb %ymm1,%ymm2,%ymm3
  24:\tjb     0 <product>
"""


def test_instructions_of_a_loop_are_counted_and_those_of_the_loop_around_it(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = importlib.import_module("loop_counts")
    tool = tmp_path / "objdump"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{DISASSEMBLY}\nEND\n")
    tool.chmod(0o755)
    body = counts.functions(tmp_path / "any.o", str(tool))["product"]
    [loop], [around] = counts.innermost(body), counts.around(body)
    assert counts.count(loop, arm=False) == {
        "instructions": 6, "loads": 2, "vectors": 2, "multiplications": 1, "stores": 1,
    }  # fmt: skip
    # A shift takes a multiplication's place where it has 512 bits, the sign of bytes everywhere.
    assert counts.count(around, arm=False) == {"instructions": 5, "loads": 1, "vectors": 3, "multiplications": 2}

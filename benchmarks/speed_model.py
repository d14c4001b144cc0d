"""The written model of the engine's speed beside what its kernels do here, and what it predicts for boards.

    python benchmarks/speed_model.py [--count | --model]

Kernels are compiled with the engine's flags and timed by themselves, in windows of less than a millisecond of which the
best counts: a busy machine disturbs most of them, not all. A cycle is what an addition takes that waits for the one
before. Whole encodings are the engine's own. --count prints what the model is made of: the instructions of the inner
loops (with aarch64-linux-gnu-gcc, those of ARM, too); --model sets today's model beside what was measured before.
Figures go to results/speed-model-zen3.json, or -zen4 on a machine with AVX-512, and the tables of docs/speed-model.md
are made of these: they are those two processors that the model knows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from loop_counts import around, count, functions, innermost
from record import RESULTS, save

from bitrl.core.files import write_atomically
from bitrl.plugins.backbones.benchmark.random_model import SHAPES, random_model, random_shape
from bitrl.plugins.backbones.benchmark.speed_model import (
    BETWEEN,
    KERNELS,
    PI_4,
    PI_5,
    ZEN3,
    ZEN3_PLAIN,
    ZEN4,
    ZEN4_BF16,
    ZEN4_PLAIN,
    ZEN4_VNNI,
    Core,
    multiply_adds_a_cycle,
    predict,
)
from bitrl.plugins.backbones.engine.engine import Engine, instruction_sets

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=c11", "-O3", "-fno-math-errno", "-ffp-contract=off", f"-I{ROOT / 'csrc'}"]
LOOPS = {
    "avx512": (
        "codes_12 codes_8 bytes_12 bytes_8 floats_12 floats_8 floats_bf16_6 floats_bf16_2 halves_bf16_6 halves_bf16_2 "
        "few_ternary_1 few_dense_1 unpack_ternary unpack_dense unpack_dense_without unpack_int4 unpack_fp8"
    ),
    "avx2": (
        "ternary_4 ternary_1 trits_4 trits_1 unpack_dense unpack_int4 quiet_8 quiet_1 bytes_4 bf16_2 bf16_1 unpack_fp8 "
        "floats_6 floats_2 floats_1"
    ),
    "scalar": "ternary_product int8_product",
    "neon": "trits_4 trits_1 dots_4 few_ternary_1 unpack_ternary",
}
"""Kernels → the functions whose innermost loops the model knows; and those between products, of all of them."""
DOUBLE_LOOPS = "norm_quantise norm_round scaled scaled_floats scaled_rows gated added rotated attend"
OWN_FUNCTIONS = {"scalar": ("norm", "softmax", "v8_exp"), "neon": ("norm", "softmax", "v8_exp")}
"""Of those, what the compiler leaves by itself."""
FORMATS = ("ternary", "ternary-1.6", "int8", "int4", "fp8", "bf16", "fp32")


def without_avx512(core: Core, plain: Core) -> list[tuple[Core, str, int]]:
    """What is modelled of a core with AVX2, and of the same in plain C: core, format, tokens."""
    return [
        *((core, format, 32) for format in (*FORMATS, "loud-int8")),
        *((core, format, 1) for format in ("ternary", "fp8", "bf16", "fp32")),
        *((plain, format, tokens) for format in ("ternary", "int8") for tokens in (32, 1)),
    ]


CASES = {
    "zen3": without_avx512(ZEN3, ZEN3_PLAIN),
    "zen4": [
        *((ZEN4_BF16, format, 32) for format in FORMATS),
        *((ZEN4_BF16, format, 1) for format in ("ternary", "ternary-1.6")),
        *((ZEN4_VNNI, format, 32) for format in ("ternary-1.6", "fp8", "bf16")),  # the others have the same loops
        *without_avx512(ZEN4, ZEN4_PLAIN),
    ],
}
"""Processors → what is modelled of what can be run there."""
WHOLE_FORMATS = ("ternary", "ternary-1.6", "int8", "bf16", "fp32")


def without_avx512_whole(core: Core, plain: Core) -> list[tuple[Core, str, int]]:
    """As without_avx512, of whole encodings."""
    return [
        *((core, format, 32) for format in WHOLE_FORMATS),
        *((core, format, 1) for format in ("bf16", "fp32")),
        (plain, "ternary", 32),
    ]


WHOLE = {
    "zen3": without_avx512_whole(ZEN3, ZEN3_PLAIN),
    "zen4": [
        *((ZEN4_BF16, format, 32) for format in WHOLE_FORMATS),
        *((ZEN4_VNNI, format, 32) for format in ("ternary-1.6", "bf16")),
        *without_avx512_whole(ZEN4, ZEN4_PLAIN),
    ],
}
WHOLE_SHAPE = random_shape("2560x6912x2")
WHOLE_SECONDS = 3.0
REPEATS = 2
"""Of the whole program, a minute of which may be disturbed."""
PAGE = ROOT / "docs" / "speed-model.md"
START, END = "<!-- figures: written by benchmarks/speed_model.py -->", "<!-- end of figures -->"


def measured(folder: Path) -> tuple[dict[tuple[str, str, int], float], float, float]:
    """(instruction set, format, tokens) → multiply-adds a cycle; the nanoseconds of a cycle; and the gigabytes that a
    core reads in a second.
    """
    program = folder / "kernel_speed"
    csrc = ROOT / "csrc"
    sources = [ROOT / "benchmarks" / "kernel_speed.c", csrc / "cpu.c", csrc / "dispatch.c", *csrc.glob("kernels_*.c")]
    subprocess.run(["cc", *FLAGS, *sources, "-lm", "-o", program], check=True)
    best: dict[tuple[str, str, int], tuple[int, float]] = {}
    cycle, gigabytes = math.inf, 0.0
    for _ in range(REPEATS):
        first, second, *lines = subprocess.run(
            [program], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        cycle, gigabytes = min(cycle, float(first.split()[1])), max(gigabytes, float(second.split()[1]))
        for isa, format, tokens, work, spent in (line.split() for line in lines):
            key = isa, format, int(tokens)
            best[key] = int(work), min(float(spent), best.get(key, (0, math.inf))[1])
    return {key: work * cycle / nanoseconds for key, (work, nanoseconds) in best.items()}, cycle, gigabytes


def compared(processor: str, found: dict[tuple[str, str, int], float]) -> list[dict[str, Any]]:
    """Model and measurement, in multiply-adds a cycle of one core."""
    rows = []
    for core, format, tokens in CASES[processor]:
        if (core.isa, format, tokens) not in found:
            continue  # measured before there was such a case
        model, here = multiply_adds_a_cycle(core, format, tokens), found[core.isa, format, tokens]
        row = {"core": core.name, "format": format, "tokens": tokens, "model": model, "measured": here}
        rows.append(row | {"error": model / here - 1})
    return rows


def measured_whole(processor: str, cycle: float) -> dict[tuple[str, str, int], float]:
    """(instruction set, format, tokens) → multiply-adds a cycle of encoding a text, from its token ids on, by two
    blocks of the 2B model's shape with random weights: by the least time of this process for one.
    """
    found = {}
    with random_model(WHOLE_SHAPE) as path:
        for core, format, tokens in WHOLE[processor]:
            engine = Engine(path, format, threads=1, isa=core.isa)
            texts = [[[(number * 97 + first) % engine.vocabulary for number in range(tokens)]] for first in range(2)]
            best, until = math.inf, time.monotonic() + WHOLE_SECONDS
            engine.encode(texts[0])
            for text in itertools.cycle(reversed(texts)):  # in turns, or the engine would go on from the same text
                if time.monotonic() >= until:
                    break
                began = time.process_time()
                engine.encode(text)
                best = min(best, time.process_time() - began)
            found[core.isa, format, tokens] = _whole_weights() * tokens * cycle / (1e9 * best)
    return found


def whole(
    processor: str, cycle: float, gigabytes: float, found: dict[tuple[str, str, int], float]
) -> list[dict[str, Any]]:
    """Model and measurement of whole encodings, as multiply-adds a cycle. Cycle and memory are as measured."""
    rows = []
    for core, format, tokens in WHOLE[processor]:
        if (core.isa, format, tokens) not in found:
            continue
        there = attrs.evolve(core, ghz=1 / cycle, gigabytes=gigabytes)
        seconds = tokens / predict(there, format, tokens, WHOLE_SHAPE).tokens_per_second
        model, here = _whole_weights() * tokens * cycle / (1e9 * seconds), found[core.isa, format, tokens]
        row = {"core": core.name, "format": format, "tokens": tokens, "model": model, "measured": here}
        rows.append(row | {"error": model / here - 1})
    return rows


def _whole_weights() -> int:
    return WHOLE_SHAPE.blocks * sum(rows * columns for rows, columns in WHOLE_SHAPE.matrix_shapes.values())


def predictions() -> list[dict[str, Any]]:
    """Of both boards, for the 2B model in 2 bits: a state of 32 tokens, and one token after another."""
    rows = []
    for core in (PI_4, PI_5):
        for tokens in (32, 1):
            found = predict(core, "ternary", tokens, SHAPES["bitnet-2b-4t"])
            row = {
                "core": core.name,
                "tokens": tokens,
                "multiply_adds_a_cycle": multiply_adds_a_cycle(core, "ternary", tokens),
                "products": found.products,
                "memory": found.memory,
                "between": found.between,
            }
            rows.append(row | {"tokens_per_second": found.tokens_per_second})
    return rows


def recorded(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The results of every processor that there are."""
    paths = [folder / f"speed-model-{processor}.json" for processor in CASES]
    return [json.loads(path.read_text(encoding="utf-8"))["results"] for path in paths if path.is_file()]


def tables(results: Sequence[dict[str, Any]]) -> str:
    """The page's tables."""
    lines = ["", "| kernels | format | tokens | model | measured | error |", "|---|---|---|---|---|---|"]
    for row in (row for each in results for row in each["compared"]):
        numbers = f"{row['model']:.2f} | {row['measured']:.2f} | {row['error']:+.0%}"
        lines.append(f"| {row['core']} | {row['format']} | {row['tokens']} | {numbers} |")
    lines += ["", "| whole encodings | format | tokens | model | measured | error |", "|---|---|---|---|---|---|"]
    for row in (row for each in results for row in each["whole"]):
        numbers = f"{row['model']:.2f} | {row['measured']:.2f} | {row['error']:+.0%}"
        lines.append(f"| {row['core']} | {row['format']} | {row['tokens']} | {numbers} |")
    heads = "multiply-adds a cycle of a core | products | weights from memory | between products | predicted, at most"
    lines += ["", f"| board | tokens at a time | {heads} |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in predictions():
        times = " | ".join(f"{1e3 * row[name]:,.1f} ms" for name in ("products", "memory", "between"))
        speed = f"{row['tokens_per_second']:.0f} tokens/s"
        lines.append(f"| {row['core']} | {row['tokens']} | {row['multiply_adds_a_cycle']:.1f} | {times} | {speed} |")
    return "\n".join([*lines, "", ""])


def print_loops(folder: Path, source: str, names: Sequence[str], arm: bool) -> None:
    """Of functions of a file in csrc/; of one without loops all that it does."""
    code, prefix = folder / f"{source}.o", "aarch64-linux-gnu-" if arm else ""
    subprocess.run([f"{prefix}gcc", *FLAGS, "-c", ROOT / "csrc" / f"{source}.c", "-o", code], check=True)
    found = functions(code, f"{prefix}objdump")
    for name in names:
        for loop in innermost(found[name]) or [found[name]]:
            print(source, name, dict(count(loop, arm)))
        for loop in around(found[name]):
            print(source, name, "around", dict(count(loop, arm)))


def print_counts(folder: Path) -> None:
    """What the compiler makes of the inner loops, beside what the model says."""
    for isa, names in LOOPS.items():
        functions_of_isa = (*names.split(), *DOUBLE_LOOPS.split(), *OWN_FUNCTIONS.get(isa, ()))
        print_loops(folder, f"kernels_{isa}", functions_of_isa, arm=isa == "neon")
    for arm in (False, True):
        print_loops(folder, "weights", ["read_q6_k"], arm)
    for key, kernel in KERNELS.items():
        print(*key, *kernel.products.values(), *kernel.unpacking)
    for isa, loops in BETWEEN.items():
        for name, loop in loops.items():
            print(isa, name, loop)


def with_todays_model(processor: str, results: dict[str, Any]) -> dict[str, Any]:
    """What was measured, beside the model as it is."""

    def of(cases: Sequence[tuple[Core, str, int]], rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], float]:
        isas = {core.name: core.isa for core, _, _ in cases}
        return {(isas[row["core"]], row["format"], row["tokens"]): row["measured"] for row in rows}

    products, encodings = of(CASES[processor], results["compared"]), of(WHOLE[processor], results["whole"])
    return results | {
        "compared": compared(processor, products),
        "whole": whole(processor, results["cycle"], results["gigabytes"], encodings) if encodings else [],
        "predictions": predictions(),
    }


def update_model(path: Path, processor: str) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    record["results"] = with_todays_model(processor, record["results"])
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def measure(folder: Path, out: Path) -> None:
    processor = "zen4" if "avx512bf16" in instruction_sets() else "zen3"
    found, cycle, gigabytes = measured(folder)
    results = {
        "cycle": cycle,
        "gigabytes": gigabytes,
        "compared": compared(processor, found),
        "whole": whole(processor, cycle, gigabytes, measured_whole(processor, cycle)),
        "predictions": predictions(),
    }
    save(f"speed-model-{processor}", results, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--count", action="store_true")
    what.add_argument("--model", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.count:
            print_counts(Path(folder))
            return
        if given.model:
            for processor in CASES:
                update_model(given.out / f"speed-model-{processor}.json", processor)
        else:
            measure(Path(folder), given.out)
    if PAGE.is_file() and given.out == RESULTS:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        write_atomically(PAGE, before + START + tables(recorded()) + END + rest.partition(END)[2])
    print(tables(recorded(given.out)))


if __name__ == "__main__":
    main()

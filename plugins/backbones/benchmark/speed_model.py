"""A written model of the engine's speed: tokens a second from the inner loops of its kernels, a core's widths and its
clock, and the bytes that are read. It predicts boards that are not at hand; docs/speed-model.md has how well it does.

A pass of a loop takes as many cycles as its scarcest resource. Multiplications have pipes of their own among those for
vectors; what else is done to vectors keeps out of their way.
Counts are of the loops that GCC makes of csrc/ with the engine's flags (`python benchmarks/speed_model.py --count`).

Weights are fetched while the ones before are multiplied, so of arithmetic and memory the slower counts. What lies
between products (sums, and the residual stream) is waited for.

Knows an embedding in Q6_K and the blocks of a decoder whose gate is a squared ReLU, BitNet's. Does not know the output
head, nor that threads wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from bitrl.plugins.backbones.benchmark.random_model import RandomShape


@attrs.frozen
class Core:
    """One core of a CPU, and the memory that all share.

    Attributes:
        isa: the kernels that it runs.
        ghz: its clock.
        instructions, vectors, multiplications, loads, stores: how many it begins in a cycle, at best.
        fused: cycles from a fused multiply-add of floats to the next that adds to it.
        cores: how many there are.
        gigabytes: that the memory gives in a second, at most.
    """

    name: str
    isa: str
    ghz: float
    instructions: float
    vectors: float
    multiplications: float
    loads: float
    stores: float
    fused: float
    cores: int = 1
    gigabytes: float = 0.0


@attrs.frozen
class Loop:
    """What one pass of an inner loop does.

    Attributes:
        work: multiply-adds, of a product; weights, of what unpacks them; numbers of a token, of what is between.
        chain: fused multiply-adds of which each waits for the one before.
        around: what a loop around it does besides, where that is not little; its work is that of all passes within.
    """

    work: int
    instructions: int
    vectors: int
    multiplications: int
    loads: int
    stores: int = 0
    chain: int = 0
    around: Loop | None = None

    def cycles(self, core: Core) -> float:
        """The cycles of one pass, with its part of what is around."""
        alone = max(
            self.instructions / core.instructions,
            self.multiplications / core.multiplications,
            self.vectors / core.vectors,
            self.loads / core.loads,
            self.stores / core.stores,
            self.chain * core.fused,
        )
        return alone + (self.around.cycles(core) * self.work / self.around.work if self.around else 0)


@attrs.frozen
class Kernel:
    """A product of a matrix.

    Attributes:
        products: tokens that a loop takes at a time → the loop; what is left over goes to those of fewer.
        unpacking: loops that every weight goes through once, whatever the number of tokens.
    """

    products: Mapping[int, Loop]
    unpacking: tuple[Loop, ...] = ()

    def cycles(self, core: Core, tokens: int) -> float:
        """The cycles of one weight with all of the tokens."""
        found, left = 0.0, tokens
        for together, loop in sorted(self.products.items(), reverse=True):
            found += left // together * together / loop.work * loop.cycles(core)
            left %= together
        return found + sum(loop.cycles(core) / loop.work for loop in self.unpacking)


_GATHER = Loop(64, 43, 0, 0, 22, 16)
_PLAIN = {1: Loop(16, 29, 17, 2, 2)}
_QUIET = {8: Loop(1024, 114, 72, 40, 37, 1, around=Loop(16384, 42, 0, 0, 10)), 1: Loop(128, 22, 9, 5, 8)}
_LOUD = {4: Loop(256, 44, 36, 26, 6)}
_BF16 = {2: Loop(64, 24, 16, 8, 6, chain=1), 1: Loop(512, 224, 164, 64, 81, chain=16)}

_CODES_512 = {12: Loop(1536, 49, 24, 24, 16), 8: Loop(1024, 36, 16, 16, 12)}
_TERNARY_512 = Kernel(_CODES_512, (Loop(256, 15, 7, 3, 4, 4),))
_FEW_512 = Kernel({1: Loop(512, 45, 16, 8, 8)})
_INT4_512 = Kernel(_CODES_512, (Loop(512, 90, 69, 33, 13, 8),))
_HALVES_512 = {
    6: Loop(768, 57, 29, 28, 24, chain=1, around=Loop(6144, 102, 31, 6, 25, 22)),
    2: Loop(2048, 276, 174, 98, 109, chain=8),
}
_WIDENED_512 = {
    6: Loop(384, 48, 28, 26, 18, chain=1, around=Loop(6144, 108, 37, 6, 30, 24)),
    2: Loop(128, 24, 12, 10, 10, chain=1, around=Loop(2048, 37, 13, 2, 6, 4)),
}
_FP32_512 = Kernel({12: Loop(384, 49, 24, 24, 16, chain=1), 8: Loop(256, 36, 16, 16, 12, chain=1)})
_FP8_512 = Loop(64, 19, 12, 4, 2, 2)

KERNELS: Mapping[tuple[str, str], Kernel] = {
    ("scalar", "ternary"): Kernel(_PLAIN, (Loop(256, 72, 36, 0, 4, 16), _GATHER)),
    ("scalar", "int8"): Kernel(_PLAIN, (_GATHER,)),
    ("avx2", "ternary"): Kernel(
        {4: Loop(1024, 103, 78, 32, 21, around=Loop(16384, 70, 17, 8, 17, 8)), 1: Loop(256, 42, 30, 8, 6)}
    ),
    ("avx2", "ternary-1.6"): Kernel(
        {4: Loop(1024, 93, 64, 32, 24, around=Loop(16384, 65, 17, 8, 15, 8)), 1: Loop(256, 34, 16, 8, 12)},
        (Loop(320, 95, 68, 0, 22, 10),),
    ),
    ("avx2", "int8"): Kernel(_QUIET),
    ("avx2", "loud-int8"): Kernel(_LOUD),
    ("avx2", "int4"): Kernel(_QUIET, (Loop(256, 165, 134, 32, 17, 16),)),
    ("avx2", "fp8"): Kernel(_BF16, (Loop(64, 41, 32, 0, 4, 4),)),
    ("avx2", "bf16"): Kernel(_BF16),
    ("avx2", "fp32"): Kernel(
        {
            6: Loop(96, 24, 12, 12, 8, chain=1),
            2: Loop(512, 108, 64, 64, 97, chain=16),
            1: Loop(256, 59, 32, 32, 49, chain=16),
        }
    ),
    ("avx512vnni", "ternary"): _TERNARY_512,
    ("avx512vnni", "few ternary"): _FEW_512,
    ("avx512vnni", "ternary-1.6"): Kernel(_CODES_512, (Loop(320, 96, 79, 52, 2, 5),)),
    ("avx512vnni", "int8"): Kernel(_CODES_512),
    ("avx512vnni", "int4"): _INT4_512,
    ("avx512vnni", "fp8"): Kernel(_WIDENED_512, (_FP8_512,)),
    ("avx512vnni", "bf16"): Kernel(_WIDENED_512),
    ("avx512vnni", "fp32"): _FP32_512,
    ("avx512bf16", "ternary"): _TERNARY_512,
    ("avx512bf16", "few ternary"): _FEW_512,
    ("avx512bf16", "ternary-1.6"): Kernel(_CODES_512, (Loop(320, 25, 13, 7, 1, 5),)),
    ("avx512bf16", "few ternary-1.6"): Kernel({1: Loop(640, 61, 28, 16, 9)}),
    ("avx512bf16", "int8"): Kernel(_CODES_512),
    ("avx512bf16", "int4"): _INT4_512,
    ("avx512bf16", "fp8"): Kernel(_HALVES_512, (_FP8_512,)),
    ("avx512bf16", "bf16"): Kernel(_HALVES_512),
    ("avx512bf16", "fp32"): _FP32_512,
    ("neon", "ternary"): Kernel(
        {4: Loop(512, 103, 90, 64, 12), 1: Loop(128, 31, 20, 16, 9)}, (Loop(256, 39, 24, 0, 4, 16),)
    ),
    ("neondot", "ternary"): Kernel({4: Loop(1024, 92, 68, 64, 20)}, (Loop(256, 39, 24, 0, 4, 16),)),
    ("neondot", "few ternary"): Kernel({1: Loop(256, 39, 32, 16, 5)}),
}
"""(instruction set, format) → its product; "few ternary" is that of one to three tokens, "loud-int8" that of
activations which are too large for sums in 16 bits, as normally distributed ones are. What is around AVX2's loops
fetches the next weights, as much as there is to fetch with 32 tokens."""

_ROW = Loop(1, 0, 0, 0, 0, chain=32)
"""What a row of scores waits for, of which the window of instructions holds little more than one: its largest, an
exponential (19 operations), the sum of all and a division, each of which needs the one before."""
_EMBEDDED = Loop(1, 40, 6, 2, 5, 1)

_AVX512 = {
    "norm": Loop(16, 17, 8, 4, 6, 2, chain=1),
    "quantise": Loop(8, 9, 4, 1, 1, 1),
    "bf16": Loop(32, 40, 29, 11, 4, 1),
    "fp32": Loop(16, 9, 5, 3, 2, 1),
    "scaled": Loop(8, 6, 2, 1, 1, 1),
    "scaled floats": Loop(8, 6, 2, 1, 1, 1),
    "scaled rows": Loop(8, 7, 3, 2, 2, 1),
    "gated": Loop(8, 8, 3, 2, 2, 1),
    "added": Loop(8, 6, 1, 0, 2, 1),
    "rotated": Loop(16, 13, 6, 4, 6, 2),
    "copied": Loop(1, 6, 0, 0, 1, 1),
    "attended": Loop(64, 18, 8, 8, 6, chain=1),
    "softmax": Loop(8, 61, 29, 18, 7, 2),
    "rows": _ROW,
    "embedded": _EMBEDDED,
}
_NEON = {
    "norm": Loop(16, 59, 40, 16, 16, 8, chain=1),
    "quantise": Loop(8, 21, 14, 4, 4, 1),
    "bf16": Loop(8, 37, 31, 4, 4, 1),
    "fp32": Loop(4, 9, 4, 2, 2, 1),
    "scaled": Loop(8, 20, 12, 4, 4, 4),
    "scaled floats": Loop(8, 16, 8, 4, 4, 4),
    "scaled rows": Loop(8, 27, 16, 8, 8, 4),
    "gated": Loop(8, 27, 16, 8, 8, 4),
    "added": Loop(8, 14, 4, 0, 8, 4),
    "rotated": Loop(16, 52, 24, 16, 16, 8),
    "copied": Loop(1, 5, 0, 0, 1, 1),
    "attended": Loop(32, 26, 16, 16, 8, chain=1),
    "softmax": Loop(8, 284, 186, 68, 33, 9),
    "rows": _ROW,
    "embedded": Loop(1, 29, 4, 2, 3, 1),
}
BETWEEN: Mapping[str, Mapping[str, Loop]] = {
    "scalar": {
        "norm": Loop(16, 376, 63, 8, 125, 81),
        "quantise": Loop(8, 67, 16, 8, 14, 1),
        "bf16": Loop(8, 65, 43, 4, 4, 1),
        "fp32": Loop(4, 11, 4, 2, 2, 1),
        "scaled": Loop(8, 24, 10, 4, 4, 8),
        "scaled floats": Loop(8, 22, 8, 4, 4, 8),
        "scaled rows": Loop(8, 33, 14, 8, 8, 8),
        "gated": Loop(8, 57, 25, 13, 13, 8),
        "added": Loop(8, 24, 4, 0, 8, 8),
        "rotated": Loop(16, 74, 24, 16, 34, 12),
        "copied": Loop(1, 7, 0, 0, 2, 1),
        "attended": Loop(32, 317, 0, 0, 108, 44),
        "softmax": Loop(8, 1365, 95, 16, 376, 143),
        "rows": _ROW,
        "embedded": _EMBEDDED,
    },
    "avx2": {
        "norm": Loop(16, 27, 16, 8, 8, 4, chain=1),
        "quantise": Loop(8, 16, 10, 2, 2, 1),
        "bf16": Loop(16, 51, 45, 4, 5, 1),
        "fp32": Loop(8, 9, 5, 2, 2, 1),
        "scaled": Loop(8, 9, 4, 2, 2, 2),
        "scaled floats": Loop(8, 9, 4, 2, 2, 2),
        "scaled rows": Loop(8, 11, 6, 4, 4, 2),
        "gated": Loop(8, 13, 6, 4, 4, 2),
        "added": Loop(8, 9, 2, 0, 4, 2),
        "rotated": Loop(16, 24, 12, 8, 12, 4),
        "copied": Loop(1, 6, 0, 0, 1, 1),
        "attended": Loop(32, 18, 8, 8, 6, chain=1),
        "softmax": Loop(8, 110, 58, 34, 23, 4),
        "rows": _ROW,
        "embedded": _EMBEDDED,
    },
    "avx512vnni": _AVX512,
    "avx512bf16": _AVX512,
    "neon": _NEON,
    "neondot": _NEON,
}
"""Instruction set → what is done to a token between products, by csrc/kernels_double.h: "attended" are scores and the
weighing of values, "copied" are keys, "embedded" is read_q6_k of csrc/weights.c. Plain C calls the library's `fma`, of
four instructions."""

BYTES = {"ternary": 1 / 4, "ternary-1.6": 1 / 5, "int8": 1.0, "int4": 17 / 32, "fp8": 1.0, "bf16": 2.0, "fp32": 4.0}
"""Of a weight."""

ZEN3 = Core("AMD Zen 3, AVX2", "avx2", 3.25, 4.75, 4, 2, 2, 1, fused=4)
"""Of the six instructions that it dispatches, what the quickest of these loops come to."""
ZEN3_PLAIN = attrs.evolve(ZEN3, name="AMD Zen 3, plain C", isa="scalar")
ZEN4 = attrs.evolve(ZEN3, name="AMD Zen 4, AVX2", ghz=3.7, instructions=5)
ZEN4_PLAIN = attrs.evolve(ZEN4, name="AMD Zen 4, plain C", isa="scalar")
ZEN4_VNNI = attrs.evolve(
    ZEN4, name="AMD Zen 4, AVX-512 VNNI", isa="avx512vnni", vectors=2, multiplications=1, loads=1, stores=0.5
)
"""What has 512 bits goes through two pipes of 256, or twice through one."""
ZEN4_BF16 = attrs.evolve(ZEN4_VNNI, name="AMD Zen 4, AVX-512 BF16", isa="avx512bf16")
PI_4 = Core("Raspberry Pi 4", "neon", 1.8, 3, 2, 1, 1, 1, fused=3, cores=4, gigabytes=12.8)
PI_5 = Core("Raspberry Pi 5", "neondot", 2.4, 4, 2, 2, 2, 1, fused=2, cores=4, gigabytes=17.1)
"""A Cortex-A72 and a Cortex-A76 as Arm's software optimisation guides describe them, with all that their memory could
give (32 bits of LPDDR4-3200 and LPDDR4X-4267)."""


def multiply_adds_a_cycle(core: Core, format: str, tokens: int) -> float:
    """Of one core, for a batch of so many tokens."""
    few = (core.isa, f"few {format}")
    kernel = KERNELS[few if tokens <= 3 and few in KERNELS else (core.isa, format)]
    return tokens / kernel.cycles(core, tokens)


def product_cycles(core: Core, format: str, tokens: int, shape: RandomShape) -> float:
    """Of one core, for all products of a block with a batch. Activations are normally distributed but for those that a
    gate leaves, most of which are next to nothing.
    """
    found = 0.0
    for name, (rows, columns) in shape.matrix_shapes.items():
        loud = f"loud-{format}"
        kind = loud if name != "ffn_down" and (core.isa, loud) in KERNELS else format
        found += rows * columns * tokens / multiply_adds_a_cycle(core, kind, tokens)
    return found


def between_cycles(core: Core, format: str, tokens: int, shape: RandomShape) -> float:
    """Of one core, for what one token of a text of so many takes between the products of a block."""
    inputs = 3 * shape.width + shape.ffn
    kv = shape.kv_heads * shape.width // shape.heads
    keys = tokens / 2 + 4  # that a query has on average, in groups of eight
    floats = format in ("bf16", "fp32")
    amounts = {
        "norm": inputs,
        format if floats else "quantise": inputs,
        "scaled floats" if floats else "scaled" if format.startswith("ternary") else "scaled rows": _rows(shape),
        "gated": shape.ffn,
        "added": 2 * shape.width,
        "rotated": shape.width + kv,
        "copied": kv,
        "attended": 2 * shape.width * keys,
        "softmax": shape.heads * keys,
        "rows": shape.heads,
    }
    loops = BETWEEN[core.isa]
    return sum(amount * loops[name].cycles(core) / loops[name].work for name, amount in amounts.items())


def between_bytes(shape: RandomShape) -> int:
    """What a block writes of one token and reads again: sums, four bytes each, and the residual stream twice, in
    doubles.
    """
    return 2 * (4 * _rows(shape) + 2 * 8 * shape.width)


def _rows(shape: RandomShape) -> int:
    return sum(rows for rows, _ in shape.matrix_shapes.values())


def _weights(shape: RandomShape) -> int:
    return sum(rows * columns for rows, columns in shape.matrix_shapes.values())


@attrs.frozen
class Prediction:
    """Seconds of a model's blocks with a batch: products, by arithmetic; weights from memory, meanwhile; and what is
    between products.
    """

    tokens: int
    products: float
    memory: float
    between: float

    @property
    def tokens_per_second(self) -> float:
        """At most: for an output head comes on top."""
        return self.tokens / (max(self.products, self.memory) + self.between)


def predict(core: Core, format: str, tokens: int, shape: RandomShape) -> Prediction:
    """For a text of so many tokens on all cores; the weights are read once for it."""
    cycles_a_second, bytes_a_second = core.cores * core.ghz * 1e9, core.gigabytes * 1e9
    between = between_cycles(core, format, tokens, shape) / cycles_a_second + between_bytes(shape) / bytes_a_second
    embedded = shape.width * BETWEEN[core.isa]["embedded"].cycles(core) / cycles_a_second
    return Prediction(
        tokens,
        shape.blocks * product_cycles(core, format, tokens, shape) / cycles_a_second,
        shape.blocks * _weights(shape) * BYTES[format] / bytes_a_second,
        tokens * (shape.blocks * between + embedded),
    )

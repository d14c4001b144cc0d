"""A written model of the engine's speed: tokens a second from the inner loops of its kernels, a core's widths and its
clock, and the bytes that are read. It predicts boards that are not at hand; docs/speed-model.md has how well it does.

A pass of a loop takes as many cycles as its scarcest resource. Multiplications have pipes of their own among those for
vectors; what else is done to vectors keeps out of their way.
Counts are of the loops that GCC makes of csrc/ with the engine's flags (`python benchmarks/speed_model.py --count`).

Knows products of matrices and the bytes of weights. Norms, attention and the output head are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs


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
        work: multiply-adds, of a product; weights, of what unpacks them; columns of a token, of what copies these.
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
_QUIET = {8: Loop(1024, 124, 72, 40, 40, 7), 1: Loop(128, 21, 9, 5, 8)}
_BF16 = {2: Loop(64, 24, 16, 8, 6, chain=1), 1: Loop(512, 218, 164, 64, 80, chain=16)}

_CODES_512 = {12: Loop(1536, 49, 24, 24, 16), 8: Loop(1024, 36, 16, 16, 12)}
_TERNARY_512 = Kernel(_CODES_512, (Loop(256, 15, 7, 3, 4, 4),))
_FEW_512 = Kernel({1: Loop(512, 45, 16, 8, 8)})
_INT4_512 = Kernel(_CODES_512, (Loop(512, 90, 69, 32, 13, 8),))
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
    ("avx2", "ternary"): Kernel({4: Loop(1024, 103, 78, 32, 21), 1: Loop(256, 42, 30, 8, 6)}),
    ("avx2", "ternary-1.6"): Kernel(
        {4: Loop(1024, 93, 64, 32, 24), 1: Loop(256, 34, 16, 8, 12)}, (Loop(320, 95, 68, 0, 22, 10),)
    ),
    ("avx2", "int8"): Kernel(_QUIET),
    ("avx2", "int4"): Kernel(_QUIET, (Loop(256, 165, 134, 32, 17, 16),)),
    ("avx2", "fp8"): Kernel(_BF16, (Loop(64, 41, 32, 0, 4, 4),)),
    ("avx2", "bf16"): Kernel(_BF16),
    ("avx2", "fp32"): Kernel(
        {6: Loop(96, 25, 12, 12, 8, chain=1), 2: Loop(32, 10, 4, 4, 6, chain=1), 1: Loop(16, 7, 2, 2, 3, chain=1)}
    ),
    ("avx512vnni", "ternary"): _TERNARY_512,
    ("avx512vnni", "few ternary"): _FEW_512,
    ("avx512vnni", "ternary-1.6"): Kernel(_CODES_512, (Loop(320, 96, 79, 30, 2, 5),)),
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
"""(instruction set, format) → its product; "few ternary" is that of one to three tokens."""

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

BITNET_2B_4T = 2_084_044_800
"""Ternary weights of the blocks of BitNet-b1.58-2B-4T."""


def multiply_adds_a_cycle(core: Core, format: str, tokens: int) -> float:
    """Of one core, for a batch of so many tokens."""
    few = (core.isa, f"few {format}")
    kernel = KERNELS[few if tokens <= 3 and few in KERNELS else (core.isa, format)]
    return tokens / kernel.cycles(core, tokens)


@attrs.frozen
class Prediction:
    """Tokens a second of a model's blocks: as the arithmetic allows, as memory allows, and the less of the two."""

    arithmetic: float
    memory: float

    @property
    def tokens_per_second(self) -> float:
        """At most: norms, attention and an output head come on top."""
        return min(self.arithmetic, self.memory)


def predict(core: Core, format: str, tokens: int, weights: int = BITNET_2B_4T) -> Prediction:
    """For a batch of so many tokens on all cores; the weights are read once for the batch."""
    arithmetic = core.cores * core.ghz * 1e9 * multiply_adds_a_cycle(core, format, tokens) / weights
    return Prediction(arithmetic, tokens * core.gigabytes * 1e9 / (weights * BYTES[format]))

"""What a student's features keep of the numbers in states, beside those of its teacher.

Knows which models and blocks to compare. The probe itself is every model's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from bitrl.core.config import resolve
from bitrl.core.runs.parts import build
from bitrl.plugins.backbones.tools.probe import STATES, probe

PROBED = 4000
"""States of each kind; a quarter is for judging."""
MOST_BLOCKS = 4
SERIALIZER = "json"


@attrs.frozen
class Kept:
    """Mean R² after one block, of states uniform in the bounds or visited by a random policy (`states`, one of
    STATES).
    """

    env: str
    states: str
    block: int
    teacher: float
    rounded: float
    student: float


def kept_numbers(
    env: str,
    teacher: str,
    student: Path,
    layers: int,
    options: dict[str, Any],
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Kept]:
    """Probe three models after at most MOST_BLOCKS of their blocks, the last among them, with mean pooling.

    They are read as an agent reads them, by the engine: the teacher in bfloat16 ("bf16"), the teacher with its weights
    rounded to ternary ones and nothing else done, and the student. `teacher` is what `-o backbone.model` takes;
    `options` are more of the backbone's. `tell` is called with what is measured, and how many states are read of how
    many.
    """
    blocks = sorted({round(layers * (i + 1) / MOST_BLOCKS) for i in range(MOST_BLOCKS)} - {0})
    found: dict[tuple[str, int], list[float]] = {}
    models = (("bf16", teacher, "the teacher"), ("bitnet", teacher, "the rounded teacher"))
    for backbone, model, name in (*models, ("bitnet", str(student), "the student")):
        chosen = {"model": model, "layers": layers, "cache_mb": 0, **options}
        named = {"env": env, "backbone": backbone, "serializer": SERIALIZER}
        parts = build(resolve({"run": named, "backbone": chosen}))
        for kind in STATES:
            told = partial(_tell, tell, f"measuring: {name} ({kind})")
            for score in probe(parts, (env, SERIALIZER), kind, ["mean"], PROBED, 1, told).scores:
                found.setdefault((kind, score.block), []).append(score.mean)
    return [Kept(env, kind, block, *scores) for (kind, block), scores in found.items() if block in blocks]


def _tell(tell: Callable[[str, int, int], None], what: str, done: int) -> None:
    tell(what, done, PROBED)

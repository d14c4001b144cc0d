"""What a student's features keep of the numbers in states, beside those of its teacher.

Knows which models and blocks to compare. The probe itself is pretraining's.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np

from bitrl.core.loading import load_backbone
from bitrl.plugins.backbones.pretraining.probe import TEST, TRAIN, r_squared
from bitrl.plugins.backbones.pretraining.texts import Known

MOST_BLOCKS = 4


@attrs.frozen
class Kept:
    """Mean R² after one block, of states uniform in the bounds or met by a random policy (`states`)."""

    env: str
    states: str
    block: int
    teacher: float
    rounded: float
    student: float


def kept_numbers(teacher: str, student: Path, layers: int, reader: Known, threads: int) -> list[Kept]:
    """Probe three models after at most MOST_BLOCKS of their blocks, the last among them, with mean pooling.

    They are read as an agent reads them, by the engine: the teacher in bfloat16 ("fp16"), the teacher with its weights
    rounded to ternary ones and nothing else done, and the student.
    """
    blocks = sorted({round(layers * (i + 1) / MOST_BLOCKS) for i in range(MOST_BLOCKS)} - {0})
    rng, count = np.random.default_rng(1), TRAIN + TEST
    met = reader.visited[rng.permutation(len(reader.visited))[:count]]
    found = []
    for name, states in (("uniform", reader.uniform(rng, count)), ("random policy", met)):
        written = reader.write(states.astype(np.float32))
        for block in blocks:
            scores = []
            for kind, model in (("fp16", teacher), ("bitnet", teacher), ("bitnet", str(student))):
                features = load_backbone(kind, model, layers=block, threads=threads).encode(written)
                scores.append(float(r_squared(features, states).mean()))
            found.append(Kept(reader.env, name, block, *scores))
    return found

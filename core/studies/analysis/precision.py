"""What an analysis needs of a backbone whose weights come in several precisions; a plugin makes it (Ladder)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs
import numpy as np


class Encoder(Protocol):
    """A model in one precision."""

    def encode(self, inputs: Sequence[str], /) -> np.ndarray:
        """Features of n texts: float32 [n, d]."""
        ...

    def after_blocks(self, texts: Sequence[str], /) -> np.ndarray:
        """Pooled states of n texts after every block: float32 [n, blocks, w]."""
        ...


@attrs.frozen(eq=False)
class Precision:
    """A model's weights in one precision.

    Attributes:
        name: short, as tables have it.
        summary: in words.
        epsilon: ε_Q = ‖Q(W) − W‖ / ‖W‖ (Frobenius) of each matrix, W being the reference's; of a model of its own
            training it is no error of quantisation, but the distance of two models.
        overall: the same of all matrices together.
        own_training: whether it is another model than the reference: trained apart, in this precision.
        open: loads it. What was opened before may have changed: use one at a time.
    """

    name: str
    summary: str
    epsilon: Mapping[str, float]
    overall: float
    own_training: bool
    open: Callable[[], Encoder]


@attrs.frozen(eq=False)
class Ladder:
    """The precisions of one model.

    Attributes:
        reference: full precision, which the others are compared with.
        precisions: as runs use them, weights and activations rounded.
        steps: weights alone rounded, all else as in the reference; for fits over ε_Q. Names of one family share what
            comes before a comma.
        run: the name of the precision that the run's heads were trained on.
        run_own_training: whether that is a model of its own training.
        notes: what is measured and what is left out, in sentences.
    """

    reference: Precision
    precisions: tuple[Precision, ...]
    steps: tuple[Precision, ...]
    run: str
    run_own_training: bool
    notes: tuple[str, ...]


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """‖value − reference‖ / ‖reference‖, Frobenius; 0 where both are zero."""
    size = float(np.linalg.norm(np.asarray(reference, np.float64)))
    error = float(np.linalg.norm(np.asarray(value, np.float64) - reference))
    return error / size if size else (0.0 if error == 0 else float("inf"))

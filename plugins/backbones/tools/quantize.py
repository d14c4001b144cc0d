"""Post-training quantisation: a model of floats as a GGUF file of few bits, and what that costs each matrix.

Knows which types lose what and measures it. convert.py writes the file.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np

from bitrl.core.errors import UsageError, unknown
from bitrl.plugins.backbones.engine.engine import open_model
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.tools.convert import Source, Tell, convert, in_llama_cpps_order, is_block_matrix

ALIASES = {"ternary": "tq2_0", "int8": "q8_0", "int4": "q4_0"}
TYPES = (*ALIASES, "q8_0", "q4_0", "q4_1", "tq2_0", "tq1_0")
EMBEDDING_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")
FLOATS = ("F32", "F16", "BF16")


@attrs.frozen
class Loss:
    """What a matrix lost: its relative error ‖Q(W) − W‖ / ‖W‖ in the Frobenius norm, 0 when W is 0."""

    name: str
    shape: tuple[int, ...]
    before: str
    after: str
    error: float


@attrs.frozen
class Quantised:
    """The losses of every matrix whose type changed, that of them all as one vector, and what others will miss."""

    losses: list[Loss]
    error: float
    lacks: list[str]


def quantize(
    source: Path,
    out: Path,
    kind: str,
    embeddings: str | None = None,
    again: bool = False,
    activation: str | None = None,
    tell: Tell = lambda done, total: None,
) -> Quantised:
    """Write `source` to `out` with the blocks' matrices in `kind`, one of TYPES, and measure what was written.

    Ternary weights are −1, 0, 1 times the mean absolute weight of the matrix (BitNet b1.58). `embeddings`, one of
    EMBEDDING_TYPES, is the type of the embedding and the head; None keeps theirs. A source that is quantised already is
    refused unless `again`. Raises as `convert`, and UsageError for an unknown type.
    """
    if kind not in TYPES:
        raise unknown("type", kind, TYPES)
    if embeddings is not None and embeddings not in EMBEDDING_TYPES:
        raise unknown("type of embeddings", embeddings, EMBEDDING_TYPES)
    file = open_model(source, activation)
    was = {tensor.name: tensor.type for tensor in file.tensors() if len(tensor.shape) == 2}
    packed = sorted({was[name] for name in was if is_block_matrix(name)} - set(FLOATS))
    if packed and not again:
        raise UsageError(
            f"{source}: its matrices are quantised already ({', '.join(packed)}), and quantising twice loses more: "
            "take the model in full precision, or --again to do so anyway"
        )
    lacks = convert(source, out, ALIASES.get(kind, kind), activation, embeddings=embeddings, tell=tell)
    written = open_model(out)
    losses, squared, whole = [], 0.0, 0.0
    for tensor in written.tensors():
        before = was.get(tensor.name)
        if before is None or before == tensor.type:
            continue
        weights = _weights(file, tensor.name)
        difference = float(np.linalg.norm(_weights(written, tensor.name) - weights))
        norm = float(np.linalg.norm(weights))
        losses.append(Loss(tensor.name, tensor.shape, before, tensor.type, difference / norm if norm else 0.0))
        squared, whole = squared + difference**2, whole + norm**2
    return Quantised(losses, (squared / whole) ** 0.5 if whole else 0.0, lacks)


def loses(source: Path, kind: str, activation: str | None = None, linear_class: str | None = None) -> bool:
    """Whether writing `source` in `kind` would quantise floats."""
    if kind.upper() in FLOATS:
        return False
    tensors = open_model(source, activation, linear_class).tensors()
    return any(tensor.type in FLOATS and is_block_matrix(tensor.name) for tensor in tensors)


def _weights(file: Source, name: str) -> np.ndarray:
    """Float64, in llama.cpp's order of rows, with the matrix's scale where that is a tensor of its own."""
    weights = in_llama_cpps_order(file, name, file.weights(name)).astype(np.float64)
    scale = f"{name.removesuffix('.weight')}.scale"
    if any(tensor.name == scale for tensor in file.tensors()):
        weights *= file.weights(scale).astype(np.float64)
    if not np.isfinite(weights).all():
        raise ModelFileError(file.path, f"is damaged: {name} is not finite")
    return weights

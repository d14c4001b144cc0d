"""A language model in several precisions, as `bitrl analyze` compares them (bitrl.core.studies.analysis.precision).

Knows which two models are a pair, how formats round weights, and how weights are put into a loaded model. Does not know
what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.options import parse
from bitrl.core.studies.analysis.precision import Encoder, Ladder, Precision
from bitrl.core.wording import setting
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.catalogue import ENTRIES, local
from bitrl.plugins.backbones.language_model import LanguageModel

FULL, TRAINED, UNTRAINED = "fp32", "ternary", "ternary untrained"
"""The reference; the ternary model of the pair; its twin, rounded to ternary."""
FORMATS = {"bf16": "bf16", "int8": "int8", "int4": "int4", UNTRAINED: "ternary"}
"""Precision of the twin's weights → the engine's format."""
BITS = (8, 7, 6, 5, 4, 3)
SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
AT_ONCE = 64

Round = Callable[[np.ndarray], np.ndarray]
"""Weights float32 [R, K] → rounded, in the same shape."""


class ModelEncoder:
    """A language model, read as features and as pooled states after each block; never cached."""

    def __init__(self, model: LanguageModel):
        self.model = model

    def encode(self, inputs: Sequence[str]) -> np.ndarray:
        """n texts → features float32 [n, d]."""
        return self.model.encode(inputs)

    def after_blocks(self, texts: Sequence[str]) -> np.ndarray:
        """n texts → float32 [n, blocks, w]."""
        pooling, count = self.model.pooling, self.model.number_count or 0
        parts = [
            self.model.pooled_blocks(texts[start : start + AT_ONCE], [pooling], count)[pooling]
            for start in range(0, len(texts), AT_ONCE)
        ]
        return np.concatenate(parts)


class ReferenceWeights:
    """Weights of a model's blocks, one matrix at a time, and those of the reference rounded into a loaded copy."""

    def __init__(self, options: LanguageModelOptions, width: int | None, names: Sequence[str]):
        self.options, self.width, self.names = options, width, names

    @cached_property
    def model(self) -> LanguageModel:
        """The reference, whose matrices are replaced."""
        return LanguageModel(self.options, self.width, FULL)

    def read(self, name: str) -> np.ndarray:
        """float32 [R, K], as the file holds them."""
        return self.model.engine.file.weights(name, self.options.i2s_packing)

    def open(self, rounded: Round) -> Encoder:
        """The reference with each matrix rounded."""
        for name in self.names:
            self.model.engine.replace(name, rounded(self.read(name)))
        return ModelEncoder(self.model)


def precisions_of(backbone: Any, twin: str | None = None) -> Ladder:
    """The precisions of a run's language model.

    Args:
        backbone: the run's.
        twin: the other model of the pair; None: as the catalogue has it.

    Raises:
        UsageError: it is no language model, has adapters, or there is no full-precision model beside it.
    """
    own = _checked(backbone)
    name = own.options.model or ("starter" if own.engine.format.startswith("ternary") else "starter-fp16")
    trained_ternary = _holds_ternary(own)
    other = twin or _other_of_pair(name)
    if trained_ternary and other is None:
        raise UsageError(
            f"{name}: holds ternary weights, and no full-precision twin of it is known: name one with "
            f"{setting('twin', 'MODEL')}, or analyse a run with a model of floats"
        )
    options = partial(_options, own.options)
    full = options(other if trained_ternary else name)
    names = _matrices(own)
    weights = ReferenceWeights(full, own.number_count, names)
    _check_pair(own, weights.model, other)
    if trained_ternary and _holds_ternary(weights.model):
        raise UsageError(f"{other}: holds ternary weights, as the run's model does: name its full-precision twin")
    notes = []
    ternary = name if trained_ternary else other
    if ternary is not None and not trained_ternary and not _available(ternary, twin):
        notes.append(f"the ternary model trained beside {name} is not here ({ternary}), and is left out")
        ternary = None
    elif ternary is None:
        notes.append(f"no ternary model trained beside {name} is known ({setting('twin', 'MODEL')}): it is left out")
    reference = _precision(FULL, f"{full.model}: its own weights, float32 arithmetic", weights, None, full, FULL)
    found = [
        _precision(label, f"{full.model} in the engine's {format}", weights, rounding(format), full, format)
        for label, format in FORMATS.items()
    ]
    if ternary is not None:
        found.append(_sibling(options(ternary), own.number_count, weights))
    run = TRAINED if trained_ternary else own.engine.format
    return Ladder(
        reference=reference,
        precisions=tuple(found),
        steps=tuple(_steps(weights)),
        run=UNTRAINED if run == "ternary" and not trained_ternary else run,
        run_own_training=trained_ternary,
        notes=tuple(notes),
    )


def rounding(format: str) -> Round:
    """How the engine rounds a matrix that it loads in a format, or replaces."""
    import torch

    from bitrl.plugins.backbones.training.products import codes_of

    def rounded(weights: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(np.ascontiguousarray(weights))
        if format == "bf16":
            return given.bfloat16().float().numpy()
        codes, scale = codes_of(given, format)
        return (codes * scale.view(-1, 1)).float().numpy()

    return rounded


def to_bits(bits: int) -> Round:
    """Rounding to integers of so many bits with one scale a row, that of its largest weight: int8's at 8."""
    most = 2 ** (bits - 1) - 1

    def rounded(weights: np.ndarray) -> np.ndarray:
        scale = np.abs(weights.astype(np.float64)).max(axis=1, keepdims=True) / most
        found: np.ndarray = np.rint(weights / np.where(scale > 0, scale, 1)) * scale
        return found.astype(np.float32)

    return rounded


def towards(share: float, rounded: Round) -> Round:
    """W + share·(Q(W) − W)."""
    return lambda weights: (weights + np.float32(share) * (rounded(weights) - weights)).astype(np.float32)


def epsilon(pairs: Iterator[tuple[str, np.ndarray, np.ndarray]]) -> tuple[dict[str, float], float]:
    """Of (matrix, Q(W), W): ε_Q = ‖Q(W) − W‖ / ‖W‖ of each, and of all together."""
    each, errors, sizes = {}, 0.0, 0.0
    for name, rounded, weights in pairs:
        error = float(np.linalg.norm(rounded.astype(np.float64) - weights) ** 2)
        size = float(np.linalg.norm(weights.astype(np.float64)) ** 2)
        each[name.removesuffix(".weight")] = math.sqrt(error / size) if size else 0.0
        errors, sizes = errors + error, sizes + size
    return each, math.sqrt(errors / sizes) if sizes else 0.0


def _checked(backbone: Any) -> LanguageModel:
    if not isinstance(backbone, LanguageModel):
        raise UsageError(
            "the run has no language model, whose precisions could be compared: analyse a run with "
            f"{setting('backbone', 'bitnet', 'int8', 'int4', 'bf16')}"
        )
    if backbone.options.lora_rank is not None:
        raise UsageError(
            "the run's language model learned adapters (backbone.lora_rank): the theory is about frozen weights: "
            "analyse a run without"
        )
    return backbone


def _options(own: LanguageModelOptions, model: str | None) -> LanguageModelOptions:
    """The run's options for another model, without a cache."""
    readout = ("layers", "pooling", "projection", "directions", "chunk")
    kept = (*readout, "threads", "i2s_packing", "activation", "linear_class")
    values = {name: getattr(own, name) for name in kept}
    options: LanguageModelOptions = parse(LanguageModelOptions, {**values, "model": model, "cache_mb": 0.0}, "backbone")
    return options


def _holds_ternary(model: LanguageModel) -> bool:
    """Whether the file's weights are -1, 0 and 1 times a scale."""
    [name, *_] = _matrices(model)
    sizes = np.abs(model.engine.file.weights(name, model.options.i2s_packing))
    return bool(((sizes == 0) | (sizes == sizes.max())).all())


def _other_of_pair(name: str) -> str | None:
    for entry in ENTRIES.values():
        if entry.twin is not None and name in (entry.name, entry.twin):
            return entry.twin if name == entry.name else entry.name
    return None


def _available(name: str, given: str | None) -> bool:
    """Whether a model of the catalogue is here; one that was given by the user is resolved, and refused, later."""
    return name == given or Path(name).exists() or (name in ENTRIES and local(ENTRIES[name]) is not None)


def _matrices(model: LanguageModel) -> list[str]:
    """The matrices of the blocks that are run, by their tensors' names."""
    there = {tensor.name for tensor in model.engine.tensors if len(tensor.shape) == 2}
    blocks = tuple(f"blk.{index}." for index in range(model.engine.blocks))
    return sorted((name for name in there if name.startswith(blocks)), key=lambda name: (int(name.split(".")[1]), name))


def _check_pair(own: LanguageModel, other: LanguageModel, name: str | None) -> None:
    """Refuse a twin of another shape or with another tokenizer."""
    shapes = [{tensor.name: tensor.shape for tensor in model.engine.tensors} for model in (own, other)]
    if any(shapes[0][matrix] != shapes[1].get(matrix) for matrix in _matrices(own)):
        raise UsageError(f"{name}: is no twin of the run's model: its matrices have other shapes: name another")
    if own.tokenizer.to_str() != other.tokenizer.to_str():
        raise UsageError(f"{name}: is no twin of the run's model: it has another tokenizer: name another")


def _precision(
    name: str,
    summary: str,
    weights: ReferenceWeights,
    rounded: Round | None,
    options: LanguageModelOptions,
    format: str,
) -> Precision:
    """The reference in a format of the engine."""

    def pairs() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for matrix in weights.names:
            given = weights.read(matrix)
            yield matrix, given if rounded is None else rounded(given), given

    each, overall = epsilon(pairs())
    opened = lambda: ModelEncoder(LanguageModel(options, weights.width, format))  # noqa: E731
    return Precision(name, summary, each, overall, False, opened)


def _sibling(options: LanguageModelOptions, width: int | None, weights: ReferenceWeights) -> Precision:
    """The ternary model of the pair; its distance from the reference is no error of quantisation."""
    model = LanguageModel(options, width, "ternary")
    _check_pair(weights.model, model, options.model)
    if not _holds_ternary(model):
        raise UsageError(f"{options.model}: holds floats, as the run's model does: name the ternary model of the pair")
    read = partial(model.engine.file.weights, i2s_packing=options.i2s_packing)
    each, overall = epsilon((name, read(name), weights.read(name)) for name in weights.names)
    return Precision(TRAINED, f"{options.model}, trained ternary", each, overall, True, lambda: ModelEncoder(model))


def _steps(weights: ReferenceWeights) -> Iterator[Precision]:
    """Weights alone rounded: to fewer and fewer bits, and by shares of the way to ternary."""
    rounds = {f"rounded, {bits} bits": to_bits(bits) for bits in BITS}
    ternary = rounding("ternary")
    rounds |= {f"towards ternary, {share:.3g} of the way": towards(share, ternary) for share in SHARES}
    for name, rounded in rounds.items():
        each, overall = epsilon((matrix, rounded(w := weights.read(matrix)), w) for matrix in weights.names)
        yield Precision(
            name, f"float32 arithmetic, weights {name}", each, overall, False, partial(weights.open, rounded)
        )

"""The memory that a language model takes, computed from its file's header before a weight is read.

For runs with a memory limit (BackboneRecord.memory): an upper bound, rather too much than too little.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs

from bitrl.core.cpus import available_cpus
from bitrl.core.process_memory import MB, BackboneMemory
from bitrl.plugins.backbones import LanguageModelOptions, TernaryOptions
from bitrl.plugins.backbones.catalogue import hints, resolve
from bitrl.plugins.backbones.directions import read
from bitrl.plugins.backbones.engine.engine import open_model, plan
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.backbones.language_model import starter_path
from bitrl.plugins.backbones.tools.number_directions import EACH
from bitrl.plugins.backbones.tools.readout import STATES, leaves_choice

if TYPE_CHECKING:
    from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile

TOKENIZER, TOKENIZER_SHARE = 8 * MB, 10
"""Of the library and a small vocabulary, and what each byte of the file's header, which holds it, takes more."""
ROWS = 512
"""Of the embedding, which are kept as their tokens are met: states are written with few different ones."""
_FLOAT, _DOUBLE = 4, 8


def needed(options: LanguageModelOptions, numbers: int | None, format: str) -> BackboneMemory:
    """Of a model with these options, whose texts hold so many `numbers`, in a `format` of the engine's.

    Raises:
        UsageError: there is no such model.
        ModelFileError: it cannot be used.
    """
    path = resolve(options.model) if options.model else starter_path(ternary=format.startswith("ternary"))
    known = hints(options.model) if options.model else {}
    activation = options.activation or known.get("activation")
    file = open_model(path, activation, options.linear_class or known.get("linear_class"))
    found = plan(file, format, activation)
    shape, rows = found.shape, min(ROWS, found.shape.vocabulary)
    embedding = next(tensor for tensor in file.tensors() if tensor.name == "token_embd.weight")
    matrices = found.matrix_bytes * min(options.layers or shape.blocks, shape.blocks) // shape.blocks
    norms = _DOUBLE * sum(math.prod(tensor.shape) for tensor in file.tensors() if len(tensor.shape) == 1)
    model = matrices + norms + found.session_bytes(options.threads or available_cpus(), format)
    model += TOKENIZER + TOKENIZER_SHARE * _vocabulary_bytes(file)
    model += rows * embedding.bytes // shape.vocabulary + 4 * shape.vocabulary
    if options.lora_rank is not None:
        from bitrl.plugins.backbones.tools.inspection import lora_memory_of

        lora = lora_memory_of(file, found, options.lora_rank, options.lora_targets)
        model += 0 if lora is None else sum(attrs.astuple(lora)[1:])
    states = (numbers or 1) if options.pooling == "field" else 1
    each = shape.width if options.directions is None else len(read(options.directions, shape.width))
    width = options.projection or int(states * each)
    before = 0
    if leaves_choice(options):
        width = max(int(2 * shape.width if (numbers or 1) > 1 else shape.width), EACH * (numbers or 1))  # at most
        before = 3 * _FLOAT * STATES * max(numbers or 1, 1) * shape.width  # of all numbers' states, and sums of them
    return BackboneMemory(width=width, model=model, cache=int(options.cache_mb * MB), before=before)


def _vocabulary_bytes(file: ModelFile | HuggingFaceFile) -> int:
    """Of the part of a model's files that holds its vocabulary."""
    if isinstance(file, ModelFile):
        return file.data_offset
    return len(file.tokenizer_json()) if file.has_tokenizer() else 0


def ternary(options: TernaryOptions, numbers: int | None) -> BackboneMemory:
    """`needed` with ternary weights."""
    return needed(options, numbers, "ternary" if options.bits == "2" else "ternary-1.6")


def int8(options: Any, numbers: int | None) -> BackboneMemory:
    """`needed` with 8-bit weights."""
    return needed(options, numbers, "int8")


def int4(options: Any, numbers: int | None) -> BackboneMemory:
    """`needed` with 4-bit weights."""
    return needed(options, numbers, "int4")


def bf16(options: Any, numbers: int | None) -> BackboneMemory:
    """`needed` with bfloat16 weights."""
    return needed(options, numbers, "bf16")


def fp32(options: Any, numbers: int | None) -> BackboneMemory:
    """`needed` with float32 weights."""
    return needed(options, numbers, "fp32")

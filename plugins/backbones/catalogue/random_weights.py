"""Copies of a packaged model with random weights: does the language model matter, or would any frozen features do?

The copy has the tokenizer and the shape of the original. Its matrices are −1, 0 and 1 with equal probability at the
original's scales, its embeddings normal with the original's standard deviation, and its norms are one: nothing that was
learned is left but these sizes. It is made once for each original and seed, in the cache of downloaded models.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path

import gguf
import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.files import cannot_write, put_in_place
from bitrl.plugins.backbones.catalogue import receipts
from bitrl.plugins.backbones.files.model_file import ModelFile, seal

_NAME = re.compile(r"random:([a-z0-9-]+)(?:@(\d{1,9}))?")
_BLOCK, _CODES = 66, 64  # bytes of a TQ2_0 block of 256 weights: four codes a byte, then a float16 scale


def random_copy(source: Path, seed: int) -> Path:
    """The copy of a packaged model with this seed; made if need be.

    Raises:
        RunFailed: it cannot be written.
    """
    # Another version's original has another seal, and so a copy of its own.
    path = receipts.cache() / f"random-{source.stem}-{seed}-{str(ModelFile(source).seal())[:12]}.gguf"
    if path.is_file():
        return path
    receipts.make_directory(receipts.cache())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        _randomise(temporary, np.random.default_rng(seed))
        seal(temporary)
        put_in_place(temporary, path)
    except OSError as error:
        raise cannot_write(path, error, receipts.ELSEWHERE) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def parse_name(name: str) -> tuple[str, int]:
    """`random:starter@3` → ("starter", 3). Raises UsageError for another form."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"{name}: expected random:MODEL or random:MODEL@SEED, for example random:starter@1")
    return found[1], int(found[2] or 0)


def _randomise(path: Path, generator: np.random.Generator) -> None:
    """Replace the weights in a packaged model: matrices in TQ2_0 or float16, float16 embeddings and float32 norms."""
    file = ModelFile(path)
    place, tensors = file.data_offset, file.tensors()
    data = np.memmap(path, np.uint8, "r+")
    for tensor in tensors:
        place += -place % gguf.GGUF_DEFAULT_ALIGNMENT
        part = data[place : place + tensor.bytes]
        if tensor.type == "F32":
            part[:] = np.ones(math.prod(tensor.shape), np.float32).view(np.uint8)
        elif tensor.type == "F16":
            std = part.view(np.float16).astype(np.float32).std()
            part[:] = generator.normal(0, std, math.prod(tensor.shape)).astype(np.float16).view(np.uint8)
        else:  # TQ2_0
            codes = generator.integers(0, 3, (tensor.bytes // _BLOCK, _CODES, 4), np.uint8)
            packed = np.bitwise_or.reduce(codes << np.array([0, 2, 4, 6], np.uint8), axis=2)
            part.reshape(-1, _BLOCK)[:, :_CODES] = packed
        place += tensor.bytes
    data.flush()

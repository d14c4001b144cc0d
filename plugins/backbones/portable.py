"""A language model as an agent's file has it, for programs without Python (csrc/agent).

Knows which models, tokenizers and poolings these can run, and refuses the others in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import asdict
from tokenizers import Tokenizer

from bitrl._engine import ffi, lib
from bitrl.core.acting.gguf_bytes import RawKey, RawTensor
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import PortableModel
from bitrl.core.wording import program, setting
from bitrl.plugins.backbones.files.byte_vocabulary import byte_vocabulary
from bitrl.plugins.backbones.files.gguf_handle import message
from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError

if TYPE_CHECKING:
    from bitrl.plugins.backbones.language_model import LanguageModel

_ERROR_BYTES = 256
_OWN_TYPES = 1000  # of csrc/internal.h: types of tensors that no file has
_HEAD = ("output.weight", "output_norm.weight")  # which reading a text does not need


def portable(model: LanguageModel) -> PortableModel:
    """A model as it is now, with what its adapters learned.

    Raises:
        UsageError: its file, tokenizer or projection is one that programs without Python do not have.
    """
    engine, options = model.engine, model.options
    if not isinstance(engine.file, ModelFile):
        raise UsageError(
            f"{engine.path} is a checkpoint of several files, and agents for C hold their model as GGUF: convert it "
            f"with {program()} model convert, and train with {setting('backbone.model', 'FILE.gguf')}"
        )
    if model.projection is not None:
        raise UsageError(
            f"backbone.projection with pooling {model.pooling} cannot run without Python: leave it out, or use "
            f"{setting('backbone.pooling', 'field')}"
        )
    keys: dict[str, Any] = {**_keys(engine.file), **_vocabulary(model.tokenizer, engine.path)}
    tensors: dict[str, Any] = {**_tensors(engine.file, engine.blocks)}
    facts: dict[str, Any] = {
        "format": engine.format,
        "layers": engine.blocks,
        "activation": model.activation,
        "i2s_arm": options.i2s_packing == "arm",
        "pooling": model.pooling,
        "first": model._prefix[0] if model._prefix else -1,
        "last": model._suffix[0] if model._suffix else -1,
    }
    if model.pooling == "field":
        facts |= {"numbers": model.number_count, "chunk": model.chunk or 0}
    if model.sketch is not None:
        keys["bitrl.agent.sketch"] = model.sketch
        facts["columns"] = model.width
    if model.directions is not None:
        keys["bitrl.agent.directions"] = model.directions.ravel()
        facts["directions"] = len(model.directions)
    adapters = getattr(model, "adapters", None)
    if adapters is not None:
        facts["adapters"] = []
        for name in adapters.names:
            down, up = adapters.arrays[f"{name}.down"], adapters.arrays[f"{name}.up"] * np.float32(adapters.factor)
            tensors |= {f"agent.{name}.down": down.ravel(), f"agent.{name}.up": up.ravel()}
            facts["adapters"].append({"name": name, "rank": len(down), "rows": len(up), "columns": down.shape[1]})
    return PortableModel(keys, tensors, facts)


def _keys(file: ModelFile) -> Mapping[str, RawKey]:
    """The keys that say the model's architecture."""
    found = {}
    for i in range(lib.bitrl_file_key_count(file.handle)):
        item = lib.bitrl_file_key(file.handle, i)
        name = bytes(ffi.buffer(item.name, item.name_bytes)).decode(errors="replace")
        if name.partition(".")[0] not in ("tokenizer", "bitrl", "split") and name != "general.alignment":
            value = bytes(ffi.buffer(item.value, item.value_bytes))
            found[name] = RawKey(item.type, item.element_type, item.count, value)
    return found


def _tensors(file: ModelFile, blocks: int) -> Mapping[str, RawTensor]:
    """The weights of the embedding and of the blocks that are run."""
    error, found = ffi.new("char[]", _ERROR_BYTES), {}
    file.sizes.check()
    for i in range(lib.bitrl_file_tensor_count(file.handle)):
        item = lib.bitrl_file_tensor(file.handle, i)
        name = bytes(ffi.buffer(item.name, item.name_bytes)).decode(errors="replace")
        parts = name.split(".")
        if name in _HEAD or (parts[0] == "blk" and int(parts[1]) >= blocks):
            continue
        if item.type >= _OWN_TYPES:
            raise UsageError(f"{file.path} has weights in blocks that no other file has: quantise its model anew")
        data = bytearray(item.bytes)
        if lib.bitrl_read_bytes(item, ffi.from_buffer("uint8_t[]", data), error) != lib.BITRL_OK:
            raise ModelFileError(file.path, message(error))
        found[name] = RawTensor(item.type, tuple(item.shape[d] for d in range(item.dims)), memoryview(data))
    file.sizes.check()
    return found


def _vocabulary(tokenizer: Tokenizer, path: str) -> Mapping[str, np.ndarray]:
    try:
        found = byte_vocabulary(tokenizer)
    except ValueError as error:
        raise UsageError(f"{path}: its tokenizer cannot run without Python: {error}") from None
    return {f"bitrl.agent.{name}": value for name, value in asdict(found).items()}

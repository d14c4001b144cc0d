"""A Hugging Face checkpoint as one file for the engine: the same face as ModelFile.

Knows which files a checkpoint has and hands their checked contents to the engine. Runs no code of the checkpoint's, and
asks no network. Does not know what keys and tensors mean: hugging_face.py translates them.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitrl._engine import ffi, lib
from bitrl.plugins.backbones.files import model_file
from bitrl.plugins.backbones.files.foreign import cause
from bitrl.plugins.backbones.files.hugging_face import (
    TIED,
    CheckpointConfig,
    Key,
    Translated,
    engine_keys,
    engine_tensors,
    text_part,
)
from bitrl.plugins.backbones.files.model_file import ModelFileError, Tensor
from bitrl.plugins.backbones.files.safetensors_file import parse_json, read_bytes, read_safetensors, read_shards, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
HEAD = "output.weight"
FOREIGN = {
    "*.gguf": "name that file",
    "*.safetensors": "name that file, or call it as these are called",
    "*.bin": "weights as a pickle are not read, since they could run code; get or save the model as safetensors",
    "*.pt*": "weights as a pickle are not read, since they could run code; get or save the model as safetensors",
    "*.onnx": "ONNX is not read; get the model as safetensors or GGUF",
    "*.h5": "Keras' files are not read; get the model as safetensors or GGUF",
}
"""What a directory may hold instead of a checkpoint, and what to do then."""
_MOST_CONFIG, _MOST_TOKENIZER = 4 << 20, 64 << 20
_ERROR_BYTES = 256
_BOOL, _ARRAY = 7, 9  # GGUF's numbers of types


class HuggingFaceFile:
    """A checkpoint's files with checked headers, under GGUF's keys and names.

    `path` is its directory, its .safetensors file or its index. `activation` and `linear_class` as in Engine.
    Raises ModelFileError when a file is missing or damaged, or holds what the engine does not compute.
    """

    def __init__(
        self, path: str | os.PathLike[str], activation: str | None = None, linear_class: str | None = None
    ) -> None:
        self.path = os.fspath(path)
        weights = _weights(Path(path))
        self.directory = weights.parent
        if not (self.directory / CONFIG).is_file():
            raise ModelFileError(path, f"has no {CONFIG} beside its weights, which says what they are; get it")
        self.config = CheckpointConfig(text_part(_object(self.directory / CONFIG)), self.directory / CONFIG)
        keys = engine_keys(self.config, activation)
        if weights.name.endswith(".json"):
            stored, shards = read_shards(weights)
        else:
            stored, shards = read_safetensors(weights), [weights]
        small = (CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG)
        self._files = [name for name in small if (self.directory / name).is_file()]
        self._files += [shard.name for shard in shards]
        self.sizes = model_file.Sizes(shards)
        tensors = list(engine_tensors(stored, self.config, weights, linear_class))
        self._data = [tensor.data for tensor in tensors]  # keep the files open that the engine reads
        self.handle, self._computed = _assemble(self.path, keys, tensors)
        self._keys = keys
        tied = self.config.values.get("tie_word_embeddings", self.config.values["model_type"] in TIED)
        # The engine would take the embedding for a head.
        self.lacks_head = tied is False and all(tensor.name != HEAD for tensor in tensors)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return int(lib.bitrl_file_size(self.handle))

    @property
    def own_format(self) -> str | None:
        """The format that config.json asks for, whatever the weights are stored in; None where it asks for none."""
        online = self.config.group("quantization_config").get("quantization_mode") == "online"
        return "ternary" if online else None

    def metadata(self) -> dict[str, Any]:
        """Every key with its value, those of the tokens around texts included. Raises as `tokenizer`."""
        return self._keys | self._around_texts | self._chat_template

    def tensors(self) -> list[Tensor]:
        """Every tensor, under GGUF's names."""
        return model_file.tensors(self)

    def weights(self, name: str, i2s_packing: str = "x86") -> np.ndarray:
        """A tensor's weights as float32, in its shape, in Hugging Face's order of rows. Raises as ModelFile.weights."""
        self.sizes.check()
        found = model_file.weights(self, name, i2s_packing)
        self.sizes.check()
        return found

    def verify(self, largest: int | None = 256 << 20) -> str:
        """A checkpoint carries no seal."""
        return "unsealed"

    def seal(self) -> None:
        """A checkpoint carries no seal."""

    def sha256(self) -> str:
        """What tells this model from another: the digest of its files' names and digests."""
        whole = hashlib.sha256()
        for name in self._files:
            with (self.directory / name).open("rb") as file:
                whole.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()

    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer.json."""
        return TOKENIZER in self._files

    def tokenizer_json(self) -> str:
        """tokenizer.json's text. Raises ModelFileError when there is none."""
        if not self.has_tokenizer():
            raise ModelFileError(self.path, f"has no {TOKENIZER}, so texts cannot be read; get it")
        path = self.directory / TOKENIZER
        try:
            text = read_bytes(path, _MOST_TOKENIZER).decode()
        except UnicodeDecodeError:
            raise ModelFileError(path, cause(path, "JSON") or "is damaged: it is not UTF-8") from None
        if not text.lstrip().startswith("{"):
            raise ModelFileError(path, cause(path, "JSON") or "is damaged: it is not a JSON object")
        return text

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What tokenizer.json holds, made once. Raises ModelFileError when it is missing or broken."""
        from bitrl.plugins.backbones.files.tokenizer import tokenizer_from_json  # only texts need it

        return tokenizer_from_json(self.tokenizer_json(), self.path)

    @cached_property
    def end_tokens(self) -> list[int]:
        """The ids that end what is generated: generation_config.json's, as transformers takes them, else config.json's.

        Models that chat often name the end of an answer in the first alone. The one that chat templates know as
        eos_token comes first, as a GGUF file then names it. Raises ModelFileError when it is damaged.
        """
        said = _object(self.directory / GENERATION_CONFIG) if GENERATION_CONFIG in self._files else {}
        named = said.get("eos_token_id")
        named = self.config.values.get("eos_token_id") if named is None else named
        vocabulary = self.config.count("vocab_size")
        ids = named if isinstance(named, list) else [named]
        found = list(dict.fromkeys(id for id in ids if type(id) is int and 0 <= id < vocabulary))
        named = self._token(self.named_tokens.get("eos_token")) if len(found) > 1 and self.has_tokenizer() else None
        return sorted(found, key=lambda id: id != named)

    @cached_property
    def _around_texts(self) -> dict[str, Any]:
        """Whether tokens go before and after every text, and which, under GGUF's keys.

        add_bos_token and add_eos_token say so of the tokens that tokenizer_config.json names; without them, what
        tokenizer.json itself puts around a text, whatever it is called ([CLS], [SEP]). Raises ModelFileError when that
        is more than one token on a side.
        """
        if not self.has_tokenizer():
            return {}
        said = _object(self.directory / TOKENIZER_CONFIG) if TOKENIZER_CONFIG in self._files else {}
        first, last = self._token(said.get("bos_token")), self._token(said.get("eos_token"))
        before, after = self._around_a_text()
        begins, ends = said.get("add_bos_token"), said.get("add_eos_token")
        if begins is not None:
            before = [first] if begins and first is not None else before if begins else []
        if ends is not None:
            after = [last] if ends and last is not None else after if ends else []
        found: dict[str, Any] = {"tokenizer.ggml.add_bos_token": bool(begins) or bool(before)}
        if before or first is not None:
            found["tokenizer.ggml.bos_token_id"] = before[0] if before else first
        if ends or after:
            found |= {"tokenizer.ggml.add_eos_token": True} | (
                {"tokenizer.ggml.eos_token_id": after[0]} if after else {}
            )
        return found

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """The texts of the tokens that tokenizer_config.json names: bos_token, eos_token, pad_token and others."""
        said = _object(self.directory / TOKENIZER_CONFIG) if TOKENIZER_CONFIG in self._files else {}
        texts = {name: each.get("content") if isinstance(each, dict) else each for name, each in said.items()}
        return {name: text for name, text in texts.items() if name.endswith("_token") and isinstance(text, str)}

    @property
    def _chat_template(self) -> dict[str, str]:
        """The template of chats under GGUF's key, if there is one; of several named ones the default."""
        alone = self.directory / CHAT_TEMPLATE
        if alone.is_file():
            found: Any = read_bytes(alone, _MOST_CONFIG).decode(errors="replace")
        else:
            said = _object(self.directory / TOKENIZER_CONFIG) if TOKENIZER_CONFIG in self._files else {}
            found = said.get("chat_template")
        if isinstance(found, list):
            named = (each for each in found if isinstance(each, dict) and each.get("name") == "default")
            found = next((each.get("template") for each in named), None)
        return {"tokenizer.chat_template": found} if isinstance(found, str) else {}

    def _token(self, named: Any) -> int | None:
        """The id of a token that tokenizer_config.json names, by its text or as an object with its text."""
        text = named.get("content") if isinstance(named, dict) else named
        return self.tokenizer.token_to_id(text) if isinstance(text, str) else None

    def _around_a_text(self) -> tuple[list[int], list[int]]:
        """What tokenizer.json itself puts before a text and after it: a token or none each."""
        from bitrl.plugins.backbones.files.tokenizer_json import calmly

        def encode(text: str, whole: bool) -> list[int]:
            return list(self.tokenizer.encode(text, add_special_tokens=whole).ids)

        def encoded() -> tuple[list[int], list[int]]:
            text = next((text for text in ("a", "0", " ") if encode(text, False)), "a")
            return encode(text, False), encode(text, True)

        try:
            bare, whole = calmly(encoded, quietly=True)
        except Exception as error:  # `tokenizers` raises bare Exception for what it finds wrong
            raise ModelFileError(self.path, f"has a broken tokenizer.json: {str(error)[:120]}") from None
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        around = whole[:at], whole[at + len(bare) :]
        if (most := max(map(len, around))) > 1:
            raise ModelFileError(self.path, f"puts {most} tokens beside a text; one is supported")
        return around


def _weights(path: Path) -> Path:
    """The safetensors file, or the index of several."""
    if not path.is_dir():
        return path
    for name in (WEIGHTS, INDEX):
        if (path / name).is_file():
            return path / name
    for pattern, what in FOREIGN.items():
        if found := min((each.name for each in path.glob(pattern)), default=None):
            raise ModelFileError(path, f"holds neither {WEIGHTS} nor {INDEX}, but {shown(found)}: {what}")
    raise ModelFileError(
        path, f"holds neither {WEIGHTS} nor {INDEX}: name a GGUF file or a directory with one of these"
    )


def _object(path: Path) -> dict[str, Any]:
    return parse_json(read_bytes(path, _MOST_CONFIG), path, "it")


def _assemble(path: str, keys: dict[str, Key], tensors: list[Translated]) -> tuple[Any, list[Any]]:
    """The engine's file of this table, and what must live as long. Names and values are copied, tensor data are read
    when they are needed.
    """
    kept = [ffi.new("char[]", name.encode()) for name in [*keys, *(tensor.name for tensor in tensors)]]
    listed = ffi.new("bitrl_key[]", len(keys))
    for key, name, value in zip(listed, kept, keys.values(), strict=False):
        kind, raw = _raw(value)
        kept.append(ffi.new("uint8_t[]", raw))
        key.name, key.name_bytes, key.count = name, len(name) - 1, len(raw) if kind == _BOOL else 1
        key.type, key.element_type = _ARRAY if kind == _BOOL else kind, kind
        key.value, key.value_bytes = kept[-1], len(raw)
    into = ffi.new("bitrl_tensor[]", len(tensors))
    for item, name, tensor in zip(into, kept[len(keys) :], tensors, strict=False):
        item.name, item.name_bytes = name, len(name) - 1
        item.type, item.dims, item.scale = tensor.type, len(tensor.shape), tensor.scale
        item.shape[0 : len(tensor.shape)] = tensor.shape[::-1]
        if isinstance(tensor.data, bytes):
            kept.append(ffi.new("uint8_t[]", tensor.data))
            item.data, item.bytes = kept[-1], len(tensor.data)
        else:
            item.descriptor, item.offset, item.bytes = tensor.data.file.descriptor, tensor.data.start, tensor.data.size
    handle, error = ffi.new("bitrl_file **"), ffi.new("char[]", _ERROR_BYTES)
    if lib.bitrl_file_assemble(listed, len(keys), into, len(tensors), True, handle, error) != lib.BITRL_OK:
        raise ModelFileError(path, model_file.message(error))
    return ffi.gc(handle[0], lib.bitrl_file_close), kept


def _raw(value: Key) -> tuple[int, bytes]:
    """GGUF's number of the value's type (of an array, that of its booleans), and its bytes."""
    if isinstance(value, str):
        text = value.encode()
        return 8, struct.pack("<Q", len(text)) + text
    if isinstance(value, Sequence):
        return _BOOL, bytes(map(bool, value))
    return (4, struct.pack("<I", value)) if isinstance(value, int) else (6, struct.pack("<f", value))

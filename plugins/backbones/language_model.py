"""The language model as a backbone, in five formats: text in, features out; frozen, or with adapters that learn.

The formats share everything but the product of a matrix and a vector; any of them runs any file.

Knows how text, tokenizer and engine fit together. Does not know what the texts describe. What learns, learns in torch
(training/), which is imported when it is asked for; acting needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitrl.core.acting.cache import Cache
from bitrl.core.errors import UsageError
from bitrl.core.wording import setting
from bitrl.plugins.backbones import LanguageModelOptions, TernaryOptions, directions
from bitrl.plugins.backbones.adapters import Adapters
from bitrl.plugins.backbones.catalogue import hints, packaged, resolve
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.first_token import KIND, begins_by_convention, first_tokens, last_tokens
from bitrl.plugins.backbones.files.tokenizer import DEFAULT, OURS, check_vocabulary, cutting, tokenizer_of
from bitrl.plugins.backbones.number_ends import chunks, number_ends
from bitrl.plugins.backbones.text_tokens import TextTokens

if TYPE_CHECKING:
    import torch

    from bitrl.core.interfaces import PortableModel
    from bitrl.plugins.backbones.language_policy import EnginePolicy
    from bitrl.plugins.backbones.training.decoder import Decoder

STARTER, TWIN = "starter.gguf", "starter-fp16.gguf"
_TEXTS_AT_ONCE = 64  # whose states of every token are held together


class LanguageModel:
    """A BitNet, Llama, Qwen3 or Gemma 3 model, read by the C engine; `format` as in Engine.

    A text's features depend on that text alone: not on the batch, the threads or the CPU's instruction set. `cache`
    keeps those of recently encoded texts. The `width` given is how many numbers a text holds, which pooling "field"
    needs; that of the object is d. `identity` is what must be equal for features to be equal, learned weights apart;
    `version` counts how often those have changed.
    Raises ModelFileError for a model file that cannot be used, UsageError for options it cannot fulfil.
    """

    def __init__(self, options: LanguageModelOptions, width: int | None = None, format: str = "ternary") -> None:
        path = resolve(options.model) if options.model else starter_path(ternary=format.startswith("ternary"))
        known = hints(options.model) if options.model else {}
        self.options, self.version = options, 0
        activation = self.activation = options.activation or known.get("activation")
        linear_class = self.linear_class = options.linear_class or known.get("linear_class")
        self.engine = Engine(
            path,
            format,
            layers=options.layers,
            threads=options.threads,
            i2s_packing=options.i2s_packing,
            activation=activation,
            linear_class=linear_class,
        )
        metadata = self.engine.metadata
        self.tokenizer = tokenizer_of(self.engine.file)
        check_vocabulary(self.tokenizer, self.engine.vocabulary, self.engine.path)
        self.text_tokens = TextTokens(self.tokenizer, cutting(metadata) == OURS)
        self._prefix = first_tokens(metadata, self.engine.vocabulary, self.engine.path)
        self._suffix = last_tokens(metadata, self.engine.vocabulary, self.engine.path)
        self.pooling, self.number_count = options.pooling or "mean", width
        if self.pooling == "field" and not width:
            raise UsageError(
                'backbone.pooling "field" needs to know how many numbers a text holds: '
                "name an environment, or load_backbone(..., width=COUNT)"
            )
        self.chunk = options.chunk
        if self.chunk and self.pooling != "field":
            raise UsageError(
                f"backbone.chunk: texts are cut after their numbers, whose states are pooled: set "
                f"{setting('backbone.pooling', 'field')}, or leave it out"
            )
        fields, to = self.pooling == "field", options.projection
        self.directions = None
        if options.directions is not None:
            if not fields or to:
                raise UsageError(
                    "backbone.directions: each number's state is read in them, and not projected to a width: set "
                    f"{setting('backbone.pooling', 'field')} and no projection, or leave them out"
                )
            self.directions = directions.read(options.directions, self.engine.width)
        states = width if fields and width else 1
        each = self.engine.width if self.directions is None else len(self.directions)
        pooled = states * each
        self.projection = projection_matrix(pooled, to) if to and not fields else None
        self.sketch = count_sketch(states, self.engine.width, to) if to and fields else None
        self.width = options.projection or pooled
        self.cache = Cache(int(options.cache_mb * 2**20))
        self.identity: dict[str, Any] = {
            "model_sha256": self.engine.file.sha256(),
            "model_seal": self.engine.file.seal(),
            "format": None if format.startswith("ternary") else format,  # packed in 2 bits or 1.6: the same features
            "layers": self.engine.blocks,
            "i2s_packing": options.i2s_packing if any(t.type == "I2_S" for t in self.engine.tensors) else None,
            "activation": activation,
            "linear_class": linear_class,
            "pooling": self.pooling,
            "chunk": self.chunk,
            "projection": to if self.sketch is None else f"count sketch to {to}",
            "directions": None if self.directions is None else directions.digest(self.directions),
            # Runs of such files from before version 0.2 read texts without them: they are told.
            "first_token": self._prefix[0] if begins_by_convention(metadata) else None,
            "last_token": self._suffix[0] if self._suffix else None,
            # These were cut as Llama 3 does before version 0.2.
            "cutting": DEFAULT if metadata.get(KIND) == "gpt2" and cutting(metadata) == DEFAULT else None,
        }

    def encode(self, inputs: Sequence[str]) -> np.ndarray:
        """Features of n texts: float32 [n, width]. A text without tokens, such as the empty one, is encoded as zeros.

        Raises TypeError when `inputs` is not a sequence of str, UsageError for a text longer than the model's context,
        or, with pooling "field", for one with another count of numbers.
        """
        return self.cache.rows(_checked(inputs), self._encode)

    def tokens(self, inputs: Sequence[str]) -> list[np.ndarray]:
        """The state of each token of n texts: n arrays float32 [its tokens, width of the model], not projected.

        The rows are those of `tokenize`, after the file's first token and before its last, where it asks for them.
        Raises as `encode`.
        """
        return self._states(self._ids(_checked(inputs)))

    def tokenize(self, inputs: Sequence[str]) -> list[list[int]]:
        """The ids of each of n texts' tokens, without the file's first and last."""
        return self.text_tokens.ids(_checked(inputs))

    def token_counts(self, inputs: Sequence[str]) -> list[int]:
        """How many tokens each of n texts is, without the file's first and last."""
        return [len(ids) for ids in self.tokenize(inputs)]

    @cached_property
    def _policy(self) -> EnginePolicy:
        from bitrl.plugins.backbones.language_policy import EnginePolicy

        return EnginePolicy(self)

    def language_policy(self) -> EnginePolicy:
        """The model as a policy over texts: it generates, and learns in full, or by its adapters where it has some.

        Raises:
            UsageError: the model cannot generate; the message says why.
        """
        return self._policy

    def weights_changed(self) -> None:
        """Features computed so far are out of date."""
        self.version += 1
        self.cache.clear()

    def prompt_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens that the model reads of n texts to go on with: the file's first, if it asks for one, and theirs.

        Not the file's last: a text that has ended is not gone on with. Raises as `encode`.
        """
        ids = [[*self._prefix, *each] for each in self.tokenize(texts)]
        return self._fitting(texts, ids, shorter="give shorter prompts")

    def pooled_places(self, inputs: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """The tokens read of n texts, and the places of those whose states, in a row, are a text's features: the last,
        or each number's end. Of pooling "mean", all places. Raises as `encode`.
        """
        texts = _checked(inputs)
        if self.pooling == "field":
            located = self._located(texts, self.number_count or 0)
            return self._fitting(texts, [ids for ids, _ in located]), [places for _, places in located]
        ids = self._ids(texts)
        return ids, [list(range(len(each)))[0 if self.pooling == "mean" else -1 :] for each in ids]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text's tokens between the file's first and last, where it asks for them."""
        ids = self.text_tokens.ids(texts)
        if self._prefix or self._suffix:
            ids = [[*self._prefix, *each, *self._suffix] for each in ids]
        return self._fitting(texts, ids)

    def _fitting(
        self, texts: Sequence[str], ids: list[list[int]], shorter: str = "write shorter states (--serializer compact)"
    ) -> list[list[int]]:
        for text, tokens in zip(texts, ids, strict=True):
            if len(tokens) > self.engine.context:
                raise UsageError(
                    f"a text has {len(tokens)} tokens, but the model reads at most {self.engine.context}: {shorter} "
                    f"or name another model: {text[:80]!r}"
                )
        return ids

    def _states(self, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        return np.split(self.engine.encode(ids, "none"), np.cumsum([len(each) for each in ids]))[:-1]

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        if self.chunk:
            return self._encode_chunks(texts, self.chunk)
        if self.pooling == "mean":
            features = self.engine.encode(self._ids(texts))
        else:
            ids, at = self.pooled_places(texts)
            places = np.zeros((len(texts), self.number_count or 1 if self.pooling == "field" else 1), np.uint64)
            for row, text in enumerate(at):
                places[row, : len(text)] = text  # of an empty text there are none, and none are read
            features = self.engine.encode_fields(ids, places, self.sketch, self.width, self.directions)
        if self.projection is None:
            return features
        # Row by row: a matrix product may round differently with the number of rows.
        return np.array([row @ self.projection for row in features], np.float32).reshape(-1, self.width)

    def _encode_chunks(self, texts: Sequence[str], size: int) -> np.ndarray:
        """Chunks at the same place in their texts are a batch; of equal ones, one is read."""
        count, width = self.number_count or 0, self.engine.width
        each = width if self.directions is None else len(self.directions)
        features = np.zeros((len(texts), self.width), np.float32)
        rows = [row for row, text in enumerate(texts) if text]
        cut = [self._chunks(texts[row], count, size) for row in rows]
        for column, start in enumerate(range(0, count, size) if rows else ()):
            fields = min(size, count - start)
            own = slice(start * each, (start + fields) * each)
            place = {chunk: i for i, chunk in enumerate(dict.fromkeys(each[column] for each in cut))}
            located = self._located(list(place), fields)
            ids, at = self._fitting(list(place), [ids for ids, _ in located]), [places for _, places in located]
            sketch = None if self.sketch is None else self.sketch[own]  # then a number has as many as its state
            found = self.engine.encode_fields(ids, np.array(at, np.uint64), sketch, self.width, self.directions)
            features[rows, own if sketch is None else slice(None)] += found[[place[each[column]] for each in cut]]
        return features

    def _chunks(self, text: str, count: int, size: int) -> list[str]:
        """A text of `count` numbers, cut after every `size` of them."""
        found = len(number_ends(text))
        if found != count:
            raise UsageError(f'pooling "field": expected {count} numbers in a text, got {found}: {text[:80]!r}')
        return chunks(text, size)

    def _located(self, texts: Sequence[str], count: int) -> list[tuple[list[int], list[int]]]:
        """Of each text its tokens, after the file's first, and the place of each of its `count` numbers' last one.

        The file's last token, which no place sees, is left out.
        """
        ends = [number_ends(text) for text in texts]
        for text, own in zip(texts, ends, strict=True):
            if text and len(own) != count:
                raise UsageError(f'pooling "field": expected {count} numbers in a text, got {len(own)}: {text[:80]!r}')
        located = []
        for text, (ids, found) in zip(texts, self.text_tokens.located(texts, ends), strict=True):
            if None in found:
                raise UsageError(f"the tokenizer drops a number's last digit: {text[:80]!r}")
            places = [len(self._prefix) + token for token in found if token is not None]
            located.append(([*self._prefix, *ids], places))
        return located

    def portable(self) -> PortableModel:
        """The model and how it reads a text, for agents without Python.

        Raises:
            UsageError: its file, tokenizer or projection is one that they do not have.
        """
        from bitrl.plugins.backbones.portable import portable

        return portable(self)

    def pooled_blocks(self, texts: Sequence[str], poolings: Sequence[str], count: int) -> dict[str, np.ndarray]:
        """Features of n texts after every block at once, by pooling: float32 [n, blocks, width of the model].

        Of "field", `count` times as wide. Not projected, not kept. Raises as `encode`, in "field" only if it is asked.
        """
        if self.chunk and "field" in poolings:
            others = [pooling for pooling in poolings if pooling != "field"]
            whole = self.pooled_blocks(texts, others, count) if others else {}
            return whole | {"field": self._chunk_blocks(_checked(texts), count, self.chunk)}
        ids, places = self._ids(_checked(texts)), [[-1]] * len(texts)
        if "field" in poolings:
            places = [own for _, own in self._located(texts, count)]
        take: dict[str, Callable[[np.ndarray, list[int]], np.ndarray]] = {
            "mean": lambda states, _: states.mean(axis=1, dtype=np.float64),
            "last": lambda states, _: states[:, -1],
            "field": lambda states, at: states[:, at].reshape(len(states), -1),
        }
        widths = {pooling: self.engine.width * (count if pooling == "field" else 1) for pooling in poolings}
        shape = len(texts), self.engine.blocks
        out = {pooling: np.zeros((*shape, width), np.float32) for pooling, width in widths.items()}
        at_once = max(4, 4 * _TEXTS_AT_ONCE // self.engine.blocks)  # their states after all blocks are held together
        for start in range(0, len(texts), at_once):
            some = ids[start : start + at_once]
            states = np.split(self.engine.encode_blocks(some), np.cumsum([len(each) for each in some])[:-1], axis=1)
            for i, of_text in enumerate(states, start):
                for pooling in poolings if ids[i] else ():
                    out[pooling][i] = take[pooling](of_text, places[i])
        return out

    def _chunk_blocks(self, texts: Sequence[str], count: int, size: int) -> np.ndarray:
        """Pooling "field" of texts in chunks, after every block: float32 [n, blocks, count * width of the model]."""
        out = np.zeros((len(texts), self.engine.blocks, count * self.engine.width), np.float32)
        sizes = [min(size, count - start) for start in range(0, count, size)]
        for row, text in enumerate(texts):
            if not text:
                continue
            cut = zip(self._chunks(text, count, size), sizes, strict=True)
            located = [self._located([chunk], fields)[0] for chunk, fields in cut]
            ids = self._fitting([text] * len(located), [ids for ids, _ in located])
            starts = np.cumsum([0, *map(len, ids)])[:-1]
            at = [start + place for start, (_, each) in zip(starts, located, strict=True) for place in each]
            out[row] = self.engine.encode_blocks(ids)[:, at].reshape(self.engine.blocks, -1)
        return out


class LearningLanguageModel(LanguageModel):
    """A language model with low-rank adapters that learn, for options that set `lora_rank`; all else stays frozen.

    `encode` and what is generated go by the adapters as they were at the last `sync` or `load_learned`.
    Raises UsageError, beyond what LanguageModel does, for adapters that cannot be.
    """

    def __init__(self, options: LanguageModelOptions, width: int | None = None, format: str = "ternary") -> None:
        super().__init__(options, width, format)
        assert options.lora_rank is not None
        self.adapters = Adapters(self.engine, options.lora_rank, options.lora_alpha, options.lora_targets)
        self.identity |= {
            "lora_rank": options.lora_rank,
            "lora_alpha": options.lora_alpha,
            "lora_targets": list(options.lora_targets),
        }

    @cached_property
    def decoder(self) -> Decoder:
        """The model in torch, its adapters its only parameters."""
        from bitrl.plugins.backbones.training.decoder_file import read_decoder
        from bitrl.plugins.backbones.training.lora import add_adapters

        decoder = read_decoder(
            self.engine.file, self.engine.format, self.engine.blocks, activation=self.activation,
            i2s_packing=self.options.i2s_packing,
        )  # fmt: skip
        add_adapters(decoder, self.adapters)
        return decoder

    @cached_property
    def _module(self) -> torch.nn.Module:
        from bitrl.plugins.backbones.training.text_features import TextFeatures

        return TextFeatures(self, self.decoder)

    def module(self) -> torch.nn.Module:
        """n texts → features float32 [n, width] as `encode` gives them, with gradients of the adapters."""
        return self._module

    def sync(self) -> None:
        """Let `encode` go by the module's adapters as they are now."""
        if "decoder" in vars(self):
            from bitrl.plugins.backbones.training.lora import learned_arrays

            self._put(learned_arrays(self.decoder, self.adapters))

    def learned(self) -> dict[str, np.ndarray]:
        """The adapters that `encode` goes by: "blk.0.attn_q.down" [rank, in], "blk.0.attn_q.up" [out, rank] …"""
        return {name: array.copy() for name, array in self.adapters.arrays.items()}

    def load_learned(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go by the adapters of a `learned()`. Raises UsageError for those of other options."""
        self._put(arrays)
        if "decoder" in vars(self):
            from bitrl.plugins.backbones.training.lora import load_arrays

            load_arrays(self.decoder, self.adapters)

    def copy_adapters(self, to: LearningLanguageModel) -> None:
        """Let another object of the same options go by the module's adapters as they are now."""
        if "decoder" in vars(self):
            from bitrl.plugins.backbones.training.lora import learned_arrays

            to.load_learned(learned_arrays(self.decoder, self.adapters))
        else:
            to.load_learned(self.adapters.arrays)

    def copy_adapters_to(self, engine: Engine) -> None:
        """Let another engine of the same model go by the module's adapters as they are now."""
        arrays: Mapping[str, np.ndarray] = self.adapters.arrays
        if "decoder" in vars(self):
            from bitrl.plugins.backbones.training.lora import learned_arrays

            arrays = learned_arrays(self.decoder, self.adapters)
        self.adapters.give(engine, arrays)

    def _put(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.adapters.put(self.engine, arrays)
        self.weights_changed()


def language_model(options: LanguageModelOptions, width: int | None, format: str) -> LanguageModel:
    """The model in a format: frozen, or with adapters where the options ask for them."""
    if options.chunk and options.lora_rank is not None:
        raise UsageError("backbone.chunk: adapters (backbone.lora_rank) learn from whole texts: leave one of them out")
    return (LanguageModel if options.lora_rank is None else LearningLanguageModel)(options, width, format)


def ternary(options: TernaryOptions, width: int | None = None) -> LanguageModel:
    """The model with weights -1, 0 and +1."""
    return language_model(options, width, "ternary" if options.bits == "2" else "ternary-1.6")


def int8(options: LanguageModelOptions, width: int | None = None) -> LanguageModel:
    """The model with 8-bit weights."""
    return language_model(options, width, "int8")


def int4(options: LanguageModelOptions, width: int | None = None) -> LanguageModel:
    """The model with 4-bit weights."""
    return language_model(options, width, "int4")


def bf16(options: LanguageModelOptions, width: int | None = None) -> LanguageModel:
    """The model with 16-bit floats."""
    return language_model(options, width, "bf16")


def fp32(options: LanguageModelOptions, width: int | None = None) -> LanguageModel:
    """The model with 32-bit floats."""
    return language_model(options, width, "fp32")


def starter_path(ternary: bool = True) -> Path:
    """The model that ships with the package: the ternary one, or its twin in full precision, of which the other formats
    are made when it is loaded.
    """
    return packaged(STARTER if ternary else TWIN)


def projection_matrix(rows: int, columns: int) -> np.ndarray:
    """The fixed Gaussian projection float32 [rows, columns] that keeps squared lengths on average.

    `RandomState` because its stream is frozen: the same numbers in every version of numpy.
    """
    normal: np.ndarray = np.random.RandomState(0).standard_normal((rows, columns)) / np.sqrt(columns)
    return normal.astype(np.float32)


def count_sketch(fields: int, width: int, columns: int) -> np.ndarray:
    """A fixed sparse projection of `fields` states (Charikar et al. 2002, "Finding frequent items in data streams";
    Weinberger et al. 2009, arXiv 0902.2206): each of their numbers is added to one feature, with a random sign, so that
    squared lengths are kept on average. int32 [fields * width] as `Engine.encode_fields` takes it.

    A state's numbers go to different features where there are enough, and to all features equally often.
    """
    random = np.random.RandomState(0)  # whose stream is frozen
    places = [random.permutation(max(width, columns))[:width] % columns for _ in range(fields)]
    to = np.concatenate(places).astype(np.int32)
    return np.where(random.randint(0, 2, len(to)) == 1, to, -1 - to).astype(np.int32)


def _checked(inputs: Sequence[str]) -> Sequence[str]:
    if isinstance(inputs, str) or not all(isinstance(text, str) for text in inputs):
        raise TypeError(f"encode() takes a list of str, got {_kinds(inputs)}")
    return inputs


def _kinds(inputs: Any) -> str:
    if isinstance(inputs, str):
        return "one str; put it in a list"
    return f"a {type(inputs).__name__} of " + ", ".join(sorted({type(item).__name__ for item in inputs}))

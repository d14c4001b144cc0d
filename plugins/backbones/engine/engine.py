"""Python bindings of the C engine: a model file and token ids in, features out.

Knows the cffi calls, their buffers and their errors. Does not know text: tokenizer.py makes the ids.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.cpus import available_cpus as available_cpus
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Replaced
from bitrl.plugins.backbones.engine import generation
from bitrl.plugins.backbones.files.model_file import (
    ModelFile,
    ModelFileError,
    Tensor,
    is_arm_packing,
    is_checkpoint,
    message,
)

if TYPE_CHECKING:
    from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile

_POOLING = {"mean": lib.BITRL_POOL_MEAN, "last": lib.BITRL_POOL_LAST, "none": lib.BITRL_POOL_NONE}
_ERROR_BYTES = 256
_MOST_THREADS = 1024  # MAX_THREADS of csrc
_PAD = 16  # numbers to which the engine rounds up the width of a head
_CHUNK, _LEAST_CHUNK, _WORKING = 256, 64, 9 << 20  # of csrc/session.c: tokens at once, and what they may take
_SMALL, _TILE_ROWS, _LINE = 4 << 20, 16, 64  # bytes of a model that a core has for itself, and of csrc/kernels.h
_KEPT = 2 << 20  # of csrc/session.c: bytes of a text that is kept for the next one, at most
_ACTIVATION_BYTES = {"fp8": 2, "bf16": 2, "fp32": 4}


def instruction_sets() -> list[str]:
    """The instruction sets this CPU runs, best first; the last is "scalar"."""
    names: list[str] = []
    while (name := lib.bitrl_instruction_set(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


def known_instruction_sets() -> list[str]:
    """The instruction sets this build has code for, best first, whether or not this CPU runs them."""
    names: list[str] = []
    while (name := lib.bitrl_instruction_set_known(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


def formats() -> list[str]:
    """The formats in which matrices can be multiplied: ternary, ternary-1.6, int8, int4, fp8, bf16, fp32."""
    names: list[str] = []
    while (name := lib.bitrl_format(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


class Engine:
    """A BitNet, Llama, Mistral, Qwen, Gemma, Phi-3 or SmolLM3 model, ready to encode on `threads` threads.

    `path` names a GGUF file, or a Hugging Face checkpoint: its directory or a .safetensors file beside its config.json.
    `threads` of 0 takes every CPU that this process may use, by affinity and by quota.
    `format` is how matrices are multiplied, one of `formats()`; a file in another one is quantised at load. None takes
    what the file's first matrix holds: TQ1_0, TQ2_0, Q1_0, Q2_0 and I2_S are run as ternary, Q4_0 as int4, F16 and BF16
    as bf16, F32 as fp32, all others as int8 (int4 would round them once more). Packed safetensors, and those that their
    config.json says are quantised online, are run as ternary. A file whose first matrix is ternary and others are not
    is run as int8, which keeps ternary weights as they are.
    A ternary matrix with a scale for each block of a row keeps these, also of files of floats.
    `layers` stops after that many blocks (None: all). `isa` forces one of `instruction_sets()`.
    `i2s_packing` says on which CPU the file's I2_S weights were packed, "x86" or "arm"; the file does not.
    `activation` ("relu2", "silu" or "gelu", by tanh) is for files that leave it open, as those of architecture "bitnet"
    do, and `linear_class` ("bitlinear" or "autobitlinear") for packed safetensors that do not say what their
    weight_scale does.
    Features do not depend on `threads`, `isa` or what else is in the batch: the same bits every time.
    Raises ModelFileError for a file that cannot be used, UsageError for settings it cannot fulfil.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        layers: int | None = None,
        threads: int = 0,
        isa: str = "auto",
        i2s_packing: str = "x86",
        activation: str | None = None,
        linear_class: str | None = None,
    ) -> None:
        self.path = os.fspath(path)
        if isa != "auto" and isa not in instruction_sets():
            raise UsageError(f"this CPU has no instruction set {isa!r}; it has {', '.join(instruction_sets())}")
        if format is not None and format not in formats():
            raise UsageError(f"unknown format {format!r}; known: {', '.join(formats())}")
        if layers is not None and not 1 <= layers < 1 << 31:
            raise UsageError(f"layers: expected 1 to {(1 << 31) - 1}, got {layers}")
        if not 0 <= threads <= _MOST_THREADS:
            raise UsageError(f"threads: expected 0 to {_MOST_THREADS}, got {threads}")
        self.file = open_model(path, activation, linear_class)
        format = format or self.file.own_format
        self.verified = self.file.verify()
        self.file.sizes.check()
        model, session = ffi.new("bitrl_model **"), ffi.new("bitrl_session **")
        error = ffi.new("char[]", _ERROR_BYTES)
        texts = [
            ffi.new("char[]", text.encode()) for text in (isa, format or "", activation or "")
        ]  # must outlive the call
        self.threads = threads or available_cpus()
        options = ffi.new(
            "bitrl_options *",
            {"layers": layers or 0, "threads": self.threads, "i2s_arm": is_arm_packing(i2s_packing)},
        )
        options.isa, options.format = texts[0], texts[1] if format else ffi.NULL
        options.activation = texts[2] if activation else ffi.NULL
        loaded = lib.bitrl_model_load(self.file.handle, options, model, error) == lib.BITRL_OK
        self.file.sizes.check()  # weights of a file that was changed meanwhile may be anything
        if not loaded:
            raise ModelFileError(path, message(error))
        self.model = ffi.gc(model[0], lib.bitrl_model_free)
        if lib.bitrl_session_open(self.model, self.threads, session, error) != lib.BITRL_OK:
            raise UsageError(message(error))
        self.session = ffi.gc(session[0], lib.bitrl_session_close)
        self.lock = threading.Lock()
        shape = lib.bitrl_model_shape(self.model)
        self.width: int = shape.width
        self.blocks: int = shape.blocks
        self.vocabulary: int = shape.vocabulary
        self.context: int = shape.context
        self.isa = ffi.string(lib.bitrl_model_isa(self.model)).decode()
        self.format = ffi.string(lib.bitrl_model_format(self.model)).decode()

    @property
    def metadata(self) -> dict[str, Any]:
        """The file's metadata, see ModelFile.metadata."""
        return self.file.metadata()

    @property
    def tensors(self) -> list[Tensor]:
        """The file's tensors, see ModelFile.tensors."""
        return self.file.tensors()

    def encode(self, token_ids: Sequence[Sequence[int]], pooling: str = "mean") -> np.ndarray:
        """Features of each text: float32 [n, width]; with pooling "none", of each token: [total tokens, width].

        The state after the last block that is run, without the final norm. A text of no tokens is zeros.
        Raises UsageError for a token outside the vocabulary, a text longer than the model's context, or an unknown
        pooling.
        """
        if pooling not in _POOLING:
            raise UsageError(f"unknown pooling {pooling!r}; known: {', '.join(_POOLING)}")
        ids, lengths = self._flat(token_ids)
        out = np.zeros((len(ids) if pooling == "none" else len(token_ids), self.width), np.float32)
        self._encode(lib.bitrl_encode, ids, lengths, (_POOLING[pooling],), out)
        return out

    def encode_fields(
        self, token_ids: Sequence[Sequence[int]], places: np.ndarray, sketch: np.ndarray | None = None,
        columns: int = 0, directions: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        """States of chosen tokens of each text, side by side or projected: float32 [n, fields * width], [n, columns] or
        [n, fields * k].

        Args:
            token_ids: of n texts; one of no tokens is zeros.
            places: ascending positions in each text, uint64 [n, fields].
            sketch: int32 [fields * width], the feature from 0 to columns - 1 to which each number of the states is
                added, or -1 - feature where it is subtracted; None: side by side.
            columns: features that the sketch has.
            directions: instead of a sketch, float32 [k, width], in each of which every state is read.

        In the last block no other tokens are computed than these. Raises UsageError as `encode`, and for places that
        do not ascend or are outside their text.
        """
        ids, lengths = self._flat(token_ids)
        places = np.ascontiguousarray(places, np.uint64)
        fields = places.shape[1]
        readout, held = ffi.NULL, None  # what C reads lives as long as `held`
        if sketch is not None:
            if sketch.shape != (fields * self.width,) or sketch.dtype != np.int32:
                found = f"{sketch.dtype} {list(sketch.shape)}"
                raise UsageError(f"sketch: expected int32 [{fields * self.width}], got {found}")
            held = ffi.from_buffer("int32_t[]", np.ascontiguousarray(sketch))
            readout = ffi.new("bitrl_readout *", {"sketch": held, "columns": columns})
        elif directions is not None:
            if directions.ndim != 2 or directions.shape[1] != self.width or directions.dtype != np.float32:
                found = f"{directions.dtype} {list(directions.shape)}"
                raise UsageError(f"directions: expected float32 [k, {self.width}], got {found}")
            held, columns = ffi.from_buffer("float[]", np.ascontiguousarray(directions)), fields * len(directions)
            readout = ffi.new("bitrl_readout *", {"directions": held, "columns": len(directions)})
        else:
            columns = fields * self.width
        out = np.zeros((len(token_ids), columns), np.float32)
        how = ffi.from_buffer("uint64_t[]", places), fields, readout
        self._encode(lib.bitrl_encode_fields, ids, lengths, how, out)
        return out

    def encode_blocks(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """The state of each token after every block: float32 [blocks, total tokens, width], in one pass.

        Row k holds the bits of `encode(token_ids, "none")` of an engine with `layers=k + 1`. Raises as `encode`.
        """
        ids, lengths = self._flat(token_ids)
        out = np.zeros((self.blocks, len(ids), self.width), np.float32)
        self._encode(lib.bitrl_encode_blocks, ids, lengths, (), out)
        return out

    def _flat(self, token_ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """All ids in a row, int32, and how many each text has, uint64."""
        lengths = np.fromiter(map(len, token_ids), np.uint64, len(token_ids))
        try:
            ids = (token for text in token_ids for token in text)
            return np.fromiter(ids, np.int32, int(lengths.sum())), lengths
        except OverflowError:
            raise UsageError(f"a token id is outside the vocabulary of {self.vocabulary}") from None

    def _encode(
        self, call: Callable[..., int], ids: np.ndarray, lengths: np.ndarray, how: tuple[Any, ...], out: np.ndarray
    ) -> None:
        error = ffi.new("char[]", _ERROR_BYTES)
        tokens, counts = ffi.from_buffer("int32_t[]", ids), ffi.from_buffer("uint64_t[]", lengths)
        into = ffi.from_buffer("float[]", out, require_writable=True)
        self.file.sizes.check()
        with self.lock:
            status = call(self.session, tokens, counts, len(lengths), *how, into, error)
        self.file.sizes.check()  # what it read of a file that was shortened meanwhile may be zeros
        if status == lib.BITRL_BAD_FILE:
            raise ModelFileError(self.path, message(error))
        if status == lib.BITRL_BAD_RESULT:
            raise ModelFileError(self.path, message(error))
        if status != lib.BITRL_OK:
            raise UsageError(message(error))

    generate = generation.generate

    def replace(self, name: str, values: np.ndarray) -> None:
        """`replace_all` of the one tensor `name`."""
        self.replace_all({name: values})

    def replace_all(self, weights: Mapping[str, np.ndarray], *, rounding_seed: int | None = None) -> Replaced:
        """Puts other weights in the place of tensors (as GGUF names them), quantised to this engine's format.

        Values: float [rows, columns], of a norm [columns], as they would lie in this engine's own file, so that
        `replace_all({name: file.weights(name)})` changes nothing: norms of a Gemma checkpoint without their 1, rows of
        q and k in the file's order, a matrix without the scale that is a tensor of its own. Of "ternary" formats they
        are rounded by the mean of their absolute values, or kept when they are -1, 0, 1 times one scale. A head that
        shares the embedding's weights follows them. float32 arrays that are contiguous are not copied.
        `rounding_seed` (0 to 2^64 - 1): stochastic rounding. With d the distance of the two neighbours in the format, a
        weight w becomes d (⌊w/d⌋ + Bernoulli(frac(w/d))), whose expectation is w (but where ternary rounding clips),
        by random bits that depend on this seed, the name, row and column alone; what is exactly on the grid stays.
        None rounds to the nearest.
        Raises UsageError for a name or shape that is not there, weights that are not finite, or a seed out of range;
        then nothing has changed.
        """
        if rounding_seed is not None and not 0 <= rounding_seed < 1 << 64:
            raise UsageError(f"rounding_seed: expected 0 to {(1 << 64) - 1}, got {rounding_seed}")
        arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in weights.items()}
        table, names = ffi.new("bitrl_weights[]", max(len(arrays), 1)), []  # what is pointed to must outlive the call
        for row, (name, values) in zip(table, arrays.items(), strict=False):
            if values.ndim not in (1, 2):
                raise UsageError(f"{name}: expected weights of one or two dimensions, got {values.ndim}")
            names.append(ffi.new("char[]", name.encode()))
            row.name, row.values = names[-1], ffi.from_buffer("float[]", values)
            row.rows, row.columns = values.shape if values.ndim == 2 else (1, len(values))
        seed = ffi.NULL if rounding_seed is None else ffi.new("uint64_t *", rounding_seed)
        replaced, error = ffi.new("bitrl_replaced *"), ffi.new("char[]", _ERROR_BYTES)
        with self.lock:
            status = lib.bitrl_model_replace_all(self.model, table, len(arrays), seed, self.threads, replaced, error)
        if status != lib.BITRL_OK:
            raise UsageError(f"{self.path} {message(error)}")
        return Replaced(int(replaced.codes), int(replaced.changed))

    def adapt(self, name: str, down: np.ndarray, up: np.ndarray) -> None:
        """Adds a low-rank adapter to a projection, whose product with its input x becomes W x + up (down x).

        `name`: of W's tensor as GGUF names it, such as "blk.0.attn_q.weight"; an adapter that is there is replaced.
        `down`: float [rank, in], `up`: float [out, rank], its rows in the order of W's in the file, with any factor
        (alpha / rank) multiplied in. The second part is computed in float32, of x before it is quantised; features
        still do not depend on threads, instruction set or batch.
        Raises UsageError for a name that is no block's projection, other shapes, a rank that is not from 1 to
        min(in, out), or values that are not finite; an adapter that is there then stays.
        """
        down, up = np.ascontiguousarray(down, np.float32), np.ascontiguousarray(up, np.float32)
        if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
            raise UsageError(
                f"adapter of {name}: expected down [rank, in] and up [out, rank], "
                f"got down {list(down.shape)} and up {list(up.shape)}"
            )
        error = ffi.new("char[]", _ERROR_BYTES)
        values = (ffi.from_buffer("float[]", matrix) for matrix in (down, up))
        with self.lock:
            status = lib.bitrl_model_adapt(self.model, name.encode(), *values, len(down), len(up), down.shape[1], error)
        if status != lib.BITRL_OK:
            raise UsageError(f"adapter of {name}: {message(error)}")

    def unadapt(self) -> None:
        """Takes all adapters away."""
        with self.lock:
            lib.bitrl_model_unadapt(self.model)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that a pass of one token reads, adapters included; the head's once it has generated."""
        return int(lib.bitrl_model_bytes_per_token(self.model))


def open_model(
    path: str | os.PathLike[str], activation: str | None = None, linear_class: str | None = None
) -> ModelFile | HuggingFaceFile:
    """A GGUF file or a Hugging Face checkpoint; `activation` and `linear_class` as in Engine. Raises ModelFileError."""
    if not is_checkpoint(path):
        return ModelFile(path)
    from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile  # only for these

    return HuggingFaceFile(path, activation, linear_class)


class LoadPlan(NamedTuple):
    """What loading a file would find: the engine's shape of it, and the bytes of its blocks' matrices in memory."""

    shape: Any
    matrix_bytes: int

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes that generating keeps of every token: keys and values of each block, in double precision."""
        shape = self.shape
        return int(2 * 8 * shape.blocks * shape.kv_heads * -(-shape.head_dim // _PAD) * _PAD)

    def session_bytes(self, threads: int, format: str) -> int:
        """Working memory that encoding texts which fit into a chunk takes on so many threads (session.c)."""
        shape = self.shape
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        widest = max(shape.width, q, shape.ffn)
        token = 8 * (shape.width + 2 * q + 2 * kv) + 4 * max(q + 2 * kv, 2 * shape.ffn, shape.width)
        token += _ACTIVATION_BYTES.get(format, 1) * (widest + 2 * _LINE) + 2 * _LINE
        thread = 8 * (q + 2 * kv + 2 * widest) + 4 * shape.width + 2 * _TILE_ROWS * (widest + _LINE)
        thread += 3 * _LINE * _CHUNK + 8 * _CHUNK * (2 * shape.head_dim + 2 * _PAD)
        crews = 1 + (threads if self.matrix_bytes <= _SMALL else 0)
        tokens = max(_LEAST_CHUNK, min(_CHUNK, _WORKING // token))
        return int(crews * tokens * token + (threads + crews - 1) * thread + _KEPT)


def plan(file: ModelFile | HuggingFaceFile, format: str | None = None, activation: str | None = None) -> LoadPlan:
    """Whether a file can be run, by its keys and the tensors it lists; reads no weights.

    Raises ModelFileError saying what is missing or not supported.
    """
    format = format or file.own_format
    error, shape, matrix_bytes = ffi.new("char[]", _ERROR_BYTES), ffi.new("bitrl_shape *"), ffi.new("uint64_t *")
    texts = [ffi.new("char[]", text.encode()) for text in ("auto", format or "", activation or "")]
    options = ffi.new("bitrl_options *", {"threads": 1})
    options.isa, options.format = texts[0], texts[1] if format else ffi.NULL
    options.activation = texts[2] if activation else ffi.NULL
    if lib.bitrl_model_check(file.handle, options, shape, matrix_bytes, error) != lib.BITRL_OK:
        raise ModelFileError(file.path, message(error))
    return LoadPlan(shape, matrix_bytes[0])

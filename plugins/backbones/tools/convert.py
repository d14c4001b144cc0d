"""Writes any model that the engine reads as a GGUF file that llama.cpp reads too, where it knows the architecture.

Knows what llama.cpp expects beyond the engine's own names: rows of Llama's q and k in another order, Gemma's norms with
their 1 added, a tokenizer as lists. Weights pass one tensor at a time. Does not know how the source is stored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import gguf
import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import open_model
from bitrl.plugins.backbones.files import model_file
from bitrl.plugins.backbones.files.first_token import END_KEYS, NAMED_TOKENS
from bitrl.plugins.backbones.files.gguf_writing import add_digests, gguf_writer
from bitrl.plugins.backbones.files.hugging_face import GEMMAS, MATRICES
from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile
from bitrl.plugins.backbones.files.model_file import HEADER_KEY, TENSOR_KEY, ModelFile, ModelFileError, Tensor
from bitrl.plugins.backbones.files.split_file import COUNT, NUMBER, TENSORS
from bitrl.plugins.backbones.files.ternary_blocks import is_ternary_in_blocks
from bitrl.plugins.backbones.files.tokenizer import PATTERNS

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "tq2_0", "tq1_0")
RELU2_ARCHITECTURES = ("bitnet-b1.58", "bitnet-25")
"""What needs no key for its activation; llama.cpp's "bitnet" does."""
INTERLEAVED = ("llama", "smollm3")
"""Whose rows of q and k pair up by their rotation in llama.cpp."""
EMBEDDINGS = ("token_embd.weight", "output.weight")
TERNARY = ("HF_PACKED", "I2_S", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0")
SPLIT_KEYS = (COUNT, NUMBER, TENSORS)
CUTTINGS = {pattern: name for name, pattern in reversed(PATTERNS.items())}
"""What llama.cpp calls ways of cutting text."""

Tell = Callable[[int, int], None]
"""Called with the bytes written and those of all tensors."""


class Planned(NamedTuple):
    """A tensor of the source and the type it is written in; with `scaled`, its one scale as a tensor behind it.

    TQ1_0 and TQ2_0 hold scales as float16, which would round it. llama.cpp reads such tensors in BitNet models alone.
    """

    tensor: Tensor
    kind: gguf.GGMLQuantizationType
    scaled: bool

    @property
    def byte_shape(self) -> tuple[int, ...]:
        """Shape in bytes."""
        return gguf.quant_shape_to_byte_shape(self.tensor.shape, self.kind)


def convert(
    source: Path,
    out: Path,
    kind: str | None = None,
    activation: str | None = None,
    linear_class: str | None = None,
    i2s_packing: str = "x86",
    tell: Tell = lambda done, total: None,
    embeddings: str | None = None,
) -> list[str]:
    """Write `out`, whole or not at all, with the blocks' matrices in type `kind`, one of TYPES.

    None keeps their type; packed and I2_S ternary weights become TQ2_0. Norms are written as float32, embedding and
    head in type `embeddings`, all else as it is. `activation`, `linear_class` and `i2s_packing` as in Engine. Returns
    what other programs will miss in the file.
    Raises ModelFileError for a source that cannot be used, UsageError for a type that does not fit its shapes,
    RunFailed when the file cannot be written.
    """
    file = open_model(source, activation, linear_class)
    file.verify()
    model_file.is_arm_packing(i2s_packing)
    return write(file, out, kind, activation, i2s_packing, tell, embeddings)


def write(
    file: Source,
    out: Path,
    kind: str | None = None,
    activation: str | None = None,
    i2s_packing: str = "x86",
    tell: Tell = lambda done, total: None,
    embeddings: str | None = None,
    learned: Mapping[str, np.ndarray] = MappingProxyType({}),
    blocks: int | None = None,
) -> list[str]:
    """As `convert`, of an open file.

    Args:
        learned: other weights of some tensors, float32, as they would lie in `file`. They are written as float32;
            matrices of -1, 0, 1 times one scale as TQ2_0 where that holds them exactly.
        blocks: leave out those after so many.
    """
    metadata, lacks = file_keys(file, activation)
    architecture = metadata["general.architecture"][0]
    if blocks is not None:
        metadata[f"{architecture}.block_count"] = (blocks, gguf.GGUFValueType.UINT32)
    plans = _plans(file, kind, embeddings, architecture, learned, blocks)
    lacks += _differences(metadata, {plan.tensor.name for plan in plans})
    if file.own_format and kind not in ("TQ1_0", "TQ2_0"):
        lacks.append(
            f"it does not say that its matrices are to be run as {file.own_format}: name the format (--format)"
        )
    with gguf_writer(out, metadata.pop("general.architecture")[0]) as writer:
        for name, (value, *types) in metadata.items():
            if value == []:
                raise ModelFileError(file.path, f"has an empty array, {name}, which GGUF's writer does not write")
            writer.add_key_value(name, value, *types)
        add_digests(writer)
        for plan in plans:
            shape = plan.byte_shape
            writer.add_tensor_info(plan.tensor.name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=plan.kind)
            if plan.scaled:
                writer.add_tensor_info(_scale_name(plan.tensor.name), (1,), np.dtype(np.float32), 4)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_tensors(writer, file, plans, learned, i2s_packing, tell)
    return lacks


def _write_tensors(
    writer: gguf.GGUFWriter, file: Source, plans: list[Planned], learned: Mapping[str, np.ndarray], i2s_packing: str,
    tell: Tell,
) -> None:  # fmt: skip
    assert writer.fout is not None
    into, done = writer.fout[0], 0
    total = sum(math.prod(plan.byte_shape) for plan in plans)
    writer.write_padding(into, into.tell())
    for plan in plans:
        # Not by the writer's own function: numpy, which it uses, does not say why a file cannot be written.
        for part in _encoded(file, plan, learned.get(plan.tensor.name), i2s_packing):
            into.write(part.data)
            writer.write_padding(into, part.nbytes)
        done += math.prod(plan.byte_shape)
        tell(done, total)


Source = ModelFile | HuggingFaceFile


def _plans(
    file: Source, wanted: str | None, embeddings: str | None, architecture: str, learned: Mapping[str, np.ndarray],
    blocks: int | None,
) -> list[Planned]:  # fmt: skip
    names, plans = {tensor.name for tensor in file.tensors()}, []
    for tensor in file.tensors():
        if blocks is not None and tensor.name.startswith("blk.") and int(tensor.name.split(".")[1]) >= blocks:
            continue
        free = architecture == "bitnet" and _scale_name(tensor.name) not in names
        if tensor.name in learned:
            kind = _exact_kind(tensor, learned[tensor.name], free)
            scaled = kind.name == "TQ2_0"
        else:
            kind = _kind(file, tensor, embeddings if tensor.name in EMBEDDINGS else wanted)
            scaled = kind.name in ("TQ1_0", "TQ2_0") and tensor.type not in ("TQ1_0", "TQ2_0")
        plans.append(Planned(tensor, kind, free and scaled))
    return plans


def _exact_kind(tensor: Tensor, weights: np.ndarray, free: bool) -> gguf.GGMLQuantizationType:
    """The smaller of TQ2_0 and F32 that holds weights exactly; their scale may be `free` to be a tensor of its own."""
    if not is_block_matrix(tensor.name) or weights.ndim == 1 or weights.shape[1] % 256:
        return gguf.GGMLQuantizationType.F32
    scale = np.abs(weights).max()
    exact = np.array_equal(weights, np.sign(weights) * scale) and (free or np.float16(scale) == scale)
    return gguf.GGMLQuantizationType.TQ2_0 if exact else gguf.GGMLQuantizationType.F32


def _scale_name(name: str) -> str:
    return name.removesuffix(".weight") + ".scale"


def _kind(file: Source, tensor: Tensor, wanted: str | None) -> gguf.GGMLQuantizationType:
    """The type to write a tensor in."""
    if not is_block_matrix(tensor.name) or len(tensor.shape) == 1:
        name = "F32" if len(tensor.shape) == 1 else tensor.type
        name = "F16" if name in ("HF_PACKED", "I2_S", "Q2_0") else name
        name = wanted.upper() if wanted and tensor.name in EMBEDDINGS else name
    elif wanted:
        name = wanted.upper()
    else:
        name = {"HF_PACKED": "TQ2_0", "I2_S": "TQ2_0", "Q2_0": "F16"}.get(tensor.type, tensor.type)
    kind = gguf.GGMLQuantizationType[name]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if tensor.shape[-1] % block:
        raise UsageError(
            f"{file.path}: {tensor.name} has rows of {tensor.shape[-1]} weights, but {name} needs a multiple of "
            f"{block}: choose another --type"
        )
    return kind


def is_block_matrix(name: str) -> bool:
    """Whether a tensor is one of the seven matrices of a block."""
    parts = name.split(".")
    return parts[0] == "blk" and parts[-1] == "weight" and parts[-2] in MATRICES.values()


def _encoded(file: Source, plan: Planned, learned: np.ndarray | None, i2s_packing: str) -> Iterator[np.ndarray]:
    """The tensor's bytes in the type planned, and then its scale's, if that is a tensor of its own."""
    tensor, kind, scaled = plan
    changed = isinstance(file, HuggingFaceFile) and _is_changed(file, tensor)
    if learned is None and tensor.type == kind.name and not changed and file_scale(file, tensor.name) == 1:
        yield raw_bytes(file, tensor.name)
        return
    weights = file.weights(tensor.name, i2s_packing) if learned is None else learned
    if isinstance(file, HuggingFaceFile) and changed:
        weights = _changed(file, tensor, weights)
    scale = np.ones(1, np.float32)
    if kind.name in ("TQ1_0", "TQ2_0"):
        given, weights = weights, ternary(weights)
        if weights is not given and learned is None and tensor.type in TERNARY:
            problem = (
                f"holds {tensor.name}, which is not -1, 0, 1 times one scale, or one for each 256 weights of a row"
            )
            raise ModelFileError(file.path, problem)
        if scaled and np.array_equal(weights, np.sign(weights) * np.abs(weights).max()):
            scale[0] = np.abs(weights).max()
            weights = np.sign(weights)
    try:
        yield np.ascontiguousarray(gguf.quantize(weights, kind)).view(np.uint8)
    except NotImplementedError:
        raise UsageError(
            f"{file.path}: {tensor.name} cannot be written as {kind.name}: choose another --type"
        ) from None
    if scaled:
        yield scale


def ternary(weights: np.ndarray) -> np.ndarray:
    """-1, 0, 1 times one scale as the engine has it: the weights themselves if they are that, or have a scale for each
    block that TQ1_0 and TQ2_0 have one for; else by their mean.
    """
    scale = np.abs(weights).max()
    if np.array_equal(weights, np.sign(weights) * scale) or is_ternary_in_blocks(weights, 256):
        return weights
    mean = max(float(np.abs(weights).mean(dtype=np.float64)), 1e-5)
    codes = np.clip(np.rint(weights / np.float64(mean)), -1, 1)
    return (codes * mean).astype(np.float32)


def in_llama_cpps_order(file: Source, name: str, weights: np.ndarray) -> np.ndarray:
    """A tensor's weights as this module would write them."""
    tensor = next(tensor for tensor in file.tensors() if tensor.name == name)
    changed = isinstance(file, HuggingFaceFile) and _is_changed(file, tensor)
    return _changed(file, tensor, weights) if isinstance(file, HuggingFaceFile) and changed else weights


def _is_changed(file: HuggingFaceFile, tensor: Tensor) -> bool:
    kind = file.metadata()["general.architecture"]
    if kind in GEMMAS:
        return tensor.name.endswith("_norm.weight")  # not _norm_in.weight, which are norms of another class
    return kind in INTERLEAVED and tensor.name.endswith((".attn_q.weight", ".attn_k.weight"))


def _changed(file: HuggingFaceFile, tensor: Tensor, weights: np.ndarray) -> np.ndarray:
    """As llama.cpp has it: Gemma's norms are 1 + w, and rows of Llama's q and k pair up by their rotation."""
    if len(tensor.shape) == 1:
        return weights + np.float32(1)
    metadata = file.metadata()
    head = metadata[f"{metadata['general.architecture']}.attention.key_length"]
    return weights.reshape(-1, 2, head // 2, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


def _item(file: Source, name: str) -> Any:
    for i in range(lib.bitrl_file_tensor_count(file.handle)):
        item = lib.bitrl_file_tensor(file.handle, i)
        if bytes(ffi.buffer(item.name, item.name_bytes)) == name.encode():
            return item
    raise KeyError(name)


def file_scale(file: Source, name: str) -> float:
    """The factor of every weight of a tensor."""
    return float(_item(file, name).scale)


def raw_bytes(file: Source, name: str) -> np.ndarray:
    """A tensor as it lies in the file, uint8. Raises ModelFileError when the file has changed since it was opened."""
    file.sizes.check()
    item = _item(file, name)
    out, error = np.empty(item.bytes, np.uint8), ffi.new("char[]", 256)
    into = ffi.from_buffer("uint8_t[]", out, require_writable=True)
    if lib.bitrl_read_bytes(item, into, error) != lib.BITRL_OK:
        raise ModelFileError(file.path, model_file.message(error))
    file.sizes.check()
    return out


# ---- keys ----

Value = tuple[Any, ...]
"""A value and GGUF's type of it; for an array also that of its elements."""


def file_keys(file: Source, activation: str | None) -> tuple[dict[str, Value], list[str]]:
    """Every key of the new file, and what is missing in it for other programs.

    Raises ModelFileError for a file that does not name its architecture.
    """
    types = gguf.GGUFValueType
    found: dict[str, Value] = {}
    for key in model_file.keys(file):
        if key.name in ("general.alignment", "general.file_type", TENSOR_KEY, HEADER_KEY, *SPLIT_KEYS):
            continue
        value = key.value.tolist() if isinstance(key.value, np.ndarray) else key.value
        name = key.name.replace("rope.local_freq_base", "rope.freq_base_swa")
        for ours in RELU2_ARCHITECTURES:  # llama.cpp calls them so
            name = f"bitnet.{name.removeprefix(f'{ours}.')}" if name.startswith(f"{ours}.") else name
            value = "bitnet" if value == ours and name == "general.architecture" else value
        array = (types(key.element_type),) if key.type == types.ARRAY else ()
        found[name] = (value, types(key.type), *array)
    kind = found.get("general.architecture", (None,))[0]
    if not isinstance(kind, str):
        raise ModelFileError(file.path, "does not name its architecture (general.architecture)")
    activation = activation or ("relu2" if file.metadata()["general.architecture"] in RELU2_ARCHITECTURES else None)
    if activation:
        found.setdefault(f"{kind}.hidden_activation", (activation, types.STRING))
    if not isinstance(file, HuggingFaceFile):
        return found, []
    lacks = ["it has no head (lm_head.weight), so what generates by it is wrong"] if file.lacks_head else []
    found["general.name"] = (Path(file.directory).resolve().name, types.STRING)
    for name, value in file.metadata().items():
        if name.startswith("tokenizer."):
            kind = types.BOOL if isinstance(value, bool) else types.UINT32
            found[name] = (value, types.STRING if isinstance(value, str) else kind)
    pad = file.config.values.get("pad_token_id")
    if type(pad) is int and 0 <= pad < file.config.count("vocab_size"):
        found.setdefault("tokenizer.ggml.padding_token_id", (pad, types.UINT32))
    lacks += _name_ends(found, file.end_tokens)
    for name, text in file.named_tokens.items():
        if name in NAMED_TOKENS and name not in ("bos_token", "eos_token") and file.has_tokenizer():
            token = file.tokenizer.token_to_id(text)
            found |= {} if token is None else {NAMED_TOKENS[name]: (token, types.UINT32)}
    if not file.has_tokenizer():
        return found, [*lacks, "it has no tokenizer: there is no tokenizer.json beside the weights"]
    text = file.tokenizer_json()
    found["tokenizer.huggingface.json"] = (text, types.STRING)
    lists = _token_lists(text, file)
    if lists is None:
        return found, [
            *lacks, "llama.cpp cannot read its tokenizer, which is not a byte-level BPE of a kind known here"
        ]  # fmt: skip
    return found | lists, lacks


def _name_ends(found: dict[str, Value], ends: Sequence[int]) -> list[str]:
    """Add the tokens that end a text to a file's keys, as far as there are keys; what then is missing."""
    keys = [f"tokenizer.ggml.{name}_token_id" for name in END_KEYS]
    named = {found[key][0] for key in keys if key in found}
    free, rest = [key for key in keys if key not in found], [token for token in ends if token not in named]
    found |= {key: (token, gguf.GGUFValueType.UINT32) for key, token in zip(free, rest, strict=False)}
    lost = rest[len(free) :]
    return [f"texts do not end with the tokens {', '.join(map(str, lost))}: a file names three ends"] if lost else []


def _differences(metadata: dict[str, Value], names: set[str]) -> list[str]:
    """What llama.cpp, as of version 0.3.36 of its Python package, refuses or computes otherwise in the new file."""
    kind, found = metadata["general.architecture"][0], []
    activation = metadata.get(f"{kind}.hidden_activation", ("silu",))[0]
    if kind == "bitnet" and activation != "silu":
        found.append(f"llama.cpp takes SiLU for every BitNet model, so its results differ: this one has {activation}")
    if kind == "bitnet" and "output.weight" in names:
        found.append("llama.cpp refuses it: its BitNet models have no head of their own (output.weight)")
    if kind == "phi3" and "blk.0.ffn_gate.weight" in names:
        found.append("llama.cpp refuses it: its Phi-3 models have gate and up in one tensor")
    if f"{kind}.rope.layers" in metadata:
        found.append("llama.cpp does not rotate other blocks (each fourth), so its results differ")
    if kind not in GEMMAS and f"{kind}.attention.sliding_window" in metadata:
        found.append("llama.cpp has no windows in such models, so its results differ for texts that are longer")
    if any(name.endswith("_norm_in.weight") for name in names):
        found.append("llama.cpp refuses it: it has no norms before single projections")
    scale, head, blocks = (
        metadata.get(f"gemma3.{name}", (0,))[0] for name in ("attention.scale", "attention.key_length", "block_count")
    )
    numbers = all(isinstance(value, (int, float)) and value > 0 for value in (scale, head))
    # llama.cpp knows the scale of the largest Gemma by its 62 blocks.
    if numbers and blocks != 62 and not math.isclose(scale, head**-0.5, rel_tol=1e-4):
        found.append("llama.cpp scales attention by the heads' width, so its results differ: see query_pre_attn_scalar")
    return found


def _token_lists(text: str, file: HuggingFaceFile) -> dict[str, Value] | None:
    """A byte-level BPE's vocabulary and merges as GGUF has them; None for another kind of tokenizer."""
    types = gguf.GGUFValueType
    try:
        whole = json.loads(text)
        model, pre, more = whole["model"], _pre(whole.get("pre_tokenizer")), whole.get("added_tokens") or ()
        if model.get("type", "BPE") != "BPE" or pre is None:
            return None
        ids = dict(model["vocab"]) | {added["content"]: added["id"] for added in more}
        special = {added["id"]: added["special"] for added in more}
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        size = file.config.count("vocab_size")
        tokens, kinds = [f"[PAD{i}]" for i in range(size)], [int(gguf.TokenType.UNUSED)] * size
        for token, i in ids.items():
            tokens[i] = token
            kinds[i] = int(gguf.TokenType.NORMAL)
            if i in special:
                kinds[i] = int(gguf.TokenType.CONTROL if special[i] else gguf.TokenType.USER_DEFINED)
    except (KeyError, TypeError, ValueError, IndexError, RecursionError):
        raise ModelFileError(
            file.directory / "tokenizer.json", "holds a vocabulary that does not fit the model"
        ) from None
    return {
        "tokenizer.ggml.model": ("gpt2", types.STRING),
        "tokenizer.ggml.pre": (pre, types.STRING),
        "tokenizer.ggml.tokens": (tokens, types.ARRAY, types.STRING),
        "tokenizer.ggml.token_type": (kinds, types.ARRAY, types.INT32),
        "tokenizer.ggml.merges": (merges, types.ARRAY, types.STRING),
    }


def _pre(found: Any) -> str | None:
    """llama.cpp's name for how tokenizer.json cuts text before BPE; None when it has none for it."""
    if found is None:  # as of SentencePiece's vocabularies, which replace spaces before
        return None
    steps = found["pretokenizers"] if found["type"] == "Sequence" else [found]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    if steps[-1].get("use_regex", True):
        kinds = [step["type"] for step in steps[:-1]]
        if kinds == ["Digits"] and steps[0].get("individual_digits"):
            return "smollm"
        return None if kinds else "gpt-2"
    if len(steps) == 2 and steps[0]["type"] == "Split" and steps[0].get("behavior") == "Isolated":
        return CUTTINGS.get(steps[0]["pattern"].get("Regex"))
    return None

"""A Hugging Face checkpoint (config.json, *.safetensors) in the engine's terms: GGUF's keys and tensor names.

Knows the configurations and names of transformers' BitNet, Llama, Mistral, Qwen, Gemma, Phi-3 and SmolLM3 decoders, and
of the first published BitNet b1.58. Nothing is guessed: what config.json does not say, or says and the engine does not
compute, is a ModelFileError with its name. Weights stay as they are, in the files; rotations are rotations.py's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitrl.plugins.backbones.files.checkpoint_config import CheckpointConfig as CheckpointConfig
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.files.rotations import rope_factors, rope_keys, turned_blocks
from bitrl.plugins.backbones.files.safetensors_file import Stored, Stretch, shown

ARCHITECTURES = {
    "bitnet": "bitnet-b1.58", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
    "gemma2": "gemma2", "gemma3_text": "gemma3", "phi3": "phi3", "smollm3": "smollm3",
}  # fmt: skip
"""What GGUF calls the models that config.json gives these types."""
CLASSES = ("ForCausalLM", "Model", "TextModel")
FIRST_BITNET = "BitnetForCausalLM"
"""The class of bitnet_b1_58-large and -3B, whose type is llama: it has norms of its own within a block."""
NO_HEAD_DIM = ("llama", "mistral", "bitnet", "qwen2", "phi3", "smollm3")
"""Types whose heads divide the width unless their configuration says otherwise."""
GEMMAS = ("gemma2", "gemma3")
TIED = ("gemma2", "gemma3_text", "smollm3")
"""Types whose head is the embedding unless tie_word_embeddings says otherwise."""
PACKED = 1000
"""The engine's number for transformers' packed ternary weights, four rows in one of bytes."""
TYPES = {"F32": 0, "F16": 1, "BF16": 30, "U8": PACKED}
ACTIVATIONS = {"relu2": "relu2", "silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_pytorch_tanh"}

WHOLE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
MATRICES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_USUAL = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_GEMMA = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
NORMS = {
    "bitnet-b1.58": {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
    },
    "bitnet": {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.inner_attn_ln": "attn_sub_norm", "mlp.ffn_layernorm": "ffn_sub_norm",
    },
    "qwen3": _USUAL | HEAD_NORMS,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA | HEAD_NORMS,
} | dict.fromkeys(("llama", "qwen2", "phi3", "smollm3"), _USUAL)  # fmt: skip
BIASES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
"""Of Qwen2, the projections that add one."""
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}  # fmt: skip
"""Of Phi-3, matrices that stand one under the other in a tensor."""
OTHER_PARTS = ("vision_tower.", "multi_modal_projector.")
"""What a multimodal checkpoint has beside its language model."""
UNSUPPORTED = (
    "attention_bias", "mlp_bias", "attn_logit_softcapping", "final_logit_softcapping", "use_sliding_window",
    "use_bidirectional_attention", "rope_interleaved", "num_experts", "num_local_experts", "n_routed_experts",
)  # fmt: skip
"""Keys that must be absent, null, false or 0."""
SUPPORTED = {
    "gemma2": ("attn_logit_softcapping", "final_logit_softcapping"),
    "qwen2": ("use_sliding_window",), "qwen3": ("use_sliding_window",), "smollm3": ("use_sliding_window",),
}  # fmt: skip
"""Of these, those that a type may have."""


class Translated(NamedTuple):
    """One tensor for the engine: GGUF's name and type number, shape (slowest first), place (or its bytes, of those that
    are computed), factor of every weight.
    """

    name: str
    type: int
    shape: tuple[int, ...]
    data: Stretch | bytes
    scale: float


Key = str | int | float | Sequence[bool]
"""A value of a key."""


def text_part(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a multimodal checkpoint's language model, or `values` themselves.

    What a Gemma 3's leaves out is as transformers' class has it: Google's own files rely on that.
    """
    inner = values.get("text_config")
    if values.get("model_type") != "gemma3" or not isinstance(inner, dict):
        return values
    usual = {
        "model_type": "gemma3_text", "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "tie_word_embeddings": True,
    }  # fmt: skip
    if inner.get("layer_types") is None:
        usual["sliding_window_pattern"] = 6
    shared = ("eos_token_id", "tie_word_embeddings", "quantization_config")
    outer = {name: values[name] for name in shared if name in values}
    return usual | outer | {name: value for name, value in inner.items() if value is not None}


def engine_keys(config: CheckpointConfig, activation: str | None = None) -> dict[str, Key]:
    """GGUF's keys for this configuration. `activation` is the one the caller names, for files that name none."""
    kind = architecture(config)
    heads, width = config.count("num_attention_heads"), config.count("hidden_size")
    head_dim = config.count("head_dim", width // heads if config.values["model_type"] in NO_HEAD_DIM else None)
    keys: dict[str, Key] = {
        "block_count": config.count("num_hidden_layers"),
        "context_length": config.count("max_position_embeddings"),
        "embedding_length": width,
        "feed_forward_length": config.count("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": config.count("num_key_value_heads", heads),  # absent or null means as many
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": config.positive("rms_norm_eps"),
        "rope.dimension_count": head_dim,
        "vocab_size": config.count("vocab_size"),
    }
    keys |= rope_keys(config, kind, head_dim) | _window_keys(config, kind) | _cap_keys(config, kind)
    check_quantization(config)
    named = _activation(config, kind, activation)
    if named:
        keys["hidden_activation"] = named
    return {"general.architecture": kind} | {f"{kind}.{name}": value for name, value in keys.items()}


def architecture(config: CheckpointConfig) -> str:
    """GGUF's name of the model, once its configuration is known to be supported."""
    kind = config.values.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise config.fail(f"has model_type = {shown(str(kind), 40)}, which is not supported; supported: {known}")
    for name in config.items("architectures"):
        if not isinstance(name, str) or not name.endswith(CLASSES):
            raise config.fail(f"is of a {shown(str(name), 40)}, which is not supported: a decoder alone is")
    for key in UNSUPPORTED:
        if config.values.get(key) and key not in SUPPORTED.get(kind, ()):
            raise config.fail(f"has {key} = {shown(str(config.values[key]), 40)}, which is not supported")
    if not config.values.get("is_causal", True):
        raise config.fail("reads its texts in both directions (is_causal), which is not supported")
    return "bitnet" if kind == "llama" and FIRST_BITNET in config.items("architectures") else ARCHITECTURES[kind]


def engine_tensors(
    stored: Mapping[str, Stored], config: CheckpointConfig, path: Path, linear_class: str | None = None
) -> Iterator[Translated]:
    """Every tensor under GGUF's name. `linear_class` is the one the caller names, for packed files that name none."""
    kind = architecture(config)
    stored = _unfused(_plainly(stored, path), config, kind, path)
    tied = config.values.get("tie_word_embeddings") is True and _same_as_embedding(stored)
    scales = {name: tensor for name, tensor in stored.items() if name.endswith(".weight_scale")}
    seen: dict[str, str] = {}
    for name, tensor in stored.items():
        if name.endswith((".weight_scale", "rotary_emb.inv_freq")) or name.startswith(OTHER_PARTS):
            continue
        ours = _engine_name(name, kind)
        if ours is None:
            raise ModelFileError(path, f"has the tensor {shown(name)}, which is not supported in a {kind} model")
        if ours in seen:
            raise ModelFileError(path, f"holds {ours} twice: as {shown(seen[ours])} and {shown(name)}")
        seen[ours] = name
        scale = scales.pop(f"{name}_scale", None)
        if ours == "output.weight" and tied:
            continue
        if tensor.dtype not in TYPES or (tensor.dtype == "U8" and not _is_matrix(ours)):
            raise ModelFileError(path, f"has {shown(name)} of type {tensor.dtype}, which is not supported")
        if len(tensor.shape) not in (1, 2) or 0 in tensor.shape:
            raise ModelFileError(path, f"has {shown(name)} of shape {list(tensor.shape)}, which is not supported")
        packed = tensor.dtype == "U8" and len(tensor.shape) == 2
        shape = (4 * tensor.shape[0], tensor.shape[1]) if packed else tensor.shape
        factor = 1.0
        if tensor.dtype == "U8" or scale is not None:
            factor = _factor(name, tensor, scale, config, path, linear_class)
        yield Translated(ours, TYPES[tensor.dtype], shape, tensor.data, factor)
    for name in scales:
        raise ModelFileError(path, f"has {shown(name)} but nothing that it scales")
    if factors := rope_factors(config, kind):
        data = np.array(factors, "<f4").tobytes()
        yield Translated("rope_freqs.weight", TYPES["F32"], (len(factors),), data, 1.0)


def _plainly(stored: Mapping[str, Stored], path: Path) -> Mapping[str, Stored]:
    """Tensors by their names without the prefixes of whole models, and of a multimodal one's language model."""
    found: dict[str, tuple[str, Stored]] = {}
    for name, tensor in stored.items():
        plain = re.sub(r"^(model\.language_model\.|language_model\.model\.|language_model\.|model\.)", "", name)
        if plain in found:
            raise ModelFileError(path, f"holds {shown(plain)} twice: as {shown(found[plain][0])} and {shown(name)}")
        found[plain] = name, tensor
    return {plain: tensor for plain, (_, tensor) in found.items()}


def _same_as_embedding(stored: Mapping[str, Stored]) -> bool:
    """Whether the head, if there is one, is the embedding. transformers takes the file's own where they differ."""
    head, embedding = stored.get("lm_head.weight"), stored.get("embed_tokens.weight")
    if head is None or embedding is None:
        return head is None
    return head[:2] == embedding[:2] and head.data.equals(embedding.data)


def _unfused(stored: Mapping[str, Stored], config: CheckpointConfig, kind: str, path: Path) -> Mapping[str, Stored]:
    """With each of Phi-3's fused matrices as those that it holds."""
    if kind != "phi3":
        return stored
    heads, width, ffn = map(config.count, ("num_attention_heads", "hidden_size", "intermediate_size"))
    head_dim, kv_heads = config.count("head_dim", width // heads), config.count("num_key_value_heads", heads)
    q, kv = heads * head_dim, kv_heads * head_dim
    rows = {"self_attn.qkv_proj": (q, kv, kv), "mlp.gate_up_proj": (ffn, ffn)}
    found: dict[str, Stored] = {}
    for name, tensor in stored.items():
        block, _, stem = name.removesuffix(".weight").partition(".self_attn." if ".self_attn." in name else ".mlp.")
        stem = ("self_attn." if ".self_attn." in name else "mlp.") + stem
        if stem not in FUSED:
            found[name] = tensor
            continue
        if len(tensor.shape) != 2 or tensor.shape[0] != sum(rows[stem]) or tensor.dtype not in ("F32", "F16", "BF16"):
            what = f"has {shown(name)} of type {tensor.dtype} {list(tensor.shape)}"
            raise ModelFileError(path, f"{what}; expected {sum(rows[stem])} rows of floats")
        row_bytes, at = tensor.data.size // tensor.shape[0], 0
        for part, count in zip(FUSED[stem], rows[stem], strict=True):
            place = tensor.data.part(at * row_bytes, count * row_bytes)
            found[f"{block}.{part}.weight"] = Stored(tensor.dtype, (count, tensor.shape[1]), place)
            at += count
    return found


def _engine_name(name: str, kind: str) -> str | None:
    """GGUF's name for a tensor, None for one that such a model does not have."""
    stem = name.removesuffix(".weight")
    if stem == name:
        found = re.fullmatch(r"layers\.(0|[1-9][0-9]{0,5})\.([a-z_.]+)\.bias", name) if kind == "qwen2" else None
        ours = BIASES.get(found[2]) if found else None
        return f"blk.{found[1]}.{ours}.bias" if found and ours else None
    if stem in WHOLE:
        return f"{WHOLE[stem]}.weight"
    found = re.fullmatch(r"layers\.(0|[1-9][0-9]{0,5})\.([a-z_.]+)", stem)
    if not found:
        return None
    block, rest = found.groups()
    ours = MATRICES.get(rest) or NORMS[kind].get(rest)
    if not ours and kind not in (
        "bitnet-b1.58",
        "bitnet",
    ):  # a norm before each projection: Microsoft's models, transformers' BitLinear
        before = MATRICES.get(rest.removesuffix(".rms_norm").removesuffix(".norm"))
        ours = f"{before}_norm_in" if before else None
    return f"blk.{block}.{ours}.weight" if ours else None


def _is_matrix(ours: str) -> bool:
    return ours.split(".")[-2] in MATRICES.values()


def _factor(
    name: str, tensor: Stored, scale: Stored | None, config: CheckpointConfig, path: Path, linear_class: str | None
) -> float:
    """The factor of every weight, from `weight_scale` in either of its meanings."""
    said = config.group("quantization_config")
    kind = said.get("linear_class") or linear_class
    if kind not in ("bitlinear", "autobitlinear"):
        what = f"has quantization_config.linear_class = {shown(str(kind), 40)}" if kind else "lacks linear_class"
        raise config.fail(
            f"{what} in quantization_config, which says what weight_scale means: name it "
            "(-o backbone.linear_class=autobitlinear if it multiplies, bitlinear if it divides)"
        )
    if said.get("quantization_mode", "offline") != "offline" or (tensor.dtype != "U8" and kind == "bitlinear"):
        raise config.fail(
            f"contradicts {shown(name)}, whose weights are quantised: quantization_config has linear_class {kind} and "
            f"quantization_mode {shown(str(said.get('quantization_mode')), 20)}"
        )
    if scale is None:
        raise ModelFileError(path, f"lacks {shown(name)}_scale, which packed weights need")
    if scale.dtype not in ("F32", "F16", "BF16") or math.prod(scale.shape) != 1:
        raise ModelFileError(
            path, f"has {shown(name)}_scale of type {scale.dtype} {list(scale.shape)}; expected a number"
        )
    value = _number(scale)
    factor = value if kind == "autobitlinear" else 1 / value if value else math.inf
    if not 0 < factor < 3e38:  # NaN, too
        raise ModelFileError(path, f"is damaged: {shown(name)}_scale is {value}")
    return factor


def _number(scale: Stored) -> float:
    raw = scale.data.read()
    if scale.dtype == "BF16":  # the upper half of a float32
        return float(np.frombuffer(b"\0\0" + raw, "<f4")[0])
    return float(np.frombuffer(raw, "<f4" if scale.dtype == "F32" else "<f2")[0])


def check_quantization(config: CheckpointConfig) -> None:
    """Raises ModelFileError for weights quantised in a way that is not BitNet's, or normed by another epsilon."""
    said = config.group("quantization_config")
    if said and said.get("quant_method") != "bitnet":
        method = shown(str(said.get("quant_method")), 40)
        raise config.fail(f"has weights quantised by {method}, which is not supported: bitnet is")
    if said.get("use_rms_norm"):
        if config.values.get("model_type") == "bitnet":
            raise config.fail("has quantization_config.use_rms_norm in a bitnet model, which is not supported")
        eps = config.positive("rms_norm_eps", said)
        if eps != config.positive("rms_norm_eps"):
            raise config.fail(
                f"has quantization_config.rms_norm_eps = {eps} beside another rms_norm_eps, not supported"
            )


def _activation(config: CheckpointConfig, kind: str, wanted: str | None) -> str | None:
    key = "hidden_activation" if kind in GEMMAS else "hidden_act"  # Gemma's classes do not read the other
    name = config.values.get(key)
    if name is None:
        if wanted is None:
            raise config.fail(f"lacks {key}: name the activation (-o backbone.activation)")
        return None
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise config.fail(f"has {key} = {shown(str(name), 40)}, which is not supported; supported: {known}")
    return ACTIVATIONS[name]


def _cap_keys(config: CheckpointConfig, kind: str) -> dict[str, Key]:
    """Gemma's scale of attention and, of the second, its caps."""
    if kind not in GEMMAS:
        return {}
    keys: dict[str, Key] = {"attention.scale": config.positive("query_pre_attn_scalar") ** -0.5}
    for name in SUPPORTED.get(kind, ()):
        keys[name] = 0.0 if config.says(name) is None else config.positive(name)  # 0: none
    return keys


def _window_keys(config: CheckpointConfig, kind: str) -> dict[str, Key]:
    """How many tokens local blocks see, and which these are: all but each n-th, or a boolean for each block."""
    local = _local_blocks(config, kind)
    if not any(local) and kind not in GEMMAS:
        return {}
    pattern: Key = local
    if kind in GEMMAS:
        every = local.index(False) + 1 if False in local else len(local) + 1
        pattern = every if local == [bool((i + 1) % every) for i in range(len(local))] else local
    return {"attention.sliding_window": config.count("sliding_window"), "attention.sliding_window_pattern": pattern}


def _local_blocks(config: CheckpointConfig, kind: str) -> list[bool]:
    blocks = config.count("num_hidden_layers")
    kinds, model = config.items("layer_types"), config.values["model_type"]
    if any(layer not in ("full_attention", "sliding_attention") for layer in kinds):
        raise config.fail("has layer_types other than full_attention and sliding_attention, which is not supported")
    if kinds and len(kinds) != blocks:
        raise config.fail(f"has {len(kinds)} layer_types for {blocks} blocks")
    listed = [layer == "sliding_attention" for layer in kinds]
    if kind in GEMMAS:
        return listed or _every_nth(config, kind, blocks)
    if model == "phi3" or (model == "mistral" and not kinds):  # Phi-3's class has one kind of layer
        window = config.values.get("sliding_window") if model == "phi3" else config.says("sliding_window")
        return [window is not None] * blocks
    if "use_sliding_window" not in SUPPORTED.get(model, ()) or not config.values.get("use_sliding_window"):
        if any(listed):
            raise config.fail("has layer_types other than full_attention, which is not supported in such a model")
        return [False] * blocks
    windowed = config.says("sliding_window") is not None
    if model == "smollm3" or kinds:
        return listed or [windowed and not turned for turned in turned_blocks(config)]
    first = config.values.get("max_window_layers")
    if type(first) is not int or first < 0:
        raise config.fail(f"has max_window_layers = {shown(str(first), 40)}; expected an integer from 0")
    return [windowed and i >= first for i in range(blocks)]


def _every_nth(config: CheckpointConfig, kind: str, blocks: int) -> list[bool]:
    if kind == "gemma3" and config.values.get("sliding_window_pattern") is None:
        raise config.fail("lacks layer_types, and bitrl does not guess it")
    every = config.count("sliding_window_pattern") if kind == "gemma3" else 2
    return [bool((i + 1) % every) for i in range(blocks)]

"""A Hugging Face checkpoint (config.json, *.safetensors) in the engine's terms: GGUF's keys and tensor names.

Knows the configurations and names of transformers' BitNet, Llama, Qwen3 and Gemma3 decoders. Nothing is guessed: what
config.json does not say, or says and the engine does not compute, is a ModelFileError with its name. Weights stay as
they are, in the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.files.safetensors_file import Stored, Stretch, shown

ARCHITECTURES = {"bitnet": "bitnet-b1.58", "llama": "llama", "qwen3": "qwen3", "gemma3_text": "gemma3"}
"""What GGUF calls the models that config.json gives these types."""
CLASSES = ("ForCausalLM", "Model", "TextModel")
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
NORMS = {
    "bitnet-b1.58": {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
    },
    "llama": {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    "qwen3": {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"} | HEAD_NORMS,
    "gemma3": {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    } | HEAD_NORMS,
}  # fmt: skip
UNSUPPORTED = (
    "attention_bias", "mlp_bias", "attn_logit_softcapping", "final_logit_softcapping", "use_sliding_window",
    "use_bidirectional_attention", "rope_interleaved", "num_experts", "num_local_experts", "n_routed_experts",
)  # fmt: skip
"""Keys that must be absent, null, false or 0."""


class Translated(NamedTuple):
    """One tensor for the engine: GGUF's name and type number, shape (slowest first), place, factor of every weight."""

    name: str
    type: int
    shape: tuple[int, ...]
    data: Stretch
    scale: float


class CheckpointConfig:
    """config.json's values, each checked as it is read. Raises ModelFileError naming the key."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self.path = values, path

    def fail(self, problem: str) -> ModelFileError:
        """An error about this file."""
        return ModelFileError(self.path, problem)

    def count(self, key: str, otherwise: int | None = None) -> int:
        """An integer from 1 to 2^31; `otherwise` when the key is absent."""
        value = self._present(key) if otherwise is None else self.values.get(key)
        value = otherwise if value is None else value
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise self.fail(f"has {key} = {shown(str(value), 40)}; expected an integer above 0")
        return value

    def positive(self, key: str, among: Mapping[str, Any] | None = None) -> float:
        """A positive number."""
        value = self._present(key, among)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
            raise self.fail(f"has {key} = {shown(str(value), 40)}; expected a positive number")
        return float(value)

    def group(self, key: str) -> Mapping[str, Any]:
        """An object, empty when the key is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.fail(f"has {key} = {shown(str(value), 40)}; expected an object")
        return value or {}

    def items(self, key: str) -> list[Any]:
        """A list, empty when the key is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.fail(f"has {key} = {shown(str(value), 40)}; expected a list")
        return value or []

    def _present(self, key: str, among: Mapping[str, Any] | None = None) -> Any:
        value = (self.values if among is None else among).get(key)
        if value is None:
            raise self.fail(f"lacks {key}, and bitrl does not guess it")
        return value


def engine_keys(config: CheckpointConfig, activation: str | None = None) -> dict[str, str | int | float]:
    """GGUF's keys for this configuration. `activation` is the one the caller names, for files that name none."""
    kind = architecture(config)
    heads, width = config.count("num_attention_heads"), config.count("hidden_size")
    head_dim = config.count("head_dim", width // heads if kind in ("llama", "bitnet-b1.58") else None)
    keys: dict[str, str | int | float] = {
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
    keys |= _gemma_keys(config) if kind == "gemma3" else {"rope.freq_base": _rope_theta(config, "rope_theta", None)}
    if kind != "gemma3" and any(layer != "full_attention" for layer in config.items("layer_types")):
        raise config.fail("has layer_types other than full_attention, which is not supported")
    check_quantization(config)
    named = _activation(config, activation)
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
        if config.values.get(key):
            raise config.fail(f"has {key} = {shown(str(config.values[key]), 40)}, which is not supported")
    return ARCHITECTURES[kind]


def engine_tensors(
    stored: Mapping[str, Stored], config: CheckpointConfig, path: Path, linear_class: str | None = None
) -> Iterator[Translated]:
    """Every tensor under GGUF's name. `linear_class` is the one the caller names, for packed files that name none."""
    kind = architecture(config)
    tied = config.values.get("tie_word_embeddings")
    scales = {name: tensor for name, tensor in stored.items() if name.endswith(".weight_scale")}
    seen: dict[str, str] = {}
    for name, tensor in stored.items():
        if name.endswith((".weight_scale", "rotary_emb.inv_freq")):
            continue
        ours = _engine_name(name, kind)
        if ours is None:
            raise ModelFileError(path, f"has the tensor {shown(name)}, which is not supported in a {kind} model")
        if ours in seen:
            raise ModelFileError(path, f"holds {ours} twice: as {shown(seen[ours])} and {shown(name)}")
        seen[ours] = name
        scale = scales.pop(f"{name}_scale", None)
        if ours == "output.weight" and tied is True:
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


def _engine_name(name: str, kind: str) -> str | None:
    """GGUF's name for a tensor, None for one that such a model does not have."""
    name = name.removeprefix("model.")
    stem = name.removesuffix(".weight")
    if stem == name:
        return None
    if stem in WHOLE:
        return f"{WHOLE[stem]}.weight"
    found = re.fullmatch(r"layers\.(0|[1-9][0-9]{0,5})\.([a-z_.]+)", stem)
    if not found:
        return None
    block, rest = found.groups()
    ours = MATRICES.get(rest) or NORMS[kind].get(rest)
    if (
        not ours and kind != "bitnet-b1.58"
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


def _activation(config: CheckpointConfig, wanted: str | None) -> str | None:
    name = config.values.get("hidden_act") or config.values.get("hidden_activation")
    if name is None:
        if wanted is None:
            raise config.fail("lacks hidden_act: name the activation (-o backbone.activation)")
        return None
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise config.fail(f"has hidden_act = {shown(str(name), 40)}, which is not supported; supported: {known}")
    return ACTIVATIONS[name]


def _rope_theta(config: CheckpointConfig, key: str, layers: str | None) -> float:
    """The base of rotations: transformers 5 has it in rope_parameters (`layers` names Gemma's kind), 4 as a key."""
    found = config.group("rope_parameters")
    if layers is not None and found:
        of_layers = found.get(layers)
        if not isinstance(of_layers, dict):
            raise config.fail(f"lacks rope_parameters.{layers}, and bitrl does not guess it")
        found = of_layers
    for scaling in (found, config.group("rope_scaling")):
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default":
            raise config.fail(f"scales its positions (rope_type = {shown(str(kind), 20)}), which is not supported")
    part = found.get("partial_rotary_factor", config.values.get("partial_rotary_factor"))
    if part not in (None, 1):
        raise config.fail(f"has partial_rotary_factor = {shown(str(part), 20)}, which is not supported")
    return config.positive(key) if found.get("rope_theta") is None else config.positive("rope_theta", found)


def _gemma_keys(config: CheckpointConfig) -> dict[str, str | int | float]:
    scalar = config.positive("query_pre_attn_scalar")
    return {
        "rope.freq_base": _rope_theta(config, "rope_theta", "full_attention"),
        "rope.local_freq_base": _rope_theta(config, "rope_local_base_freq", "sliding_attention"),
        "attention.sliding_window": config.count("sliding_window"),
        "attention.sliding_window_pattern": _window_pattern(config),
        "attention.scale": scalar**-0.5,
    }


def _window_pattern(config: CheckpointConfig) -> int:
    """p where every p-th block attends to everything; other layouts are refused."""
    blocks = config.count("num_hidden_layers")
    kinds = config.items("layer_types")
    if not kinds:
        if config.values.get("sliding_window_pattern") is None:
            raise config.fail("lacks layer_types, and bitrl does not guess it")
        return config.count("sliding_window_pattern")
    if len(kinds) != blocks:
        raise config.fail(f"has {len(kinds)} layer_types for {blocks} blocks")
    every = kinds.index("full_attention") + 1 if "full_attention" in kinds else blocks + 1
    if kinds != ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(blocks)]:
        raise config.fail("has layer_types in which full_attention is not every n-th, which is not supported")
    return every

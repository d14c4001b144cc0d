"""How a checkpoint rotates queries and keys: config.json's rope settings in GGUF's keys, and factors of frequencies.

Knows transformers' kinds of scaling (default, linear, dynamic, llama3, yarn, longrope), where versions 4 and 5 have
them, and which blocks of SmolLM3 do not rotate. The engine computes the angles (csrc/rope.c).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bitrl.plugins.backbones.files.checkpoint_config import CheckpointConfig
from bitrl.plugins.backbones.files.safetensors_file import shown

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
Key = str | int | float | Sequence[bool]


def rope_keys(config: CheckpointConfig, kind: str, head_dim: int) -> dict[str, Key]:
    """GGUF's keys of the rotations of a model of this kind."""
    settings = _settings(config, "full_attention" if kind == "gemma3" else None)
    keys: dict[str, Key] = {"rope.freq_base": _theta(config, settings, "rope_theta")}
    if kind == "gemma3":
        local = _settings(config, "sliding_attention")
        if _kind(config, local) not in ("default", "dynamic"):
            raise config.fail("scales the positions of sliding_attention, which is not supported")
        keys["rope.local_freq_base"] = _theta(config, local, "rope_local_base_freq")
    if kind == "smollm3":
        turned = turned_blocks(config)
        if turned != [bool((i + 1) % 4) for i in range(len(turned))]:
            keys["rope.layers"] = turned
    return keys | {"rope.dimension_count": _dims(config, settings, kind, head_dim)} | _scaling(config, settings)


def _dims(config: CheckpointConfig, settings: Mapping[str, Any], kind: str, head_dim: int) -> int:
    """How many dimensions of a head are rotated: all, or of Phi-3 a part."""
    part = settings.get("partial_rotary_factor", config.values.get("partial_rotary_factor"))
    if part in (None, 1):
        return head_dim
    dims = int(head_dim * part) if kind == "phi3" and isinstance(part, float) and 0 < part < 1 else 0
    if dims < 2 or dims % 2:
        raise config.fail(f"has partial_rotary_factor = {shown(str(part), 20)}, which is not supported")
    return dims


def turned_blocks(config: CheckpointConfig) -> list[bool]:
    """Which blocks of a SmolLM3 rotate: those in no_rope_layers that are not 0, or all but each n-th."""
    blocks, listed = config.count("num_hidden_layers"), config.items("no_rope_layers")
    if not listed:
        every = config.count("no_rope_layer_interval", 4)
        return [bool((i + 1) % every) for i in range(blocks)]
    if len(listed) < blocks or any(each not in (0, 1) for each in listed):
        raise config.fail(f"has no_rope_layers other than 0 or 1 for each of {blocks} blocks")
    return [bool(each) for each in listed[:blocks]]


def rope_factors(config: CheckpointConfig, kind: str) -> list[float]:
    """What each pair's frequency is divided by, of llama3 and longrope; empty: nothing.

    Of longrope, as it is within the first context, which is all that the engine then reads.
    """
    settings = _settings(config, "full_attention" if kind == "gemma3" else None)
    if _kind(config, settings) not in ("llama3", "longrope"):
        return []
    heads, width = config.count("num_attention_heads"), config.count("hidden_size")
    dims = _dims(config, settings, kind, config.count("head_dim", width // heads))
    match _kind(config, settings):
        case "llama3":
            return _llama3(config, settings, _theta(config, settings, "rope_theta"), dims)
        case "longrope":
            short = settings.get("short_factor")
            fits = isinstance(short, list) and len(short) == dims // 2
            if not fits or not all(isinstance(each, (int, float)) and 0 < each < 1e9 for each in short or ()):
                raise config.fail(f"has a short_factor other than {dims // 2} positive numbers")
            return [float(each) for each in short or ()]
    return []


def _settings(config: CheckpointConfig, layers: str | None) -> Mapping[str, Any]:
    """What is said of rotations: transformers 5 has it in rope_parameters (`layers` names Gemma's kind), 4 as keys.

    Where both stand, rope_scaling wins, as in transformers: people add it to files that are to read longer texts.
    """
    found, scaling = config.group("rope_parameters"), config.group("rope_scaling")
    if layers is not None and found:
        of_layers = found.get(layers)
        if not isinstance(of_layers, dict):
            raise config.fail(f"lacks rope_parameters.{layers}, and bitrl does not guess it")
        return {**of_layers, **scaling} if layers == "full_attention" else of_layers
    # Gemma's local blocks are never scaled by the older key.
    return {} if layers == "sliding_attention" else scaling or found


def _theta(config: CheckpointConfig, settings: Mapping[str, Any], key: str) -> float:
    return config.positive(key) if settings.get("rope_theta") is None else config.positive("rope_theta", settings)


def _kind(config: CheckpointConfig, settings: Mapping[str, Any]) -> str:
    kind = settings.get("rope_type", settings.get("type")) or "default"
    if kind == "su" or (kind == "yarn" and config.values.get("model_type") == "phi3"):  # as the first Phi-3 say
        kind = "longrope"
    if kind not in KINDS or (kind == "longrope" and config.values.get("model_type") != "phi3"):
        raise config.fail(
            f"scales its positions (rope_type = {shown(str(kind), 20)}), which is not supported; supported: "
            f"{', '.join(KINDS[:-1])} and, of Phi-3, longrope"
        )
    return str(kind)


def _scaling(config: CheckpointConfig, settings: Mapping[str, Any]) -> dict[str, Key]:
    """GGUF's keys of how positions are scaled. "dynamic" does nothing within the context that the engine reads."""
    kind = _kind(config, settings)
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": config.positive("factor", settings)}
    if kind == "yarn":
        return _yarn(config, settings)
    if kind == "longrope":
        config.positive("original_max_position_embeddings")  # Phi-3's class has its own for one that is elsewhere
        context, first = config.count("max_position_embeddings"), _first_context(config, settings)
        factor = settings.get("factor")
        factor = context / first if factor is None else config.positive("factor", settings)
        attention = math.sqrt(1 + math.log(factor) / math.log(first)) if factor > 1 and first > 1 else 1.0
        if settings.get("attention_factor") is not None:
            attention = config.positive("attention_factor", settings)
        return {
            "rope.scaling.type": "longrope", "rope.scaling.original_context_length": first,
            "rope.scaling.attn_factor": attention,
        }  # fmt: skip
    return {}


def _yarn(config: CheckpointConfig, settings: Mapping[str, Any]) -> dict[str, Key]:
    if settings.get("truncate") is False:
        raise config.fail("scales its positions by yarn with truncate = False, which is not supported")
    first = _first_context(config, settings)
    factor = settings.get("factor")
    factor = config.count("max_position_embeddings") / first if factor is None else config.positive("factor", settings)
    keys: dict[str, Key] = {
        "rope.scaling.type": "yarn", "rope.scaling.factor": factor, "rope.scaling.original_context_length": first
    }  # fmt: skip
    for ours, name in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        if settings.get(name):
            keys[f"rope.scaling.{ours}"] = config.positive(name, settings)
    fast, slow = (settings.get(name) or usual for name, usual in (("beta_fast", 32), ("beta_slow", 1)))
    if fast < slow:
        raise config.fail(f"scales its positions by yarn with beta_fast = {fast} below beta_slow = {slow}")
    usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    attention = usual
    if settings.get("attention_factor") is not None:
        attention = config.positive("attention_factor", settings)
    elif settings.get("mscale") and settings.get("mscale_all_dim") and factor > 1:
        scales = (config.positive(name, settings) for name in ("mscale", "mscale_all_dim"))
        one, all_dims = (0.1 * scale * math.log(factor) + 1 for scale in scales)
        attention = one / all_dims
    if attention != usual:
        keys["rope.scaling.attn_factor"] = attention / usual
    return keys


def _first_context(config: CheckpointConfig, settings: Mapping[str, Any]) -> int:
    """The positions that the model was trained with before they were stretched."""
    for values in (config.values, settings):  # as transformers has it
        if (found := values.get("original_max_position_embeddings")) is not None:
            if type(found) not in (int, float) or not 1 <= found < 1 << 20:
                value = shown(str(found), 40)
                raise config.fail(f"has original_max_position_embeddings = {value}; expected an integer above 0")
            return int(found)
    return config.count("max_position_embeddings")


def _llama3(config: CheckpointConfig, settings: Mapping[str, Any], theta: float, dims: int) -> list[float]:
    """Llama 3's factors: 1 for short wavelengths, `factor` for long ones, and a smooth way between."""
    factor, low, high = (config.positive(name, settings) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    first, found = _first_context(config, settings), []
    for i in range(dims // 2):
        wavelength = 2 * math.pi * theta ** (2 * i / dims)
        if wavelength < first / high:
            found.append(1.0)
        elif wavelength > first / low:
            found.append(factor)
        else:
            smooth = (first / wavelength - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return found

"""Small random models of transformers' own classes, saved as transformers saves them, and their hidden states."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "pad_token_id": None,
    "bos_token_id": 7, "eos_token_id": 8, "attn_implementation": "eager",
}  # fmt: skip
THETA = {"rope_type": "default", "rope_theta": 500.0}
TEXTS = [[1, 5, 299, 200, 4, 4, 17, 120, 3, 90, 91, 92, 93], [7]]


class InDouble(torch.overrides.TorchFunctionMode):
    """Inside it, what transformers does in float32 is done in float64.

    In float32, an activation now and then rounds to the neighbouring 8-bit code, which moves its token by 1e-3.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
        kwargs = {key: torch.float64 if arg is torch.float32 else arg for key, arg in (kwargs or {}).items()}
        return func(*args, **kwargs)


def llama(**changes: Any) -> Any:
    return _random(transformers.LlamaConfig(**{**SHAPE, "rope_parameters": THETA, **changes}))


def calm_llama(**changes: Any) -> Any:
    """Its matrices small enough for attention not to be a choice of one token."""
    model = llama(**changes)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(1 if "norm" in name else 0.3)
    return model


def qwen3(**changes: Any) -> Any:
    return _random(transformers.Qwen3Config(**{**SHAPE, "head_dim": 12, "rope_parameters": THETA, **changes}))


def gemma3(**changes: Any) -> Any:
    """Every second block is global; a window of 5 is shorter than the first text."""
    rope = {"full_attention": THETA, "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}
    config = {
        **SHAPE, "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 5, "rope_parameters": rope,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }  # fmt: skip
    return _random(transformers.Gemma3TextConfig(**{**config, **changes}))


def bitnet(**changes: Any) -> Any:
    return _random(transformers.BitNetConfig(**{**SHAPE, "rope_parameters": THETA, **changes}))


def _random(config: Any) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    is_gemma = config.model_type == "gemma3_text"
    with torch.no_grad():
        for name, weight in model.named_parameters():  # the usual 0.02 would leave attention and gates all but linear
            noise = 0.3 * torch.randn_like(weight)
            weight.copy_(noise if "norm" not in name or is_gemma else 1 + noise)
    return model


def save_rounded(model: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Saves `model` in half precision; returns it with the weights saved, and the rest of it still in float32."""
    copy.deepcopy(model).to(dtype).save_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(dtype))
    return model


def packed(model: Any, folder: Path, linear_class: str, dtype: torch.dtype = torch.float32) -> Any:
    """Saves `model` with random packed ternary weights; returns transformers' own model of them."""
    # Imported here: it takes five seconds, in every process that collects the tests.
    from transformers.integrations.bitnet import pack_weights, replace_with_bitnet_linear
    from transformers.utils.quantization_config import BitNetQuantConfig

    config = BitNetQuantConfig(linear_class=linear_class, modules_to_not_convert=["lm_head"])
    torch.manual_seed(1)
    stored, run = {}, {}
    for name, weight in model.state_dict().items():
        if not name.endswith("_proj.weight"):
            stored[name] = run[name] = weight.to(dtype)
            continue
        codes = torch.randint(-1, 2, weight.shape)
        scale = torch.tensor([0.2 + 0.1 * torch.rand(())]).to(dtype)
        scale = scale if linear_class == "autobitlinear" else 1 / scale
        stored[name] = pack_weights(codes.clone())
        stored[f"{name}_scale"] = run[f"{name}_scale"] = scale
        run[name] = codes.float() if linear_class == "autobitlinear" else stored[name]
    folder.mkdir(parents=True, exist_ok=True)
    tied = model.config.tie_word_embeddings
    stored = {name: tensor for name, tensor in stored.items() if not (tied and "lm_head" in name)}
    safetensors.torch.save_file(stored, folder / "model.safetensors")
    model.config.save_pretrained(folder)
    said = json.loads((folder / "config.json").read_text()) | {"quantization_config": config.to_dict()}
    (folder / "config.json").write_text(json.dumps(said))
    replace_with_bitnet_linear(model, ["lm_head"], config)
    run = {name: tensor if tensor.dtype == torch.uint8 else tensor.float() for name, tensor in run.items()}
    missing, unexpected = model.load_state_dict(run, strict=False, assign=True)
    assert not missing
    assert not unexpected
    for module in model.modules():
        if hasattr(module, "in_features"):
            module.dtype = torch.float32
    return model.eval()


def states(model: Any, tokens: list[int]) -> list[np.ndarray]:
    """The residual stream after each block, [length, width] each; the model in the precision it is in."""
    found: list[np.ndarray] = []

    def hook(module: Any, inputs: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0].float().numpy())

    hooks = [layer.register_forward_hook(hook) for layer in model.model.layers]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        model(torch.tensor([tokens]))
    for each in hooks:
        each.remove()
    return found


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def add_tokenizer(folder: Path, **said: Any) -> Tokenizer:
    """A byte-level BPE with one merge and a control token, that puts the latter first as Llama 3's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "th", "<s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"} | said))
    return tokenizer

"""Models of other architectures against transformers' own classes, on small random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_models import TinyModel, gguf_bytes

from bitrl.plugins.backbones.engine import Engine, ModelFileError

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def llama(**changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 300, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "rms_norm_eps": 1e-5,
        "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128, "rope_theta": 500.0,
    }  # fmt: skip
    config = transformers.LlamaConfig(**{**shape, **changes}, attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # the usual 0.02 would leave attention and gates all but linear
            weight.copy_(1 + 0.3 * torch.randn_like(weight) if "norm" in name else 0.3 * torch.randn_like(weight))
    return model


def write_llama(
    model: Any, path: Path, dtype: torch.dtype = torch.float32, changes: dict[str, Any] | None = None
) -> Path:
    """As llama.cpp's converter does: rows of q and k with the halves of each head's rotation interleaved."""
    c = model.config
    keys = {
        "general.architecture": "llama", "llama.block_count": c.num_hidden_layers,
        "llama.embedding_length": c.hidden_size, "llama.feed_forward_length": c.intermediate_size,
        "llama.attention.head_count": c.num_attention_heads, "llama.attention.head_count_kv": c.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": float(c.rms_norm_eps), "llama.rope.freq_base": 500.0,
        "llama.rope.dimension_count": c.hidden_size // c.num_attention_heads,
        "llama.context_length": c.max_position_embeddings, "llama.vocab_size": c.vocab_size, **(changes or {}),
    }  # fmt: skip
    tensors = []
    for name, weight in model.state_dict().items():
        name = name.removeprefix("model.")
        if name.startswith("layers."):
            _, i, rest = name.split(".", 2)
            rest = rest.removesuffix(".weight")
            heads = {"self_attn.q_proj": c.num_attention_heads, "self_attn.k_proj": c.num_key_value_heads}.get(rest)
            if heads:
                weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
            name = f"blk.{i}.{NAMES[rest]}.weight"
        else:
            name = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}.get(
                name, "output.weight"
            )
        half = dtype == torch.bfloat16 and weight.dim() == 2
        raw = weight.bfloat16().view(torch.int16).numpy() if half else weight.float().numpy()
        tensors.append((name, 30 if half else 0, tuple(weight.shape), raw.tobytes()))
    path.write_bytes(gguf_bytes(keys, tensors))
    return path


def hidden_states(model: Any, text: list[int]) -> list[np.ndarray]:
    """The residual stream after each block, [length, width] each."""
    states: list[np.ndarray] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output).detach().float().view(len(text), -1).numpy())

    hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]
    with torch.no_grad():
        model(torch.tensor([text]))
    for hook in hooks:
        hook.remove()
    return states


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


TEXTS = [[1, 2, 3, 299, 7], [17], list(range(40))]


def test_llama_matches_transformers_after_every_block(tmp_path: Path) -> None:
    model = llama()
    path = write_llama(model, tmp_path / "model.gguf")
    states = [hidden_states(model, text) for text in TEXTS]
    for layers in (1, 2, 3):
        got = Engine(path, layers=layers, threads=1).encode(TEXTS, "none")
        assert relative_error(got, np.concatenate([state[layers - 1] for state in states])) < 1e-5


def test_llama_in_bf16(tmp_path: Path) -> None:
    model = llama()
    with torch.no_grad():
        for weight in model.parameters():  # not .bfloat16(), which would round the rotation's frequencies too
            weight.copy_(weight.bfloat16())
    path = write_llama(model, tmp_path / "model.gguf", torch.bfloat16)
    want = np.concatenate([hidden_states(model, text)[-1] for text in TEXTS])
    assert Engine(path, threads=1).format == "bf16"
    assert relative_error(Engine(path, "fp32", threads=1).encode(TEXTS, "none"), want) < 1e-5
    # The engine rounds only what enters a product, to 8 bits of mantissa: 2^-9 an activation, through three blocks.
    assert relative_error(Engine(path, threads=1).encode(TEXTS, "none"), want) < 2e-2


def test_llama_in_eight_bits_is_near(tmp_path: Path) -> None:
    model = llama()
    path = write_llama(model, tmp_path / "model.gguf")
    want = np.concatenate([hidden_states(model, text)[-1] for text in TEXTS])
    assert relative_error(Engine(path, "int8", threads=1).encode(TEXTS, "none"), want) < 0.1


def test_the_activation_is_never_guessed(tmp_path: Path) -> None:
    model = TinyModel(width=48, ffn=80, blocks=1)
    prefix = "bitnet-b1.58."
    old = {name: value for name, value in model.keys().items() if name.startswith(prefix)}
    renamed = dict.fromkeys(old) | {name.replace(prefix, "bitnet."): v for name, v in old.items()}
    changes = {**renamed, "general.architecture": "bitnet"}
    path = model.write(tmp_path / "open.gguf", changes=changes)
    with pytest.raises(ModelFileError, match=r"bitnet\.hidden_activation.*-o backbone\.activation=relu2 or silu"):
        Engine(path)
    said = model.write(tmp_path / "said.gguf", changes={**changes, "bitnet.hidden_activation": "relu2"})
    want = Engine(model.write(tmp_path / "known.gguf")).encode(TEXTS)
    np.testing.assert_array_equal(Engine(said).encode(TEXTS), want)
    np.testing.assert_array_equal(Engine(path, activation="relu2").encode(TEXTS), want)
    assert not np.array_equal(Engine(path, activation="silu").encode(TEXTS), want)
    gelu = model.write(tmp_path / "gelu.gguf", changes={**changes, "bitnet.hidden_activation": "gelu"})
    with pytest.raises(ModelFileError, match="hidden_activation other than"):
        Engine(gelu)
    with pytest.raises(ModelFileError, match="activation called tanh"):
        Engine(path, activation="tanh")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "scales its positions"),
        ({"llama.attention.key_length": 16}, "heads of 16"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = write_llama(llama(num_hidden_layers=1), tmp_path / "model.gguf", changes=changes)
    with pytest.raises(ModelFileError, match=words):
        Engine(path)

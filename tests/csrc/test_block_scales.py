"""Ternary matrices with a scale for each block of a row: kept as they are, in every file that can hold them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from hugging_face_models import InDouble, llama, qwen3, relative_error, save_rounded, states
from tiny_models import gguf_bytes

from bitrl.plugins.backbones.engine.engine import Engine, instruction_sets
from bitrl.plugins.backbones.files.model_file import ModelFile
from bitrl.plugins.backbones.tools.convert import convert

TEXTS = [[1, 5, 299, 200, 4, 4, 17], [7]]
SHAPE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2}


def blockwise(made: Any, block: int, rows: int = 1) -> Any:
    """Its projections ternary, with a scale (of float16) for each `block` columns of each `rows` rows."""
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("_proj.weight"):
                height, width = weight.shape
                scales = rng.uniform(0.01, 0.2, (-(-height // rows), -(-width // block))).astype(np.float16)
                scales = np.repeat(np.repeat(scales.astype(np.float32), rows, 0)[:height], block, 1)[:, :width]
                weight.copy_(torch.from_numpy(rng.integers(-1, 2, weight.shape) * scales))
    return made


def quantised(made: Any) -> Any:
    """What it computes with activations of 8 bits, each token's by its largest, as BitNet's layers have them."""

    def hook(module: Any, inputs: Any) -> Any:
        (x,) = inputs
        scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        return (((x * scale).round().clamp(-128, 127) / scale),)

    for name, module in made.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(hook)
    return made.double()


def in_eight_bits(made: Any, hooks: bool = True) -> np.ndarray:
    """The states of all tokens of TEXTS after the last block."""
    made = quantised(made) if hooks else made.double()
    with InDouble():
        return np.concatenate([states(made, text)[-1] for text in TEXTS])


def as_gguf(hf: Path, path: Path, write: Any, kind: int) -> Path:
    """The checkpoint as GGUF with its projections in a type that the gguf package cannot write."""
    convert(hf, path.with_suffix(".f32"))
    file = ModelFile(path.with_suffix(".f32"))
    tensors = []
    for tensor in file.tensors():
        weights = file.weights(tensor.name)
        projection = tensor.name.startswith("blk.") and weights.ndim == 2
        data = write(weights) if projection else weights.tobytes()
        tensors.append((tensor.name, kind if projection else 0, tensor.shape, data))
    path.write_bytes(
        gguf_bytes(
            {name: value for name, value in file.metadata().items() if not name.startswith(("tokenizer.", "bitrl."))},
            tensors,
        )
    )
    return path


def q2_0(block: int) -> Any:
    def write(weights: np.ndarray) -> bytes:
        blocks = weights.reshape(-1, block)
        scales = np.abs(blocks).max(1).astype(np.float16)
        codes = (np.sign(blocks) + 1).astype(np.uint8).reshape(len(blocks), -1, 4)
        packed = (codes << np.arange(0, 8, 2, dtype=np.uint8)).sum(2, dtype=np.uint8)
        return np.hstack([scales[:, None].view(np.uint8), packed]).tobytes()

    return write


def tq(name: str) -> Any:
    return lambda weights: gguf.quantize(weights, gguf.GGMLQuantizationType[name]).tobytes()


FORMS: dict[str, tuple[int, Any, int]] = {
    "Bonsai's Q2_0": (128, q2_0(128), 42),
    "Q2_0": (64, q2_0(64), 42),
    "TQ2_0 with unequal blocks": (256, tq("TQ2_0"), 35),
    "TQ1_0 with unequal blocks": (256, tq("TQ1_0"), 34),
    "floats": (128, lambda weights: weights.tobytes(), 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_blocks_keep_their_scales(tmp_path: Path, form: str) -> None:
    """With 8-bit activations, and as floats, as transformers computes from the dequantised weights."""
    block, write, kind = FORMS[form]
    block = max(block, 128)  # the engine's own blocks; finer ones are multiples of nothing that it has
    made = blockwise(qwen3(**SHAPE, head_dim=64), block)
    made.save_pretrained(tmp_path / "hf")
    path = as_gguf(tmp_path / "hf", tmp_path / "m.gguf", write, kind)
    for name, weight in made.state_dict().items():  # nothing was lost on the way into the file
        if name == "model.layers.1.mlp.up_proj.weight":
            np.testing.assert_array_equal(ModelFile(path).weights("blk.1.ffn_up.weight"), weight.numpy())
    want = np.concatenate([states(made, text)[-1] for text in TEXTS])
    assert relative_error(Engine(path, "fp32", threads=1).encode(TEXTS, "none"), want) < 1e-5
    want = in_eight_bits(made)
    engine = Engine(path, None if kind else "ternary", threads=1)
    assert engine.format == "ternary"
    got = engine.encode(TEXTS, "none")
    errors = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
    assert errors.max() < 2e-6  # an activation on another code would move its token by 1e-3
    for isa in instruction_sets():
        for format in ("ternary", "ternary-1.6"):
            np.testing.assert_array_equal(Engine(path, format, threads=2, isa=isa).encode(TEXTS, "none"), got)
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight"):  # and are replaced as they are
        weights = engine.file.weights(name)
        assert engine.replace_all({name: -weights}).changed == np.count_nonzero(weights)
        assert engine.replace_all({name: weights}).changed == np.count_nonzero(weights)
    np.testing.assert_array_equal(engine.encode(TEXTS, "none"), got)
    assert engine.bytes_per_token > Engine(path, "ternary", threads=1, layers=1).bytes_per_token


def test_scales_of_shards_are_kept(tmp_path: Path) -> None:
    """TriLM's matrices have a scale for each machine that they were trained on: for groups of rows, or of columns."""
    made = save_rounded(blockwise(llama(**SHAPE), 256, rows=64), tmp_path / "hf", torch.float16)
    want = in_eight_bits(made)
    got = Engine(tmp_path / "hf", "ternary", threads=1).encode(TEXTS, "none")
    assert (np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)).max() < 2e-6


def test_floats_that_are_not_ternary_are_rounded_as_before(tmp_path: Path) -> None:
    """One block that is not makes the matrix one of floats."""
    made = blockwise(llama(**SHAPE), 128)
    with torch.no_grad():
        made.model.layers[0].mlp.up_proj.weight[-1, -1] = 0.0123
    made.save_pretrained(tmp_path)
    engine = Engine(tmp_path, "ternary", threads=1)
    weights = engine.file.weights("blk.0.ffn_up.weight")
    mean = np.abs(weights).mean(dtype=np.float64)
    before = engine.encode(TEXTS, "none")
    engine.replace("blk.0.ffn_up.weight", (np.clip(np.rint(weights / mean), -1, 1) * mean).astype(np.float32))
    assert relative_error(engine.encode(TEXTS, "none"), before) < 1e-5


def test_the_first_bitnet(tmp_path: Path) -> None:
    """bitnet_b1_58-large: transformers' Llama with two more norms; runs on weights rounded by their mean."""
    made = llama(**SHAPE, tie_word_embeddings=True)
    weights = {name: weight for name, weight in made.state_dict().items() if "lm_head" not in name}
    torch.manual_seed(3)
    for i, layer in enumerate(made.model.layers):
        for owner, projection, ours in (
            (layer.self_attn, "o_proj", "self_attn.inner_attn_ln"),
            (layer.mlp, "down_proj", "mlp.ffn_layernorm"),
        ):
            linear = getattr(owner, projection)
            norm = torch.nn.RMSNorm(linear.in_features, eps=made.config.rms_norm_eps)
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            weights[f"model.layers.{i}.{ours}.weight"] = norm.weight.detach()
            setattr(owner, projection, torch.nn.Sequential(norm, linear))
    made.config.architectures = ["BitnetForCausalLM"]
    made.config.save_pretrained(tmp_path)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    want = np.concatenate([states(made, text)[-1] for text in TEXTS])
    assert relative_error(Engine(tmp_path, "fp32", threads=1).encode(TEXTS, "none"), want) < 1e-5
    with torch.no_grad():
        for name, module in made.named_modules():
            if isinstance(module, torch.nn.Linear) and "_proj" in name:
                mean = module.weight.double().abs().mean().clamp(min=1e-5)
                module.weight.copy_((module.weight / mean).round().clamp(-1, 1) * mean)

                def hook(module: Any, inputs: Any) -> Any:
                    scale = 127 / inputs[0].abs().amax(-1, keepdim=True).clamp(min=1e-5)
                    return ((inputs[0] * scale).round().clamp(-128, 127) / scale,)

                module.register_forward_pre_hook(hook)
    want = in_eight_bits(made, False)
    got = Engine(tmp_path, "ternary", threads=1).encode(TEXTS, "none")
    assert (np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)).max() < 2e-6

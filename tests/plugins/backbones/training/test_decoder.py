"""The decoder in torch against the engine: states after every block and logits, and gradients against transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hugging_face_models import TEXTS, bitnet, gemma3, llama, packed, qwen3, relative_error
from tiny_models import TinyModel
from torch.nn import functional as F

from bitrl.plugins.backbones.engine.engine import Engine, open_model
from bitrl.plugins.backbones.engine.generation import Sequences
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.language_model import starter_path
from bitrl.plugins.backbones.tools.convert import convert
from bitrl.plugins.backbones.training.decoder import rotary_table, rotate
from bitrl.plugins.backbones.training.decoder_file import read_decoder, shape_of
from bitrl.plugins.backbones.training.products import rms_norm

# Between products, both are in double precision, and products of codes are exact: what is left are the last bits of the
# float32 that the engine's states and logits are handed out in, unless an activation lies within 1e-13 of a rounding
# boundary, which none of these does. Sums in float32 (fp32) differ by the order in which they are taken.
BOUNDS = {"ternary": 1e-6, "ternary-1.6": 1e-6, "int8": 1e-6, "int4": 1e-6, "fp8": 1e-6, "fp32": 1e-5}
# In bf16 such a sum goes through a rounding to 8 bits, where a difference in the last bit of float32 becomes 2^-9 of an
# activation now and then.
BF16_BOUND = 2e-3
ARCHITECTURES = {
    "bitnet-b1.58": {"architecture": "bitnet-b1.58"},
    "llama": {"architecture": "llama", "head_dim": 20},
    "llama, input norms": {"architecture": "llama", "input_norms": True},
    "qwen3": {"architecture": "qwen3", "head_dim": 16},
    "qwen3, input norms": {"architecture": "qwen3", "input_norms": True},
    "gemma3": {"architecture": "gemma3", "head_dim": 16, "window": 5, "every": 2},
    "gemma3, input norms": {"architecture": "gemma3", "window": 4, "every": 3, "input_norms": True},
}


def tiny(name: str, **changes: Any) -> TinyModel:
    return TinyModel(**{"width": 48, "ffn": 80, "blocks": 3, **ARCHITECTURES[name], **changes})


def check(path: Path, format: str, learns: bool = False) -> None:
    """The states after every block, of every token, and the logits after each text."""
    engine = Engine(path, format, threads=1)
    decoder = read_decoder(open_model(path), format, learns=learns)
    bound = BOUNDS.get(format, BF16_BOUND)
    with torch.no_grad():
        after = list(decoder.residuals(*(torch.tensor([text]) for text in TEXTS)))
        ours = np.stack([torch.cat([part[0] for part in parts]).numpy() for parts in after])
        for got, want in zip(ours, engine.encode_blocks(TEXTS), strict=True):
            assert relative_error(got, want) < bound
        _, want = Sequences(engine).read(TEXTS, 1)
        found = [decoder(torch.tensor([text]))[0, -1].numpy() for text in TEXTS]
        assert relative_error(np.stack(found), want) < bound


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("format", ["ternary", "ternary-1.6", "fp32"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_ternary_files(tmp_path: Path, name: str, format: str, learns: bool) -> None:
    check(tiny(name).write(tmp_path / "m.gguf"), format, learns)


@pytest.mark.parametrize("format", ["ternary", "int8", "int4", "fp8", "bf16", "fp32"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_files_of_floats(tmp_path: Path, name: str, format: str) -> None:
    """Which the engine quantises at load; ternary by the mean of their absolute values."""
    check(tiny(name, weights="F32").write(tmp_path / "m.gguf"), format)
    if format == "fp8":
        check(tmp_path / "m.gguf", format, learns=True)


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
@pytest.mark.parametrize("make", [llama, qwen3, gemma3, bitnet])
def test_checkpoints_of_transformers(tmp_path: Path, make: Any, form: str) -> None:
    """GGUF has rows of llama in another order, safetensors norms of gemma without their 1."""
    make().save_pretrained(tmp_path)
    path = tmp_path
    if form == "gguf":
        convert(tmp_path, tmp_path / "m.gguf")
        path = tmp_path / "m.gguf"
    check(path, "fp32")
    check(path, "ternary", learns=True)


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_packed_checkpoints_keep_their_own_scale(tmp_path: Path, linear_class: str) -> None:
    packed(bitnet(), tmp_path, linear_class)
    check(tmp_path, "ternary")
    check(tmp_path, "ternary", learns=True)


def test_weights_packed_on_another_cpu(tmp_path: Path) -> None:
    path = TinyModel(blocks=1).write(tmp_path / "m.gguf", "I2_S on ARM")
    engine = Engine(path, "ternary", threads=1, i2s_packing="arm")
    decoder = read_decoder(open_model(path), "ternary", i2s_packing="arm")
    with torch.no_grad():
        ((residual,),) = decoder.residuals(torch.tensor(TEXTS[:1]))
    assert relative_error(residual[0].numpy(), engine.encode(TEXTS[:1], "none")) < 1e-6


@pytest.mark.parametrize("activation", ["relu2", "silu", "gelu"])
def test_an_activation_that_the_file_leaves_open(tmp_path: Path, activation: str) -> None:
    model = TinyModel(width=48, ffn=80, blocks=1)
    old = {name: value for name, value in model.keys().items() if name.startswith("bitnet-b1.58.")}
    renamed = dict.fromkeys(old) | {name.replace("bitnet-b1.58.", "bitnet."): v for name, v in old.items()}
    path = model.write(tmp_path / "open.gguf", changes={**renamed, "general.architecture": "bitnet"})
    with pytest.raises(ModelFileError, match="name the activation"):
        read_decoder(open_model(path))
    engine = Engine(path, "ternary", threads=1, activation=activation)
    decoder = read_decoder(open_model(path), "ternary", activation=activation)
    with torch.no_grad():
        ((residual,),) = decoder.residuals(torch.tensor(TEXTS[:1]))
    assert relative_error(residual[0].numpy(), engine.encode(TEXTS[:1], "none")) < 1e-6


@pytest.mark.parametrize("learns", [False, True])
def test_the_starter_pair(learns: bool) -> None:
    check(starter_path(), "ternary", learns)
    for format in ("fp32", "int8", "fp8", "bf16"):
        check(starter_path(ternary=False), format, learns)


def test_fewer_layers(tmp_path: Path) -> None:
    path = tiny("qwen3").write(tmp_path / "m.gguf")
    decoder = read_decoder(open_model(path), "ternary", layers=2)
    with torch.no_grad():
        *_, [residual] = decoder.residuals(torch.tensor(TEXTS[:1]))
    assert relative_error(residual[0].numpy(), Engine(path, "ternary", layers=2).encode(TEXTS[:1], "none")) < 1e-6


def test_gemmas_listed_windows_and_its_largest_model(tmp_path: Path) -> None:
    """27B has 62 blocks and scales its queries otherwise, which no key says."""
    model = TinyModel(architecture="gemma3", width=16, ffn=16, heads=2, kv_heads=1, head_dim=16, blocks=62)
    check(model.write(tmp_path / "large.gguf"), "fp32")
    gemma3().save_pretrained(tmp_path)
    assert shape_of(open_model(tmp_path)).local == {0, 2}


def test_padding_and_company_do_not_change_a_text(tmp_path: Path) -> None:
    decoder = read_decoder(open_model(tiny("gemma3").write(tmp_path / "m.gguf")), "ternary")
    tokens = torch.randint(0, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = list(decoder.residuals(tokens, tokens[:, :5]))
        for row, length in enumerate((9, 4, 6)):
            for [a, b], [alone] in zip(together, decoder.residuals(tokens[row : row + 1, :length]), strict=True):
                torch.testing.assert_close(a[row, :length], alone[0], rtol=0, atol=1e-9)
                torch.testing.assert_close(b[row, : min(length, 5)], alone[0, :5], rtol=0, atol=1e-9)


@pytest.mark.parametrize("format", ["ternary", "fp32"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_completions_are_computed_as_whole_texts(tmp_path: Path, name: str, format: str) -> None:
    """With prompts that several share, in windows that end within them, and completions of a single token; and so are
    gradients."""
    decoder = read_decoder(open_model(tiny(name).write(tmp_path / "m.gguf")), format, learns=True)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 300, (length,), generator=generator) for length in (7, 1, 4)]
    texts = [torch.randint(0, 300, (length,), generator=generator) for length in (5, 1, 9, 2, 1)]
    follows = torch.tensor([0, 2, 0, 1, 0])
    together = decoder.completions(prompts, texts, follows)
    alone = [
        decoder(torch.cat([prompts[number], text])[None])[0, len(prompts[number]) - 1 : -1]
        for text, number in zip(texts, follows.tolist(), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)
    weights = torch.randn(together.shape, generator=generator, dtype=together.dtype)
    found = [
        torch.autograd.grad((each * weights).sum(), [*decoder.parameters()]) for each in (together, torch.cat(alone))
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("format", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["bitnet-b1.58", "llama", "qwen3"])
def test_what_is_generated_in_floats_has_the_same_log_probabilities(tmp_path: Path, name: str, format: str) -> None:
    """Not but for the last bits of float32: one that rounds to another neighbour moves all that follows by as much."""
    path = tiny(name, weights="F32", head_dim=16).write(tmp_path / "m.gguf")
    engine = Engine(path, format, threads=1)
    decoder = read_decoder(open_model(path), format, learns=True)
    prompts = [[1, 2, 3, 4], [5, 6], [1, 2, 3, 4], [7]]
    made = engine.generate(prompts, 60, seed=0)
    texts = [torch.from_numpy(each.tokens.astype(np.int64)) for each in made]
    with torch.no_grad():
        logits = decoder.completions([torch.tensor(prompts[i]) for i in (0, 1, 3)], texts, torch.tensor([0, 1, 0, 2]))
    found = logits.double().log_softmax(-1).gather(1, torch.cat(texts)[:, None])[:, 0]
    np.testing.assert_allclose(found.numpy(), np.concatenate([each.logprobs for each in made]), rtol=0, atol=1e-12)


def test_completions_of_single_tokens(tmp_path: Path) -> None:
    decoder = read_decoder(open_model(tiny("llama").write(tmp_path / "m.gguf")), "fp32")
    text = torch.tensor([5, 6, 7])
    with torch.no_grad():
        found = decoder.completions([text], [torch.tensor([1])], torch.tensor([0]))
        torch.testing.assert_close(found, decoder(text[None])[0, -1:])


@pytest.mark.parametrize("make", [llama, qwen3, gemma3])
def test_gradients_of_floats_are_those_of_transformers(tmp_path: Path, make: Any) -> None:
    theirs = make()
    theirs.save_pretrained(tmp_path)
    ours = read_decoder(open_model(tmp_path), "fp32", learns=True)
    tokens = torch.tensor(TEXTS[:1])
    wanted = torch.randn(1, len(TEXTS[0]), 300, generator=torch.Generator().manual_seed(0))
    with torch.compiler.set_stance("force_eager"):
        (theirs(tokens).logits * wanted).sum().backward()
    (ours(tokens) * wanted).sum().backward()
    names = {"self_attn.q_proj": "attn_q", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm"}
    for name, own in names.items():
        want = theirs.get_parameter(f"model.layers.1.{name}.weight").grad
        got = ours.get_parameter(f"blk.1.{own}").grad
        assert got is not None
        assert relative_error(got.numpy(), want.numpy()) < 1e-4
    want = theirs.get_parameter("model.embed_tokens.weight").grad
    assert relative_error(ours.get_parameter("token_embd").grad.numpy(), want.numpy()) < 1e-4


def straight_through(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A quantised product as the equations say it, its gradient left to autograd."""
    step = x.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-5) / 127
    return (x + ((x / step).round() * step - x).detach()) @ weight.t()


@pytest.mark.parametrize("format", ["ternary", "int8"])
def test_gradients_through_frozen_weights(tmp_path: Path, format: str) -> None:
    """Of what goes in: those of the equations. Nothing is learned, and no memory is kept for it."""
    decoder = read_decoder(open_model(tiny("llama").write(tmp_path / "m.gguf")), format)
    assert list(decoder.parameters()) == []
    matrix = decoder.blk[0].attn_q
    x = torch.randn(7, 48, dtype=torch.float64, requires_grad=True)
    weights = torch.arange(matrix.codes.shape[0]).double().cos()
    (matrix(x) * weights).sum().backward()
    got, x.grad = x.grad, None
    dense = matrix.codes.double() * matrix.scale[:, None]
    want = straight_through(x, dense)
    torch.testing.assert_close(matrix(x), want, rtol=1e-12, atol=1e-12)
    (want * weights).sum().backward()
    torch.testing.assert_close(got, x.grad, rtol=1e-5, atol=1e-6)


def test_norms_and_rotations_have_pytorchs_values_and_gradients() -> None:
    """Written out for speed; PyTorch's own composition of each gives the same values, to the bit, and gradients."""
    torch.manual_seed(0)
    x, norm = torch.randn(2, 3, 5, 8, dtype=torch.float64), torch.rand(8, dtype=torch.float64) + 0.5
    cos, sin = rotary_table(100.0, 8, 5, x.device, x.dtype)
    a, b = x.clone().requires_grad_(), norm.clone().requires_grad_()
    c, d = x.clone().requires_grad_(), norm.clone().requires_grad_()
    gradient = torch.randn_like(x)

    def composed(x: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        first, second = F.rms_norm(x, (8,), norm, 1e-5).chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    ours, theirs = rotate(rms_norm(a, b, 1e-5), cos, sin), composed(c, d)
    assert torch.equal(ours, theirs)
    ours.backward(gradient)
    theirs.backward(gradient)
    torch.testing.assert_close(a.grad, c.grad, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(b.grad, d.grad, rtol=1e-12, atol=1e-14)

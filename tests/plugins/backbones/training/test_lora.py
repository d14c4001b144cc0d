"""Adapters that learn: the same features in torch and in the engine, gradients of them alone, and their arrays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hugging_face_models import calm_llama, relative_error
from tiny_models import TinyModel

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import CachingBackbone, LearningBackbone, TokenizingBackbone
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.adapters import PROJECTIONS
from bitrl.plugins.backbones.benchmark.random_model import random_shape
from bitrl.plugins.backbones.engine.engine import open_model, plan
from bitrl.plugins.backbones.language_model import LanguageModel, LearningLanguageModel, starter_path
from bitrl.plugins.backbones.tools.convert import convert
from bitrl.plugins.backbones.tools.inspection import lora_memory_of
from bitrl.plugins.backbones.tools.lora_memory import TEXTS as TEXTS_AT_ONCE
from bitrl.plugins.backbones.tools.lora_memory import TOKENS, lora_memory
from bitrl.plugins.backbones.training.products import product_as_in_engine

TEXTS = ['{"x": 0.125, "y": -3}', "x=1.5 y=2", "", "1, 2", "x=1.5 y=2", "the cart is at 0.25, moving at 1.75"]
ALL = tuple(PROJECTIONS)


def learning(model: Path | None = None, format: str = "ternary", width: int | None = None, **options: Any) -> Any:
    options = {"lora_rank": 4, "lora_targets": ALL, "threads": 1, **options}
    return LearningLanguageModel(LanguageModelOptions(model=model and str(model), **options), width, format)


def shake(backbone: Any, size: float = 0.02) -> None:
    """Give the adapters of the module weights as if they had learned."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in backbone.module().named_parameters():
            if name.endswith("up"):
                weight.copy_(size * torch.randn(weight.shape, generator=generator))


def check_equal(backbone: Any, texts: list[str] = TEXTS, most: float = 1e-4) -> None:
    """Torch and engine agree before and after learning, and learning changes something."""
    before = backbone.encode(texts).copy()
    with torch.no_grad():
        assert relative_error(backbone.module()(texts).numpy(), before) < most
    shake(backbone)
    np.testing.assert_array_equal(backbone.encode(texts), before)  # until told
    version = backbone.version
    backbone.sync()
    assert backbone.version == version + 1
    after = backbone.encode(texts)
    with torch.no_grad():
        got = backbone.module()(texts)
    assert got.dtype == torch.float32
    assert relative_error(got.numpy(), after) < most
    assert relative_error(after, before) > 20 * most


@pytest.mark.parametrize("format", ["ternary", "ternary-1.6", "int8", "int4", "fp8", "fp32"])
@pytest.mark.parametrize(
    "model",
    [
        TinyModel(width=48, ffn=80, blocks=2),
        TinyModel(architecture="llama", width=48, ffn=80, head_dim=20),
        TinyModel(architecture="qwen3", width=48, ffn=80, head_dim=16, input_norms=True),
        TinyModel(architecture="gemma3", width=48, ffn=80, head_dim=16, window=5, every=2),
    ],
    ids=lambda model: model.architecture,
)
def test_tiny_models(tmp_path: Path, model: TinyModel, format: str) -> None:
    check_equal(learning(model.write(tmp_path / "m.gguf"), format))


def test_rows_of_llama_in_either_order(tmp_path: Path) -> None:
    """Adapters are kept in the file's order; both files hold one model."""
    from hugging_face_models import add_tokenizer

    calm_llama().save_pretrained(tmp_path)
    add_tokenizer(tmp_path)
    convert(tmp_path, tmp_path / "m.gguf")
    for path in (tmp_path, tmp_path / "m.gguf"):
        check_equal(learning(path, "fp32"), most=1e-5)


@pytest.mark.parametrize("format", ["ternary", "ternary-1.6", "fp32", "int8", "int4", "fp8", "bf16"])
def test_the_starter_pair(format: str) -> None:
    """Of so many texts that a sum which differs in its last bit would send some activation to another neighbour."""
    rng = np.random.default_rng(0)
    texts = [f'{{"x": {x:.3f}, "v": {v:.3f}, "angle": {a:.3f}}}' for x, v, a in rng.normal(size=(24, 3))]
    backbone = learning(starter_path(ternary=format.startswith("ternary")), format)
    check_equal(backbone, TEXTS + texts, most=1e-5 if format == "fp32" else 1e-6)


def test_adapters_that_diverge_give_nan_not_an_error(tmp_path: Path) -> None:
    """The algorithm says then what to do."""
    backbone = learning(TinyModel(width=48, ffn=80).write(tmp_path / "m.gguf"))
    with torch.no_grad():
        next(backbone.module().parameters()).fill_(float("nan"))
        assert backbone.module()(TEXTS[:1]).isnan().all()


@pytest.mark.parametrize("format", ["fp32", "bf16"])
@pytest.mark.parametrize(("tokens", "rows", "columns"), [(1, 1, 1), (3, 40, 70), (300, 17, 33)])
def test_the_gradient_of_an_engine_product(format: str, tokens: int, rows: int, columns: int) -> None:
    """That of the product in torch, to which rounding is the identity."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, columns, generator=generator, requires_grad=True) for n in (tokens, rows))
    given = torch.randn(tokens, rows, generator=generator)
    rounded = [each.detach() if format == "fp32" else each.detach().bfloat16().float() for each in (x, weight)]
    y = product_as_in_engine(x, format, weight)
    torch.testing.assert_close(y, rounded[0] @ rounded[1].t(), rtol=1e-5, atol=1e-5)
    y.backward(given)
    torch.testing.assert_close(x.grad, given @ weight.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad, given.t() @ x.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "last"},
        {"pooling": "field"},
        {"projection": 24},
        {"pooling": "field", "projection": 24},
        {"layers": 1},
        {"cache_mb": 0},
    ],
)
def test_features_of_every_kind(tmp_path: Path, options: dict[str, Any]) -> None:
    path = TinyModel(width=48, ffn=80, blocks=2).write(tmp_path / "m.gguf")
    backbone = learning(path, width=2, **options)
    check_equal(backbone, [text for text in TEXTS if "the" not in text])
    assert backbone.module()([]).shape == backbone.module()([""])[:0].shape == (0, backbone.width)


def test_only_adapters_learn_and_all_get_the_gradient_of_the_equations(tmp_path: Path) -> None:
    """In fp32 by finite differences of what the engine computes."""
    backbone = learning(TinyModel(width=48, ffn=80).write(tmp_path / "m.gguf"), "fp32", lora_rank=2, cache_mb=0)
    shake(backbone)
    parameters = dict(backbone.module().named_parameters())
    assert len(parameters) == 2 * 7 * backbone.engine.blocks
    assert all(parameter.requires_grad for parameter in parameters.values())
    weights = torch.randn(len(TEXTS), 48, generator=torch.Generator().manual_seed(2))
    (backbone.module()(TEXTS) * weights).sum().backward()
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        direction = parameter.grad / parameter.grad.norm()
        with torch.no_grad():
            sums = []
            for sign in (1, -1):
                parameter.add_(direction, alpha=sign * 1e-3)
                backbone.sync()
                sums.append(float((backbone.encode(TEXTS).astype(np.float64) * weights.double().numpy()).sum()))
                parameter.sub_(direction, alpha=sign * 1e-3)
        slope = (sums[0] - sums[1]) / 2e-3
        assert slope == pytest.approx(float(parameter.grad.norm()), rel=2e-2), name


def test_what_was_learned_is_arrays_that_another_object_goes_by(tmp_path: Path) -> None:
    path = TinyModel(width=48, ffn=80).write(tmp_path / "m.gguf")
    first, second = learning(path), learning(path)
    assert first.identity == second.identity
    for name, array in first.learned().items():
        np.testing.assert_array_equal(array, second.learned()[name])  # drawn alike
    shake(first)
    first.sync()
    second.encode(TEXTS)
    second.load_learned(first.learned())
    np.testing.assert_array_equal(second.encode(TEXTS), first.encode(TEXTS))
    with torch.no_grad():
        torch.testing.assert_close(second.module()(TEXTS), first.module()(TEXTS), rtol=0, atol=0)
    first.load_learned(learning(path).learned())  # the module follows
    with torch.no_grad():
        assert relative_error(first.module()(TEXTS).numpy(), first.encode(TEXTS)) < 1e-4
    assert np.array_equal(first.encode(TEXTS), LanguageModel(LanguageModelOptions(model=str(path))).encode(TEXTS))


def test_acting_with_what_was_learned_needs_no_torch(tmp_path: Path) -> None:
    path = TinyModel(width=48, ffn=80).write(tmp_path / "m.gguf")
    code = (
        "import sys, bitrl\n"
        f"backbone = bitrl.load_backbone('bitnet', model={str(path)!r}, lora_rank=2)\n"
        "backbone.load_learned({name: array + 1 for name, array in backbone.learned().items()})\n"
        "backbone.encode(['x=1'])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_protocols(tmp_path: Path) -> None:
    path = TinyModel(width=48, ffn=80).write(tmp_path / "m.gguf")
    backbone, frozen = learning(path), LanguageModel(LanguageModelOptions(model=str(path)))
    assert isinstance(backbone, LearningBackbone)
    assert not isinstance(frozen, LearningBackbone)
    for each in (backbone, frozen):
        assert isinstance(each, TokenizingBackbone)
        assert isinstance(each, CachingBackbone)
        assert [len(ids) for ids in each.tokenize(TEXTS)] == each.token_counts(TEXTS)
    assert backbone.module() is backbone.module()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": 49}, r"backbone\.lora_rank: expected 1 to 48, the smaller side of blk\.0\.attn_q, got 49"),
        ({"lora_rank": 25}, r"expected 1 to 24, the smaller side of blk\.0\.attn_k, got 25"),
        ({"lora_targets": ("q", "w")}, r'lora_targets: there is no projection "w": expected some of q, k, v, o'),
        ({"lora_targets": ()}, "expected each projection once, got none"),
        ({"lora_targets": ("q", "q")}, "expected each projection once, got q, q"),
    ],
)
def test_adapters_that_cannot_be(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = TinyModel(width=48, ffn=80).write(tmp_path / "m.gguf")
    with pytest.raises(UsageError, match=message) as error:
        learning(path, **options)
    assert "\n" not in str(error.value)


def test_a_rank_of_zero() -> None:
    import bitrl

    with pytest.raises(UsageError, match=r"backbone\.lora_rank: expected an integer above 0 or none, got 0"):
        bitrl.load_backbone("bitnet", lora_rank=0)


def test_learned_weights_of_other_options_are_refused(tmp_path: Path) -> None:
    path = TinyModel(width=48, ffn=80).write(tmp_path / "m.gguf")
    with pytest.raises(UsageError, match=r"expected blk\.0\.attn_q\.down of \[4, 48\], got one of \[2, 48\]"):
        learning(path).load_learned(learning(path, lora_rank=2).learned())
    with pytest.raises(UsageError, match=r"expected blk\.0\.attn_k\.down of \[4, 48\], got none"):
        learning(path).load_learned(learning(path, lora_targets=("q",)).learned())


@pytest.mark.parametrize("targets", [("q", "v"), ALL])
@pytest.mark.parametrize(
    "model",
    [
        TinyModel(width=256, ffn=512, blocks=4),
        TinyModel(architecture="llama", width=128, ffn=512, blocks=3, head_dim=64),
        TinyModel(architecture="qwen3", width=256, ffn=512, blocks=3, head_dim=64, input_norms=True),
        TinyModel(architecture="gemma3", width=256, ffn=512, blocks=3, head_dim=32, window=5, every=2),
    ],
    ids=lambda model: model.architecture,
)
def test_the_memory_that_inspect_prints_is_what_training_takes(
    tmp_path: Path, model: TinyModel, targets: tuple[str, ...]
) -> None:
    """Activations as an estimate: enough, and not many times as much."""
    path = model.write(tmp_path / "m.gguf")
    backbone = learning(path, lora_rank=8, lora_targets=targets)
    decoder = backbone.decoder
    tokens = torch.randint(0, 256, (TEXTS_AT_ONCE, TOKENS), generator=torch.Generator().manual_seed(0))
    own = [*decoder.parameters(), *decoder.buffers()]
    places, kept = {tensor.untyped_storage().data_ptr() for tensor in own}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        *_, [residual] = decoder.residuals(tokens)
    held = sum(size for place, size in kept.items() if place not in places)
    file = open_model(path)
    memory = lora_memory_of(file, plan(file), 8, targets)
    assert memory is not None
    assert held < memory.activations < 2 * held
    residual.sum().backward()
    assert memory.gradients == sum(4 * p.grad.numel() for p in decoder.parameters() if p.grad is not None)
    assert memory.adapters == 3 * memory.gradients
    optimiser = torch.optim.Adam(decoder.parameters())
    optimiser.step()
    moments = [value for state in optimiser.state.values() for value in state.values() if value.numel() > 1]
    assert memory.moments == sum(4 * moment.numel() for moment in moments)
    frozen = sum(b.numel() * b.element_size() for b in decoder.buffers() if b.dim() == 2)
    assert memory.weights == frozen


def test_the_shape_of_the_2b_model() -> None:
    """Its memory is activations and the frozen weights; the adapters are next to nothing."""
    large = random_shape("bitnet-2b-4t")
    shape = SimpleNamespace(**attrs.asdict(large), head_dim=128)
    none = dict.fromkeys(("head_norms", "post_norms", "input_norms", "silu"), False) | {"sub_norms": True}
    found = lora_memory(shape, 8, ("q", "v"), 1, 4, none)
    assert found is not None
    assert found.gradients == 30 * 8 * (2560 + 2560 + 2560 + 640) * 4
    assert found.weights == 30 * (2 * 2560**2 + 2 * 640 * 2560 + 3 * 6912 * 2560) + 4 * 128256 * 2560
    assert lora_memory(shape, 641, ("q", "v"), 1, 2, none) is None

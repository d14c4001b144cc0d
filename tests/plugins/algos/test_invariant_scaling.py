"""Update-aware quantisation by invariant scaling (QuRL): W·x = (W/s)·(s·x), its codes, and the steps of optimisers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitrl.plugins.backbones.training.products import QUANTISERS, codes_as_learned, normed_products


def weights(seed: int = 0) -> Tensor:
    return torch.randn(48, 64, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("format", QUANTISERS)
@pytest.mark.parametrize("s", [0.5, 2.0, 4.0])
def test_scaling_by_a_power_of_two_changes_no_code_and_no_value(format: str, s: float) -> None:
    """s·Q(W/s) = Q(W) exactly, for absmax (int8, int4) and absmean (ternary)."""
    codes, scale = QUANTISERS[format](weights())
    scaled_codes, scaled_scale = QUANTISERS[format](weights() / s)
    assert torch.equal(codes, scaled_codes)
    assert torch.equal(scale, scaled_scale * s)
    assert torch.equal(codes_as_learned(weights(), format), codes_as_learned(weights() / s, format) * s)
    assert len(codes.unique()) > 2


@pytest.mark.parametrize("format", QUANTISERS)
def test_the_papers_1_5_changes_no_more_than_rounding(format: str) -> None:
    """W/1.5 is rounded to float32 ("ternary-f16": its scale to float16), so a weight between two codes may take the
    other one: of 3,072, at most one does.
    """
    codes, scale = QUANTISERS[format](weights())
    scaled_codes, scaled_scale = QUANTISERS[format](weights() / 1.5)
    assert (codes != scaled_codes).sum() <= 1
    assert (codes - scaled_codes).abs().max() <= 1
    torch.testing.assert_close(scaled_scale * 1.5, scale, rtol=1e-3 if format == "ternary-f16" else 1e-6, atol=0)


@pytest.mark.parametrize("format", [*QUANTISERS, "fp32"])
def test_the_norm_before_absorbs_the_factor(format: str) -> None:
    """RMSNorm with weights s·g, times W/s: the same products, exactly where s is a power of two."""
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    norm = torch.rand(64, generator=torch.Generator().manual_seed(2)) + 0.5
    found = normed_products(x, norm * 2, 1e-5, format, weights() / 2)
    wanted = normed_products(x, norm, 1e-5, format, weights())
    assert torch.equal(found, wanted)
    assert wanted.abs().max() > 0.1


def step(optimiser: Callable[[list[Tensor]], torch.optim.Optimizer], s: float) -> Tensor:
    """How far one step moves the weights that the model multiplies x by: s·(W/s + ΔW) − W. In float64."""
    weight = (weights().double() / s).requires_grad_()
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = torch.randn(7, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ((s * x) @ weight.t() - target).square().mean().backward()
    optimiser([weight]).step()
    return s * weight.detach() - weights().double()


@pytest.mark.parametrize("s", [1.5, 2.0])
@pytest.mark.parametrize(
    ("optimiser", "power"),
    [
        (lambda weights: torch.optim.Adam(weights, lr=1e-4, eps=0.0), 1),
        (lambda weights: torch.optim.SGD(weights, lr=1e-2), 2),
    ],
    ids=["Adam: s", "SGD: s²"],
)
def test_updates_grow_relative_to_the_weights(
    optimiser: Callable[[list[Tensor]], torch.optim.Optimizer], power: int, s: float
) -> None:
    plain = step(optimiser, 1.0)
    assert plain.abs().max() > 0
    torch.testing.assert_close(step(optimiser, s), s**power * plain, rtol=1e-6, atol=1e-12)

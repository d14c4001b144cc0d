"""Matrix products in torch as the engine's formats compute them, with straight-through gradients.

Knows the formats' arithmetic: int8 activations with one absmax scale per token, weights as small integers with a scale
per row, or floats. Does not know models. Products of integers are exact. Gradients, and products of float32, are
computed in bfloat16 where `torch.set_float32_matmul_precision("medium")` allows it and it is faster, with sums in
float32 that are rounded at the end. Measured on one thread of an AMD EPYC with AVX-512 VNNI and BF16, [4096, 256] by
[256, 1536]: 90 GFLOP/s in float32, 205 in bfloat16, 400 in int8; with AVX2 alone, [2000, 512] by [512, 256]: 57, 1, 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitrl.plugins.backbones.engine import steps
from bitrl.plugins.backbones.engine.product import product as engine_product

LEAST = 1e-5
"""The smallest scale of ternary weights and of a token's activations, so that nothing is divided by zero."""
LARGEST_FP8 = 448.0
"""The largest number of E4M3."""


def ternarise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """BitNet b1.58's absmean quantisation: t in {-1, 0, 1} (float32) and the scale w, so that weight ≈ t * w.

    The scale is rounded to float16, as files store it, so that training and the file agree exactly.
    """
    scale = weight.abs().mean().clamp(min=LEAST).half().float()
    return (weight / scale).round_().clamp_(-1, 1), scale


# ---- weights → codes, integers in [-127, 127] (any type), and their scale, one number or [rows, 1] ----


def _absmean(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.double().abs().mean().clamp(min=LEAST)
    return (weight / scale).round().clamp(-1, 1), scale


def _absmean_learned(weight: Tensor) -> tuple[Tensor, Tensor]:
    """As `_absmean`, with a scale that float32 holds: the engine is given the product of codes and scale in float32."""
    scale = weight.double().abs().mean().clamp(min=LEAST).float().double()
    return (weight / scale).round().clamp(-1, 1), scale


def _int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.double().abs().amax(dim=1, keepdim=True) / 127
    return (weight / scale.where(scale != 0, 1)).round(), scale


def _int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """4-bit codes times a small integer per block of 32 in a row: their products are integers up to 120."""
    rows, columns = weight.shape
    blocks = nn.functional.pad(weight.double(), (0, -columns % 32)).view(rows, -1, 32)
    largest = blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True))
    scale = weight.double().abs().amax(dim=1).view(-1, 1, 1) / 119
    safe = scale.where(scale != 0, 1)
    tries, errors = [], []
    for end in (7, -8):  # the code of a block's largest weight
        step = (largest / (end * safe)).round()
        code = (blocks / (step * safe).where(step != 0, 1)).round().clamp(-abs(end), 7)
        tries.append(code * step)
        errors.append((tries[-1] * scale - blocks).square().sum(dim=2, keepdim=True))
    codes = tries[1].where(errors[1] < errors[0], tries[0])
    return codes.flatten(1)[:, :columns], scale.view(-1, 1)


def _fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.double().abs().amax(dim=1, keepdim=True) / LARGEST_FP8
    return (weight / scale.where(scale != 0, 1)).float().to(torch.float8_e4m3fn).float(), scale


Quantiser = Callable[[Tensor], tuple[Tensor, Tensor]]
QUANTISERS: dict[str, Quantiser] = {
    "ternary": _absmean_learned,
    "ternary-f16": ternarise,
    "int8": _int8,
    "int4": _int4,
    "fp8": _fp8,
}
"""Formats of weights as codes, which learn. "ternary-f16" is for training from the beginning: its scale is float16, as
in GGUF's ternary types.
"""
FORMATS = (*QUANTISERS, "bf16", "fp32")


def is_ternary(weight: Tensor) -> bool:
    """Whether weights are -1, 0, 1 times one scale, which the engine does not quantise again."""
    largest = weight.abs().amax()
    return bool(largest > 0) and bool(((weight == 0) | (weight.abs() == largest)).all())


def codes_of(weight: Tensor, format: str) -> tuple[Tensor, Tensor]:
    """Weights of a file → codes [R, K], int8 or E4M3, and scales float64, one or [R], as the engine quantises them."""
    if format.startswith("ternary") and is_ternary(weight):
        codes, scale = weight.sign(), weight.abs().amax()
    else:
        codes, scale = _absmean(weight) if format == "ternary" else QUANTISERS[format](weight)
    return codes.to(torch.float8_e4m3fn if format == "fp8" else torch.int8), scale.double().reshape(-1)


def codes_as_learned(weight: Tensor, format: str) -> Tensor:
    """Trainable weights, quantised and dequantised: what `normed_products` multiplies by."""
    codes, scale = QUANTISERS[format](weight)
    return (codes * scale).float()


def head_format(format: str) -> str:
    """The format of a model's output head: int8, or that of a float model, whose logits must not be rounded.

    In training ("ternary-f16") it is fp32, and quantised when the file is loaded.
    """
    return {"bf16": "bf16", "fp32": "fp32", "ternary-f16": "fp32"}.get(format, "int8")


# ---- products ----


class _NormedProducts(torch.autograd.Function):
    """RMSNorm, quantisation with one absmax scale per row, and the product with quantised matrices, in one step.

    One function rather than three because training is bound by memory traffic, not arithmetic: only x and the integers
    are kept. The gradient is that of the same product with the quantisers taken as identities (straight-through):
    rounding has no useful gradient of its own. Without a norm, x is quantised as it is.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor | None, eps: float, format: str, *weights: Tensor) -> Tensor:
        q, scale, inverse_rms = quantised(x, format, norm, eps)
        parts = [QUANTISERS[format](weight) for weight in weights]
        codes = torch.cat([t for t, _ in parts])
        codes = codes if format == "fp8" else codes.to(torch.int8)
        row_scale = torch.cat([w.reshape(-1).expand(len(t)) for t, w in parts])
        y = coded_product(q, codes, format).to(x.dtype)
        for some, (_, w) in zip(y.split([len(weight) for weight in weights], dim=1), parts, strict=True):
            descale(some, w, scale)
        ctx.save_for_backward(x, norm, inverse_rms, q, 1 / scale, codes.mul(row_scale[:, None]).to(weights[0].dtype))
        ctx.rows = [len(weight) for weight in weights]
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, norm, inverse_rms, q, step, weight = ctx.saved_tensors
        gradient = multiplied(gradients[0].to(weight.dtype))
        for_weights = product(gradient.t(), (q * step).to(weight.dtype)).split(ctx.rows)
        for_normed = product(gradient, weight).to(x.dtype)
        if norm is None:
            return (for_normed, None, None, None, *for_weights)
        unit = x * inverse_rms
        along = for_normed * unit
        for_norm = along.sum(dim=0).to(norm.dtype)
        along = (along @ norm.to(x.dtype)).div_(x.shape[1]).unsqueeze_(1)
        for_x = for_normed.mul_(norm).sub_(unit.mul_(along)).mul_(inverse_rms)
        return (for_x, for_norm, None, None, *for_weights)


class _Product(torch.autograd.Function):
    """x · weightᵀ in the type of the weights, all three products of it by `product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x.to(weight.dtype), weight.t()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = multiplied(gradients[0].to(weight.dtype))
        for_x, for_weight = ctx.needs_input_grad
        return (
            product(gradient, weight).to(x.dtype) if for_x else None,
            product(gradient.t(), x.to(weight.dtype)) if for_weight else None,
        )


class _CodedProduct(torch.autograd.Function):
    """Quantised x by frozen codes [R, K] with one scale or [R]; only these are saved for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, format: str) -> Tensor:
        ctx.save_for_backward(codes, scale)
        q, own, _ = quantised(x, format)
        return descale(coded_product(q, codes, format).to(x.dtype), scale, own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scale = ctx.saved_tensors
        (gradient,) = gradients
        return product((gradient * scale).float(), codes.float()).to(gradient.dtype), None, None, None


class _EngineProduct(torch.autograd.Function):
    """x [N, K] by weights [R_i, K], side by side, in float32 or bf16, by the engine's own kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, format: str, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x if any(ctx.needs_input_grad[2:]) else None, *weights)
        own, threads = x.detach().numpy(), torch.get_num_threads()
        parts = [engine_product(own, weight.detach().float().numpy(), format, threads) for weight in weights]
        return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        parts = multiplied(gradients[0]).split([len(weight) for weight in weights], dim=1)
        for_x, x = None, None if x is None else multiplied(x)
        for part, weight in zip(parts, weights, strict=True):
            if ctx.needs_input_grad[0]:
                own = (part @ multiplied(weight.float())).float()
                for_x = own if for_x is None else for_x.add_(own)
        wanted = zip(parts, ctx.needs_input_grad[2:], strict=True)
        return (for_x, None, *((part.t() @ x).float() if wants else None for part, wants in wanted))


class _RMSNorm(torch.autograd.Function):
    """RMSNorm of float64, whose bits are PyTorch's; the gradient is written out, a third of the passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float) -> Tensor:
        inverse_rms = x.pow(2).mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, norm, inverse_rms)
        return (x * inverse_rms).mul_(norm)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, norm, inverse_rms = ctx.saved_tensors
        (gradient,) = gradients
        for_norm = None
        if ctx.needs_input_grad[1]:
            for_norm = (x * inverse_rms).mul_(gradient).flatten(0, -2).sum(dim=0)
        gradient = gradient * norm
        along = (gradient * x).sum(dim=-1, keepdim=True).mul_(inverse_rms.pow(3)).div_(x.shape[-1])
        return gradient.mul_(inverse_rms).addcmul_(x, along, value=-1), for_norm, None


class _EngineNorm(torch.autograd.Function):
    """RMSNorm of float64 rounded to float32, by the engine's own kernel; the gradient is in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x.float(), norm)
        ctx.eps = eps
        y = steps.normed(x.detach().numpy(), norm.detach().double().numpy(), eps, torch.get_num_threads())
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (x, norm), (gradient,) = ctx.saved_tensors, gradients
        inverse_rms = torch.linalg.vecdot(x, x).div_(x.shape[1]).add_(ctx.eps).rsqrt_().unsqueeze_(1)
        unit = x * inverse_rms
        for_norm = (unit * gradient).sum(dim=0).to(norm.dtype) if ctx.needs_input_grad[1] else None
        for_unit = gradient * norm
        along = torch.linalg.vecdot(for_unit, unit).div_(x.shape[1]).unsqueeze_(1)
        return for_unit.addcmul_(unit, along, value=-1).mul_(inverse_rms).double(), for_norm, None


class _EngineGate(torch.autograd.Function):
    """silu(gate) · up of float64, by the engine's own kernel; the gradient is in float32."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up.float())
        return torch.from_numpy(steps.gated(gate_up.detach().numpy(), torch.get_num_threads()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate_up,), gradient = ctx.saved_tensors, gradients[0].float()
        gate, up = gate_up.chunk(2, dim=-1)
        share = gate.sigmoid()
        found = torch.empty_like(gate_up)
        for_gate, for_up = found.chunk(2, dim=-1)
        torch.mul(gate, share, out=for_up).mul_(gradient)
        # The slope of silu is s · (1 + g · (1 − s)).
        torch.sub(1, share, out=for_gate).mul_(gate).add_(1).mul_(share).mul_(up).mul_(gradient)
        return found.double()


class _Rounded(torch.autograd.Function):
    """x rounded to bfloat16, as float32; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].to(ctx.dtype)


def quantised(
    x: Tensor, format: str, norm: Tensor | None = None, eps: float = 0.0
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Each row n of x [N, K] after its RMSNorm (if any) as int8 in ±127, of "fp8" as float32 in E4M3; the scale s
    [N, 1] of q = round(s · n), and the norm's 1 / rms [N, 1].

    As the engine does: s · n is x · weight by 127 over its largest, whatever the norm. Codes at ties, which products of
    small integers often are, would otherwise fall to the one or the other side.
    """
    if norm is None:
        weighted, inverse_rms, least = x, None, torch.full_like(x[:, :1], LEAST)
    else:
        inverse_rms = (x * x).mean(dim=1, keepdim=True).add_(eps).rsqrt_()
        weighted, least = x * norm, LEAST / inverse_rms
    step = (LARGEST_FP8 if format == "fp8" else 127.0) / weighted.abs().amax(dim=1, keepdim=True).maximum(least)
    scaled = weighted * step
    q = scaled.float().to(torch.float8_e4m3fn).float() if format == "fp8" else scaled.round_().to(torch.int8)
    return q, step if inverse_rms is None else step / inverse_rms, inverse_rms


def coded_product(q: Tensor, codes: Tensor, format: str) -> Tensor:
    """Quantised activations [N, K] by codes [R, K] → [N, R], with the engine's bits: of "fp8", in its order of sums."""
    if format != "fp8":
        return integer_product(q, codes.t())
    return product_as_in_engine(q, "bf16", codes.float())


def descale(sums: Tensor, scale: Tensor, own: Tensor) -> Tensor:
    """Sums of codes [N, R] by the weights' scale (one, or one a row, [R, 1] or [R]) over the activations' own [N, 1],
    in place, and rounded as in the engine.
    """
    if scale.numel() == 1:
        return sums.mul_(scale.to(sums.dtype).reshape(1, 1) / own)
    return sums.mul_(1 / own).mul_(scale.to(sums.dtype).reshape(1, -1))


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """int8 [M, K] by int8 [K, N] → [M, N], exact: int32, or float32 where that is faster and no sum reaches 2^24.

    Without AVX-512's dot products PyTorch multiplies integers one by one: with AVX2, on one thread, a gradient step of
    adapters on 2,000 tokens took 1.2 s that way, and 0.2 s in float32.
    """
    if not (a.device.type == "cpu" and short_products_are_fast()) and 127 * len(b) * int(b.abs().amax()) < 2**24:
        return a.float() @ b.float()
    return torch._int_mm(a, b)


def product(a: Tensor, b: Tensor) -> Tensor:
    """[M, K] by [K, N] → [M, N], all of one type, float32 or float64."""
    return (multiplied(a) @ multiplied(b)).to(b.dtype)


def multiplied(x: Tensor) -> Tensor:
    """x in bfloat16 where that is allowed ("medium") and fast (PyTorch itself uses it on few CPUs); else unchanged."""
    allowed = x.device.type == "cpu" and torch.get_float32_matmul_precision() == "medium"
    return x.bfloat16() if allowed and x.dtype == torch.float32 and short_products_are_fast() else x


def short_products_are_fast() -> bool:
    """Whether PyTorch multiplies int8 and bfloat16 with AVX-512 on this CPU; with less, it does so one by one."""
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def rms_norm(x: Tensor, norm: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension, in x's type."""
    if x.dtype == torch.float64:
        y: Tensor = _RMSNorm.apply(x, norm.to(x.dtype), eps)  # type: ignore[no-untyped-call]
        return y
    return nn.functional.rms_norm(x, norm.shape, norm.to(x.dtype), eps)


def normed_products(x: Tensor, norm: Tensor | None, eps: float, format: str, *weights: Tensor) -> Tensor:
    """RMSNorm(x) [..., K], or x, by trainable weights [R_i, K] → [..., sum of R_i], computed as in `format`."""
    rows = x.reshape(-1, x.shape[-1])
    if format in QUANTISERS:
        y: Tensor = _NormedProducts.apply(rows, norm, eps, format, *weights)  # type: ignore[no-untyped-call]
    else:
        rows = rows if norm is None else product_input(rows, norm, eps)
        if x.dtype == torch.float64:
            y = product_as_in_engine(rows.float(), format, *weights).double()
        else:
            y = float_product(rows, weights[0] if len(weights) == 1 else torch.cat(weights), format)
    return y.view(*x.shape[:-1], -1)


def product_input(x: Tensor, norm: Tensor, eps: float) -> Tensor:
    """RMSNorm of x [N, K] as a product of floats takes it: of float64 rounded to float32, with the engine's bits."""
    if as_in_engine(x) and x.shape[1] % steps.COLUMNS == 0:
        y: Tensor = _EngineNorm.apply(x, norm, eps)  # type: ignore[no-untyped-call]
        return y
    return rms_norm(x, norm, eps)


def silu_gate(gate_up: Tensor) -> Tensor:
    """[..., 2F], gate beside up → silu(gate) · up [..., F], of float64 with the engine's bits."""
    if as_in_engine(gate_up) and gate_up.dim() == 2 and gate_up.shape[1] % (2 * steps.COLUMNS) == 0:
        y: Tensor = _EngineGate.apply(gate_up)  # type: ignore[no-untyped-call]
        return y
    gate, up = gate_up.chunk(2, dim=-1)
    return nn.functional.silu(gate) * up


def as_in_engine(x: Tensor) -> bool:
    """Whether it is what the engine computes with between products: float64, on the CPU."""
    return x.dtype == torch.float64 and x.device.type == "cpu"


def float_product(x: Tensor, weight: Tensor, format: str) -> Tensor:
    """float32 x [N, K] by weight [R, K] → [N, R]; in bf16, both are rounded first."""
    if format == "bf16":
        y: Tensor = _Product.apply(_Rounded.apply(x), _Rounded.apply(weight))  # type: ignore[no-untyped-call]
        return y.to(x.dtype)
    y = _Product.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


def product_as_in_engine(x: Tensor, format: str, *weights: Tensor) -> Tensor:
    """float32 x [N, K] by weights [R_i, K], as `format` "fp32" or "bf16" → float32 [N, sum of R_i], the bits of the
    engine's sums.

    In another order they would differ in the last bit, and some activation would be rounded to another neighbour before
    the next matrix (docs/architecture.md). On another device than the CPU, sums are in that device's order.
    """
    if x.device.type == "cpu":
        y: Tensor = _EngineProduct.apply(x, format, *weights)  # type: ignore[no-untyped-call]
        return y
    rounded: Tensor = _Rounded.apply(x) if format == "bf16" else x  # type: ignore[no-untyped-call]
    return torch.cat([rounded @ weight.float().t() for weight in weights], dim=1)


class FrozenMatrix(nn.Module):
    """A frozen matrix [R, K] as a format stores it: codes (int8, or E4M3) and a scale or one a row, or floats."""

    codes: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, weight: Tensor, format: str):
        super().__init__()
        self.format = format
        if format in QUANTISERS:
            codes, scale = codes_of(weight, format)
            self.register_buffer("codes", codes)
            self.register_buffer("scale", scale)
        else:
            self.register_buffer("weight", weight.bfloat16() if format == "bf16" else weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., R]."""
        rows = x.reshape(-1, x.shape[-1])
        if self.format in QUANTISERS:
            y: Tensor = _CodedProduct.apply(rows, self.codes, self.scale, self.format)  # type: ignore[no-untyped-call]
        elif self.format == "bf16":
            y = product_as_in_engine(rows.float(), "bf16", self.weight).to(x.dtype)
        else:
            y = (rows.to(self.weight.dtype) @ self.weight.t()).to(x.dtype)
        return y.view(*x.shape[:-1], -1)

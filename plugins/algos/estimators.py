"""Policy losses for rollouts that another policy sampled than the one that learns (QuRL, arXiv 2602.13953).

Three policies: *behaviour* sampled the tokens (a quantised copy), *proximal* is the learner at that time, in full
precision, *current* learns. PPO clips R = π_θ/π_prox; a correction bounds ρ = π_prox/π_behav, by a weight w without
gradient: J = E[w · min(R·A, clip(R, 1 − ε_low, (1 + ε_high)/r)·A)], with r = 1 where nothing else is said.

none       R = π_θ/π_behav, w = 1          decoupled  w = ρ (Hilton et al. 2021, arXiv 2110.00641)
tis        w = min(ρ, C)                   acr        w = min(ρ, C), r = min(1, C/ρ) (QuRL)
mis        w = ρ, kept where C₋ ≤ ρ ≤ C    mixed      w = 1 + α·(min(ρ, C) − 1), α = ESS/B of min(ρ, C)
geometric  w = 1, sequences kept where C₋ ≤ exp(mean log ρ) ≤ C; k2, k3: where mean (log ρ)²/2, mean(ρ − 1 − log ρ) ≤ C
vespo      φ(W)·A·log π_θ, φ = W^k·exp(λ(1 − W)) without gradient, W = ∏ π_θ/π_behav; (k, λ) = (2, 3), (3, 2) if A < 0

mixed trusts its weights as far as they leave samples to learn from. Shapes: B sequences of at most T tokens (T = 1 for
classic policies). Log-probabilities and advantages count where the mask holds; elsewhere they may be −inf or NaN.
"""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor

LIMIT = 20.0  # of log-ratios, so that float32 holds the squares of their exponentials; `clamped` counts those beyond


@attrs.frozen
class Estimator:
    """Which estimator of the policy gradient; what `correction` means is said above."""

    correction: Literal["none", "decoupled", "tis", "mis", "geometric", "k2", "k3", "acr", "mixed", "vespo"] = "none"
    level: Literal["token", "sequence"] = "token"  # ρ of each token, or its product over the sequence
    cap: float = 2.0  # C
    floor: float = 0.5  # C₋ of mis and geometric
    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio: Literal["token", "sequence"] = "token"  # sequence: R = exp(mean log-ratio) (QaRL; GSPO, arXiv 2507.18071)
    negative_cap: float | None = None  # δ of QaRL: drop sequences with A < 0 and mean log(π_prox/π_θ) > δ
    # The mean over all tokens (DAPO, arXiv 2503.14476); over sequences, of their means (GRPO, 2402.03300); the sum over
    # all tokens, divided by sequences times `length` (Dr. GRPO, 2503.20783).
    aggregation: Literal["token", "sequence", "fixed-length"] = "token"
    length: int = 1
    # To a reference, if there is one: k1 = log π_θ/π_ref, k2 = k1²/2, k3 = π_ref/π_θ − 1 + k1, unbiased = w·R·k3.
    kl: Literal["k1", "k2", "k3", "unbiased"] = "k3"
    kl_coef: float = 1e-3


@attrs.frozen
class Corrected:
    """A rollout's correction, without gradient, all [B, T]: what R is relative to, w, r, and the tokens that count."""

    anchor: Tensor
    weight: Tensor
    r: Tensor
    kept: Tensor

    def take(self, index: Tensor | slice) -> Corrected:
        """The sequences at `index`."""
        return Corrected(self.anchor[index], self.weight[index], self.r[index], self.kept[index])


@torch.no_grad()
def correct(
    proximal: Tensor, behaviour: Tensor, mask: Tensor, advantages: Tensor, how: Estimator
) -> tuple[Corrected, dict[str, float]]:
    """Log-probabilities, mask [B, T] and advantages [B] or [B, T] of a whole rollout → its correction and diagnostics.

    Diagnostics, over tokens: KL(behaviour‖proximal) by k3, χ² = E[ρ²] − 1, M₂ = E[(log ρ)²], sign skew (mean ρ where
    A > 0 less that where A < 0); ESS/B = (Σρ)²/(B·Σρ²) at `level`, and of w; shares truncated, rejected and clamped.
    """
    log_rho, signed = log_ratio(proximal, behaviour, mask), advantages.reshape(len(mask), -1).where(mask, 0.0)
    log_w = log_rho if how.level == "token" else log_rho.sum(1, keepdim=True).clamp(-LIMIT, LIMIT).expand_as(log_rho)
    rho, each, one = log_w.exp(), log_rho.exp(), torch.ones_like(log_rho)
    capped, k3, mean = rho.clamp(max=how.cap), log_rho.expm1() - log_rho, average(log_rho, mask).exp()
    rules = {  # w, r, the tokens that count
        "decoupled": (rho, one, mask),
        "tis": (capped, one, mask),
        "acr": (capped, (how.cap / rho).clamp(max=1), mask),
        "mixed": (1 + effective(capped, mask) * (capped - 1), one, mask),
        "mis": (rho, one, mask & (how.floor <= rho) & (rho <= how.cap)),
        "geometric": (one, one, mask & (how.floor <= mean) & (mean <= how.cap)),
        "k2": (one, one, mask & (average(log_rho.square() / 2, mask) <= how.cap)),
        "k3": (one, one, mask & (average(k3, mask) <= how.cap)),
    }
    weight, r, kept = rules.get(how.correction, (one, one, mask))
    tokens, sides = mask.sum().clamp(min=1), [each[signed > 0], each[signed < 0]]
    figures = {
        "kl_behaviour": k3.sum() / tokens,
        "chi2": (each.square() * mask).sum() / tokens - 1,
        "m2": log_rho.square().sum() / tokens,
        "sign_skew": sides[0].mean() - sides[1].mean() if len(sides[0]) and len(sides[1]) else 0.0,
        "ess": effective(rho, mask),
        "weight_ess": effective(weight * kept, mask),
        "truncated": (mask & (rho > how.cap)).sum() / tokens if how.correction in ("tis", "acr", "mixed") else 0.0,
        "rejected": (mask & ~kept).sum() / tokens,
        "clamped": (mask & (log_w.abs() >= LIMIT)).sum() / tokens,
    }
    anchor = behaviour if how.correction in ("none", "vespo") else proximal
    return Corrected(anchor.detach(), weight, r, kept), {name: float(figure) for name, figure in figures.items()}


def policy_loss(
    current: Tensor, corrected: Corrected, advantages: Tensor, how: Estimator, reference: Tensor | None = None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The loss's numerator, with gradient by `current` [B, T], its denominator, and sums over tokens, without gradient.

    The loss is numerator / denominator, each added up over microbatches; what is rejected is in neither. To be divided
    by `tokens`: clip_fraction, ratio_clamped, kl, approx_kl (k3 of R). `dropped` are those that `negative_cap` took.
    """
    kept = corrected.kept
    log_r, signed = log_ratio(current, corrected.anchor, kept), advantages.reshape(len(kept), -1).where(kept, 0.0)
    if how.negative_cap is not None:
        kept = kept & ~((average(-log_r.detach(), kept) > how.negative_cap) & (average(signed, kept) < 0))
    log_ratios = average(log_r, kept).expand_as(log_r) if how.ratio == "sequence" else log_r
    unclipped = (ratio := log_ratios.exp()) * signed
    clipped = ratio.clamp(min=1 - how.clip_low).minimum((1 + how.clip_high) / corrected.r) * signed
    loss = -corrected.weight * unclipped.minimum(clipped)
    if how.correction == "vespo":
        log_w, k = log_r.detach().sum(dim=1, keepdim=True).clamp(-LIMIT, LIMIT), 2.0 + (signed < 0)
        loss = -(k * log_w + (5 - k) * (1 - log_w.exp())).exp() * signed * current.where(kept, 0.0)
    kl = torch.zeros_like(loss)
    if reference is not None:
        away = log_ratio(reference, current, kept)
        kl = {"k1": -away, "k2": away.square() / 2}.get(how.kl, away.expm1() - away)
        kl = corrected.weight * ratio * kl if how.kl == "unbiased" else kl
    loss = (loss + how.kl_coef * kl).where(kept, 0.0)
    sequences = kept.any(dim=1).sum()
    count = {"token": kept.sum(), "sequence": sequences, "fixed-length": sequences * how.length}[how.aggregation]
    total = average(loss, kept).sum() if how.aggregation == "sequence" else loss.sum()
    sums = {"tokens": kept, "clip_fraction": clipped < unclipped, "ratio_clamped": log_r.abs() >= LIMIT, "kl": kl}
    sums["approx_kl"] = log_ratios.expm1() - log_ratios
    sums = {name: each.detach().where(kept, 0).sum() for name, each in sums.items()}
    return total, count, {**sums, "dropped": (corrected.kept & ~kept).sum()}


def log_ratio(above: Tensor, below: Tensor, mask: Tensor) -> Tensor:
    """log π_above/π_below within ±LIMIT, 0 where masked out, where no gradient flows either."""
    return (above.where(mask, 0.0) - below.where(mask, 0.0)).clamp(-LIMIT, LIMIT)


def average(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over each sequence's tokens, [B, T] → [B, 1]; 0 where it has none."""
    return values.where(mask, 0.0).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def effective(weights: Tensor, mask: Tensor) -> Tensor:
    """ESS/B = (Σw)²/(B·Σw²) over tokens."""
    chosen = weights[mask]
    return chosen.sum().square() / (len(chosen) * chosen.square().sum()).clamp(min=1e-30)

"""How far a student is from its teacher: hidden states, attention relations, logits; and the numbers in states.

Knows the losses alone. Does not know models, texts or steps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def hidden_loss(student: Tensor, teacher: Tensor, spread: Tensor, there: Tensor) -> Tensor:
    """Hidden states [B, T, width]: the share of the teacher's variance that the student misses, mean over channels.

    `spread` [width] is the teacher's variance in each channel: heads read standardised features, so a quiet channel
    counts as much as a loud one. 0 is the teacher itself, 1 no better than a constant. `there` bool [B, T] leaves
    padding out.
    """
    errors = (student - teacher)[there].square().mean(dim=0)
    return (errors / (spread + 1e-8)).mean()


def relation_loss(student: Tensor, teacher: Tensor, heads: int, there: Tensor) -> Tensor:
    """One layer's queries, keys or values [B, T, heads · d]: KL(teacher ‖ student) of softmax(A·Aᵀ/√d), in nats.

    Mean over texts' tokens and heads; the two may have other widths d. Padding neither asks nor is asked
    (BitDistill, arXiv 2510.13998, after MiniLM v2, arXiv 2012.15828).
    """

    def relations(states: Tensor) -> Tensor:
        a = states.unflatten(-1, (heads, -1)).transpose(1, 2)
        scores = a @ a.transpose(-2, -1) * a.shape[-1] ** -0.5
        logs: Tensor = scores.masked_fill(~there[:, None, None, :], -1e9).log_softmax(dim=-1)
        return logs

    theirs, ours = relations(teacher), relations(student)
    each = (theirs.exp() * (theirs - ours)).sum(dim=-1).transpose(1, 2)  # [B, T, heads]
    return each[there].mean()


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Logits [n, vocab]: KL(teacher ‖ student) at a temperature, in nats a token, times its square.

    The square keeps gradients as large as at temperature 1 (Hinton, arXiv 1503.02531, section 2).
    """
    ours, theirs = (F.log_softmax(logits / temperature, dim=-1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


def next_tokens(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Where a token has a next one to predict: bool [B, T]. tokens [B, T], lengths [B]."""
    return torch.arange(1, tokens.shape[1] + 1, device=tokens.device) < lengths[:, None]

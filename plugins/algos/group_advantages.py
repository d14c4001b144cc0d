"""Advantages within a group of answers to one prompt (GRPO, Shao et al. 2024, arXiv 2402.03300)."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 8
"""Steps of a reward's precision by which the mean of a group may be off: a smaller difference to it has no sign."""


def group_advantages(rewards: Tensor, normalise_std: bool = True) -> tuple[Tensor, Tensor]:
    """Rewards [groups, size] → advantages [groups, size], and which groups have any, bool [groups].

    An advantage is the reward less the group's mean, divided, with `normalise_std`, by the group's standard deviation
    (of a sample) + 1e-6; without, as in Dr. GRPO (arXiv 2503.20783). A group whose rewards are all equal, or of one
    answer, says nothing: its advantages are exactly 0, and it is to be skipped and counted. An advantage is 0, too,
    where the reward is the group's mean but for rounding: its sign, which diagnostics go by, would mean nothing.
    """
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    least = ROUNDING * torch.finfo(rewards.dtype).eps * rewards.abs().amax(dim=1, keepdim=True)
    advantages = advantages.where(advantages.abs() > least, 0.0)
    informative = advantages.any(dim=1)
    if normalise_std and rewards.shape[1] > 1:
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + 1e-6)
    return advantages, informative

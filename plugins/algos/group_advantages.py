"""Advantages within a group of answers to one prompt (GRPO, Shao et al. 2024, arXiv 2402.03300)."""

from __future__ import annotations

from torch import Tensor


def group_advantages(rewards: Tensor, normalise_std: bool = True) -> tuple[Tensor, Tensor]:
    """Rewards [groups, size] → advantages [groups, size], and which groups have any, bool [groups].

    An advantage is the reward less the group's mean, divided, with `normalise_std`, by the group's standard deviation
    (of a sample) + 1e-6; without, as in Dr. GRPO (arXiv 2503.20783). A group whose rewards are all equal, or of one
    answer, says nothing: its advantages are exactly 0, and it is to be skipped and counted.
    """
    informative = rewards.amax(dim=1) > rewards.amin(dim=1)
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if normalise_std and rewards.shape[1] > 1:
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + 1e-6)
    return advantages.where(informative.unsqueeze(1), 0.0), informative

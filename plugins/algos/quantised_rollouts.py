"""Rollouts of a quantised policy, for a learner in full precision (QuRL, arXiv 2602.13953; ActorQ, arXiv 1910.01055).

The policy that collects rollouts has int8 or int4 weights (low_bits.py). The loss is corrected for that by the
estimators of language models (estimators.py): here, a sample is a sequence of one token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitrl.core.errors import UsageError
from bitrl.core.wording import setting
from bitrl.plugins.algos import PPOOptions
from bitrl.plugins.algos.estimators import LIMIT, Corrected, Estimator, correct

BITS = {"int8": 8, "int4": 4}


def estimator(options: PPOOptions) -> Estimator | None:
    """What corrects the loss of quantised rollouts; None if they are not.

    Raises:
        UsageError: settings contradict each other.
    """
    if options.rollout is None:
        for name in ("correction", "correction_cap", "correction_floor"):
            if getattr(options, name) != getattr(PPOOptions(), name):
                raise UsageError(f"algo.{name}: nothing is corrected without {setting('algo.rollout', 'int8')}")
        return None
    if options.policy_bits is not None and options.policy_quantisation != "post-training":
        raise UsageError(
            f"algo.rollout: {setting('algo.policy_quantisation', options.policy_quantisation)} already quantises the "
            "policy that collects rollouts, without a correction: set one of the two"
        )
    cap, floor = options.correction_cap, options.correction_floor
    if options.correction in ("mis", "geometric") and floor > cap:
        raise UsageError(
            f"algo.correction_floor: {floor:g} is above algo.correction_cap, {cap:g}: every sample would be rejected; "
            "set a smaller floor or a larger cap"
        )
    return Estimator(options.correction, cap=cap, floor=floor)


def correct_samples(
    proximal: Tensor, behaviour: Tensor, advantages: Tensor, how: Estimator
) -> tuple[Corrected, dict[str, float]]:
    """Log-probabilities in full precision and of the policy that acted, advantages [B] → correction and diagnostics."""
    every = torch.ones(len(proximal), 1, dtype=torch.bool)
    return correct(proximal.unsqueeze(1), behaviour.unsqueeze(1), every, advantages, how)


def correct_terms(
    log_ratio: Tensor, advantages: Tensor, correction: Corrected, upper: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A minibatch's log-ratios, advantages and upper ends of the clip range [B], so that PPO's loss is the estimator's.

    Log-ratios are 0 where a sample is rejected; advantages are multiplied by w, and 0 where it is rejected or the
    log-ratio is clamped, where the estimator has no gradient; the range's upper end is divided by r.
    """
    kept, weight, r = correction.kept[:, 0], correction.weight[:, 0], correction.r[:, 0]
    log_ratio = log_ratio.clamp(-LIMIT, LIMIT).where(kept, 0.0)
    advantages = (advantages * weight).where(kept & (log_ratio.abs() < LIMIT), 0.0)
    return log_ratio, advantages, upper / r

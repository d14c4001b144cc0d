"""Rollouts of a quantised policy, for a learner in full precision (QuRL, arXiv 2602.13953; ActorQ, arXiv 1910.01055).

The policy that collects rollouts has int8 or int4 weights (low_bits.py). The loss is corrected for that by the
estimators of language models (estimators.py), which need torch: here, a sample is a sequence of one token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.installing import needing
from bitrl.core.wording import setting
from bitrl.plugins.algos import LanguageAlgorithmOptions, PPOOptions
from bitrl.plugins.algos.engine_learner import SampleCorrection

if TYPE_CHECKING:
    from bitrl.plugins.algos.estimators import Estimator

BITS = {"int8": 8, "int4": 4}


def estimator(options: PPOOptions) -> Estimator | None:
    """What corrects the loss of quantised rollouts; None if they are not.

    Raises:
        UsageError: settings contradict each other, or torch is not installed.
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
    check_gate(options)
    with needing("torch", setting("algo.rollout", options.rollout)):
        from bitrl.plugins.algos.estimators import Estimator
    return Estimator(options.correction, cap=options.correction_cap, floor=options.correction_floor)


def check_gate(options: PPOOptions | LanguageAlgorithmOptions) -> None:
    """Raises UsageError for a correction that would reject every sample."""
    floor, cap = options.correction_floor, options.correction_cap
    if options.correction in ("mis", "geometric") and floor > cap:
        raise UsageError(
            f"algo.correction_floor: {floor:g} is above algo.correction_cap, {cap:g}: every sample would be rejected; "
            "set a smaller floor or a larger cap"
        )


def correct_samples(
    proximal: np.ndarray, behaviour: np.ndarray, advantages: np.ndarray, how: Estimator
) -> tuple[np.ndarray, SampleCorrection, dict[str, float]]:
    """Log-probabilities in full precision and of the policy that acted, advantages [B] → what the ratio is relative to
    [B], the correction, and diagnostics.
    """
    import torch

    from bitrl.plugins.algos.estimators import correct

    current, acted, signed = map(torch.from_numpy, (proximal, behaviour, advantages))
    every = torch.ones(len(proximal), 1, dtype=torch.bool)
    corrected, diagnostics = correct(current[:, None], acted[:, None], every, signed, how)
    anchor, weight, r, kept = (
        np.ascontiguousarray(each[:, 0].numpy())
        for each in (corrected.anchor, corrected.weight, corrected.r, corrected.kept)
    )
    return anchor, SampleCorrection(weight, r, kept), diagnostics

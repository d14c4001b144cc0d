"""How features decide actions: the entropy of fresh policy heads, and where two sets of features differ in the greedy
action. Shapes: B states, d features, k actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from bitrl.core.acting.policies import ActorCritic, Continuous, within
from bitrl.core.studies.analysis.policy_gradient import masked_logits, outputs_of, probabilities

HEADS = 8
"""Fresh heads, each with a seed of its own."""


def initial_entropy(
    features: np.ndarray, widths: Sequence[int], mask: np.ndarray | None = None, heads: int = HEADS
) -> float:
    """Mean entropy in nats, over states and fresh heads, of the softmax of linear layers of `widths` (the last is the
    number of actions) with tanh between them: orthogonal weights, gain √2, the last layer's 1, biases zero. Of the
    admissible actions where there is a mask [B, k].
    """
    found = []
    for seed in range(heads):
        generator, values = np.random.default_rng(seed), features.astype(np.float64)
        sizes = [*pairwise((features.shape[1], *widths))]
        for index, (fan_in, fan_out) in enumerate(sizes):
            last = index == len(sizes) - 1
            values = values @ orthogonal(fan_out, fan_in, generator).T * (1 if last else np.sqrt(2))
            values = values if last else np.tanh(values)
        found.append(entropies(masked_logits(values, mask)).mean())
    return float(np.mean(found))


def entropies(logits: np.ndarray) -> np.ndarray:
    """Of the softmax of logits [B, k], in nats: float64 [B]."""
    probs = probabilities(logits)
    terms = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    found: np.ndarray = -(probs * terms).sum(axis=-1)
    return found


def orthogonal(rows: int, columns: int, generator: np.random.Generator) -> np.ndarray:
    """A random matrix [rows, columns] whose shorter side is orthonormal (Saxe et al. 2014)."""
    tall = generator.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(r.diagonal())
    found: np.ndarray = q if rows >= columns else q.T
    return found


def greedy_actions(heads: ActorCritic, features: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The most probable actions on features [B, d]: int64 [B], or those of a Box in its bounds, [B, ...]."""
    if isinstance(heads.policy, Continuous):
        outputs, _ = outputs_of(heads.policy.network, features)
        return within(outputs, heads.policy.low, heads.policy.high)
    outputs, _ = outputs_of(heads.policy.network, features)
    found: np.ndarray = masked_logits(outputs, mask).argmax(axis=1)
    return found


def disagreement(actions: np.ndarray, reference: np.ndarray) -> float:
    """Integers: the share of states in which they differ. Others: root mean square over states and numbers."""
    if actions.dtype.kind in "iu" and actions.ndim == 1:
        return float((actions != reference).mean())
    return float(np.sqrt(((actions.astype(np.float64) - reference) ** 2).mean()))

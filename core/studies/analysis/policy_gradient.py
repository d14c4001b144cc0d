"""The policy gradient on given samples, and how far another one is from it. Shapes: B samples, d features, k outputs or
actions, C chunks of consecutive samples, P parameters.

The gradient is the score function's, E[A·∇ log π(a|s)] by all parameters of the policy head: that of PPO's surrogate
where the policy is the one that acted, without its entropy bonus.
"""

from __future__ import annotations

import attrs
import numpy as np

from bitrl.core.acting.policies import ActorCritic, Continuous, Network

RESAMPLES = 1_000
IMPOSSIBLE = -1e9
"""A logit that is far below all others."""

Interval = tuple[float, float]


@attrs.frozen(eq=False)
class Taken:
    """What was done in B states: actions int64 [B], or unclipped float32 [B, k] of a Gaussian; normalised advantages
    float64 [B]; and the action mask bool [B, k], None where all actions are always admissible.
    """

    actions: np.ndarray
    advantages: np.ndarray
    mask: np.ndarray | None = None


def outputs_of(network: Network, features: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Features [B, d] → outputs float64 [B, k], and what each layer reads."""
    values = ((features.astype(np.float64) - network.mean) / network.std).clip(-network.limit, network.limit)
    inputs = []
    for index, (weights, biases) in enumerate(network.layers):
        inputs.append(np.tanh(values) if index else values)
        values = inputs[-1] @ weights.T.astype(np.float64) + biases
    return values, inputs


def masked_logits(outputs: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Logits [B, k], far below all others where an action is not admissible."""
    return outputs if mask is None else np.where(mask, outputs[:, : mask.shape[1]], IMPOSSIBLE)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of logits [..., k]."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return found


def policy_gradients(heads: ActorCritic, features: np.ndarray, samples: Taken, chunks: int) -> np.ndarray:
    """The policy gradient in each chunk of consecutive samples, float64 [C, P]; B must be a multiple of C. Their mean
    is the policy gradient.
    """
    assert isinstance(heads.policy, Continuous) or heads.log_std is None
    network: Network = heads.policy.network
    outputs, inputs = outputs_of(network, features)
    advantages = samples.advantages[:, None]
    parts = []
    if heads.log_std is None:
        probs = probabilities(masked_logits(outputs, samples.mask))
        gradient = np.zeros_like(outputs)
        gradient[:, : probs.shape[1]] = -probs
        gradient[np.arange(len(outputs)), samples.actions] += 1
    else:
        std = np.exp(heads.log_std.astype(np.float64))
        standard = (samples.actions - outputs) / std
        gradient = standard / std
        parts.append(_in_chunks((standard**2 - 1) * advantages, chunks).mean(axis=1))
    gradient = gradient * advantages
    for index in reversed(range(len(network.layers))):
        by_outputs, read = _in_chunks(gradient, chunks), _in_chunks(inputs[index], chunks)
        by_weights = by_outputs.transpose(0, 2, 1) @ read / by_outputs.shape[1]
        parts += [by_weights.reshape(chunks, -1), by_outputs.mean(axis=1)]
        if index:
            gradient = (gradient @ network.layers[index][0]) * (1 - inputs[index] ** 2)
    return np.concatenate(parts, axis=1)


def _in_chunks(values: np.ndarray, chunks: int) -> np.ndarray:
    found: np.ndarray = values.reshape(chunks, -1, values.shape[1])
    return found


@attrs.frozen
class GradientError:
    """A policy gradient beside the reference's on the same samples; intervals are 95 %, resampling chunks.

    Attributes:
        bias: ‖E[g] − E[g_ref]‖ as a share of the reference's ‖ḡ‖: the root of the unbiased estimate of the squared
            norm, which leaves out the products of a chunk with itself; 0 where that estimate is negative: then no bias
            can be told from the samples' noise.
        apparent: the same without that correction, ‖ḡ − ḡ_ref‖ / ‖ḡ_ref‖, which the noise of few samples makes larger.
        cosine: of the angle between ḡ and ḡ_ref.
        norm_ratio: ‖ḡ‖ / ‖ḡ_ref‖.
        biases: the bias of each resample, [R]; the r-th has the same chunks whatever is compared.
    """

    bias: float
    bias_interval: Interval
    apparent: float
    cosine: float
    cosine_interval: Interval
    norm_ratio: float
    norm_ratio_interval: Interval
    biases: np.ndarray = attrs.field(eq=False, repr=False)


def gradient_error(reference: np.ndarray, other: np.ndarray) -> GradientError | None:
    """Compare the gradients [C, P] of at least two chunks; None where the reference's is zero."""
    chunks = len(reference)
    difference = other - reference
    squares, own, mixed = difference @ difference.T, other @ other.T, other @ reference.T
    size = reference @ reference.T
    if size.sum() <= 0:
        return None
    once = np.ones((1, chunks))
    drawn = np.random.default_rng(0).multinomial(chunks, np.full(chunks, 1 / chunks), RESAMPLES).astype(np.float64)

    def bias(weights: np.ndarray) -> np.ndarray:
        pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
        unlike = _product(weights, squares) - weights**2 @ squares.diagonal()
        found: np.ndarray = np.sqrt(np.maximum(_ratio(unlike, pairs), 0) / (size.sum() / chunks**2))
        return found

    def cosine(weights: np.ndarray) -> np.ndarray:
        return _ratio(_product(weights, mixed), np.sqrt(_product(weights, own) * _product(weights, size)))

    def norm_ratio(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.sqrt(_ratio(_product(weights, own), _product(weights, size)))
        return found

    biases = bias(drawn)
    return GradientError(
        bias=float(bias(once)[0]),
        bias_interval=_middle(biases),
        apparent=float(np.sqrt(squares.sum() / size.sum())),
        cosine=float(cosine(once)[0]),
        cosine_interval=_middle(cosine(drawn)),
        norm_ratio=float(norm_ratio(once)[0]),
        norm_ratio_interval=_middle(norm_ratio(drawn)),
        biases=biases,
    )


def _product(weights: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """wᵀ·gram·w for each row w of weights [R, C]."""
    found: np.ndarray = ((weights @ gram) * weights).sum(axis=1)
    return found


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.divide(over, under, out=np.zeros_like(over), where=under > 0)
    return found


def _middle(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)

"""The learner of a language model's weights: its optimiser, and what is done to the weights before learning.

Knows parameters by name. Does not know tokens or losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bitrl.core.errors import UsageError
from bitrl.plugins.algos.adam import Adam
from bitrl.plugins.algos.saved_parameters import restore_parameter

SCALED = {"attn_norm": ("attn_q", "attn_k", "attn_v"), "ffn_norm": ("ffn_gate", "ffn_up")}
"""A block's norms → the matrices that read nothing but what the norm gives."""


class LanguageLearner:
    """Adam on the trainable parameters of a language model's module."""

    def __init__(self, module: nn.Module, max_grad_norm: float | None):
        self.module, self.max_grad_norm = module, max_grad_norm
        self.parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self.optimizer = Adam(self.parameters.values(), [0.0] * len(self.parameters))

    def step(self, learning_rate: float, denominator: float) -> float | None:
        """Take a step against the gradients that were added up, divided by `denominator`, and clear them.

        Returns:
            The gradient's norm before it was clipped; None if it is not finite, or nothing counted: no step is taken.
        """
        gradients = [each.grad for each in self.parameters.values() if each.grad is not None]
        if denominator and gradients:
            torch._foreach_div_(gradients, denominator)
        most = torch.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), most))
        if denominator and np.isfinite(norm):
            self.optimizer.learning_rates = [learning_rate] * len(self.parameters)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm if np.isfinite(norm) else None

    def weights(self) -> list[Tensor]:
        """A copy of the weights as they are now."""
        return [each.detach().clone() for each in self.parameters.values()]

    def put(self, weights: Sequence[Tensor]) -> None:
        """Go back to weights of `weights()`."""
        for own, other in zip(self.parameters.values(), weights, strict=True):
            own.detach().copy_(other)

    def moved(self, before: Sequence[Tensor]) -> float:
        """How far the weights of matrices are from `before`: the mean distance, in steps of an 8-bit code of their row.

        NaN if a weight is not finite. Rows of zeros, which adapters begin with, have no such step and are left out.
        """
        steps, count = 0.0, 0
        for own, old in zip(self.parameters.values(), before, strict=True):
            distances = (own.detach() - old).abs_().sum(dim=-1)
            if not bool(distances.isfinite().all()):
                return float("nan")
            if own.dim() == 2:
                largest = old.abs().amax(dim=1)
                steps += float((distances * 127 / largest).where(largest > 0, 0.0).sum())
                count += int((largest > 0).sum()) * own.shape[1]
        return steps / max(count, 1)

    def state(self) -> dict[str, np.ndarray]:
        """Weights and moments, by the parameters' names."""
        arrays = {}
        for name, parameter in self.parameters.items():
            arrays[name] = parameter.detach().numpy().copy()
            moments = self.optimizer.state.get(parameter, {})
            arrays |= {f"{name}.{key}": value.numpy().copy() for key, value in moments.items()}
        return arrays

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a `state()`."""
        for name, parameter in self.parameters.items():
            restore_parameter(parameter, self.optimizer, state, name, f"{name}.")


@torch.no_grad()
def scale_invariantly(module: nn.Module, scale: float) -> None:
    """W x = (W / s)(s x): divide the matrices behind a norm by s, multiply its weights by s (QuRL, arXiv 2602.13953).

    Scaled quantisers round W / s to the same codes as W, so nothing changes, but an update of Adam is s times as large
    beside W / s, and reaches codes that it would not have reached.

    Raises:
        UsageError: the module has no such matrices that learn.
    """
    parameters = dict(module.named_parameters())
    scaled = 0
    for name, parameter in parameters.items():
        block, _, norm = name.rpartition(".")
        matrices = [parameters.get(f"{block}.{matrix}") for matrix in SCALED.get(norm, ())]
        if not matrices or any(matrix is None or not matrix.requires_grad for matrix in matrices):
            continue
        parameter.mul_(scale)
        for matrix in matrices:
            assert matrix is not None
            matrix.div_(scale)
        scaled += 1
    if not scaled:
        raise UsageError("algo.uaq_scale: no matrices of this model learn behind a norm that learns: leave it at 1")

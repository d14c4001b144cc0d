"""Restores a parameter, and what Adam knows of it, from arrays of a checkpoint, whose checksum shows no forgery."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bitrl.plugins.algos.adam import Adam

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam knows of a parameter after its first step."""


def restore_parameter(
    parameter: Tensor, optimizer: Adam, state: Mapping[str, np.ndarray], name: str, beside: str
) -> None:
    """Set a parameter to state[name], and its moments to those whose names begin with `beside`, if there are any.

    Raises:
        KeyError: the parameter is not in `state`.
        ValueError: something is of another shape or dtype, weights are not finite, or moments are there in part.
    """
    weights = _like(parameter, state, name)
    if not bool(weights.isfinite().all()):
        raise ValueError(f"{name}: holds numbers that are NaN or infinite")
    parameter.detach().copy_(weights)
    there = [key for key in MOMENTS if f"{beside}{key}" in state]
    if not there:
        return
    if len(there) < len(MOMENTS):
        raise ValueError(f"{name}: expected its {', '.join(MOMENTS)}, got {', '.join(there)}")
    shapes = dict.fromkeys(MOMENTS, parameter) | {"step": torch.zeros(())}
    optimizer.state[parameter] = {key: _like(like, state, f"{beside}{key}") for key, like in shapes.items()}


def _like(tensor: Tensor, state: Mapping[str, np.ndarray], name: str) -> Tensor:
    found = torch.tensor(state[name])
    if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
        raise ValueError(f"{name}: expected {_kind(tensor)}, got {_kind(found)}")
    return found


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

"""Where a training runs, on the CPU or a GPU, and how what it needs gets there."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from bitrl.core.errors import UsageError

CPU = torch.device("cpu")


def device_of(name: str) -> torch.device:
    """The device called "cpu", "cuda", or "auto": CUDA where there is one.

    Raises:
        UsageError: there is no CUDA.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this torch finds no CUDA device: use --device cpu, or install torch with CUDA")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def name_of(device: torch.device) -> str:
    """A GPU's name, or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def moved(value: Any, device: torch.device) -> Any:
    """A tensor, or an attrs object with all tensors in it, on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if not attrs.has(type(value)):
        return value
    fields = [field.name for field in attrs.fields(type(value))]
    return attrs.evolve(value, **{name: moved(getattr(value, name), device) for name in fields})

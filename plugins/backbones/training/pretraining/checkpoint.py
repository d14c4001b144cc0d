"""Saving and resuming a training run: named tensors, their optimiser's state, and a fingerprint of the command.

Does not know what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically

_STATE = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


def save(
    path: Path, named: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, fingerprint: str, progress: str
) -> None:
    """Write everything needed to resume, atomically.

    Raises:
        RunFailed: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in named.items():
        tensors[name] = parameter.detach()
        tensors |= {f"{name}/{key}": value for key, value in optimiser.state[parameter].items()}
    write_atomically(path, to_bytes(tensors, metadata={"fingerprint": fingerprint, "progress": progress}))


def load(path: Path, named: Mapping[str, Tensor], optimiser: torch.optim.Optimizer, fingerprint: str) -> str:
    """Restore what `save` wrote, and return its `progress`.

    Raises:
        UsageError: there is none, it is damaged, or it is from another command.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UsageError(f"--resume: there is no checkpoint {path}: leave --resume out to start over") from None
    except (OSError, SafetensorError) as error:
        raise UsageError(f"--resume: {path} is damaged ({error}): delete it and leave --resume out") from None
    if metadata.get("fingerprint") != fingerprint:
        raise UsageError(
            f"--resume: {path} comes from another command or an earlier version of bitrl: repeat that one, or leave "
            "--resume out"
        )
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[name])
            state = {key: tensors[f"{name}/{key}"] for key in _STATE if f"{name}/{key}" in tensors}
            optimiser.state[parameter] = {
                key: value if key == "step" and not parameter.is_cuda else value.to(parameter.device)
                for key, value in state.items()
            }
    progress: str = metadata["progress"]
    return progress

"""Settings of the whole process that an environment's module may have changed, and that learning depends on."""

from __future__ import annotations

import sys
from typing import Any

from bitrl.core.errors import RunFailed


def check_process_settings(id: str, *, gradients: bool) -> None:
    """Refuse settings of torch under which networks would be of another type or in another place, or a language model
    that learns (`gradients`) would not.

    They are not put back: the environment may rely on them. Imports nothing: who has set them has imported torch.

    Raises:
        RunFailed: naming the setting, the environment `id` and what to do.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_default_device"):
        return
    found = {
        "default dtype": (str(torch.get_default_dtype()), "torch.float32"),
        "default device": (str(torch.get_default_device()), "cpu"),
    }
    if gradients:
        found["gradients"] = ("on" if torch.is_grad_enabled() else "off", "on")
    for setting, (now, expected) in found.items():
        if now != expected:
            raise RunFailed(
                f"torch's {setting}: expected {expected}, got {now}, for the whole process: environment {id} or this "
                "program has set that: set it where it is needed alone (dtype=…, device=…, with torch.no_grad())"
            )

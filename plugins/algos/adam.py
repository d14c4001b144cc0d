"""Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1), in torch's fused kernel.

torch.optim's class imports torch's compiler, which nothing here uses: 1.5 seconds of a run's start and 80 MB.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


class Adam:
    """Steps against the gradients of `parameters`, tensors of any shape, each with a learning rate of its own.

    `state` has what is known of each parameter after its first step: `step` (a number of steps, shape []), `exp_avg`
    and `exp_avg_sq` (the moments, shaped like it). A parameter that is taken out of it begins anew.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rates: Iterable[float], eps: float = 1e-8):
        self.parameters, self.learning_rates = list(parameters), list(learning_rates)
        self.eps = eps
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Change each parameter that has a gradient, and leave the gradient as it is."""
        for parameter, learning_rate in zip(self.parameters, self.learning_rates, strict=True):
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] += 1
            torch._fused_adam_(
                [parameter],
                [parameter.grad],
                [state["exp_avg"]],
                [state["exp_avg_sq"]],
                [],
                [state["step"]],
                lr=learning_rate,
                beta1=0.9,
                beta2=0.999,
                weight_decay=0.0,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

"""Forward and backward passes of small networks, without autograd where that pays.

A PPO update is hundreds of gradient steps on networks so small that autograd's bookkeeping costs several times
their arithmetic. Chains of Linear and Tanh layers (the heads and the mlp backbone) go through the backward pass
written out here; any other module goes through autograd, and the tests hold the two equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Tape = list[Tensor]
"""What `backward` needs of a forward pass: each layer's input, or the output itself where autograd keeps the rest."""


def mlp(widths: Sequence[int], gain: float) -> nn.Sequential:
    """Linear layers of these widths with tanh between them, orthogonal weights (gain √2, the last one `gain`), zero
    biases.
    """
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(linear.weight, gain if index == last else math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers += [linear] if index == last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


def chain(*modules: nn.Module) -> nn.Sequential:
    """Modules one after the other, nested sequences flattened and identities left out."""
    flat: list[nn.Module] = []
    for module in modules:
        if isinstance(module, nn.Sequential):
            flat += chain(*module)
        elif not isinstance(module, nn.Identity):
            flat.append(module)
    return nn.Sequential(*flat)


def forward(network: nn.Sequential, inputs: Tensor) -> tuple[Tensor, Tape]:
    """Inputs [B, d] → outputs [B, k], and what `backward` needs."""
    if not written_out(network):
        with torch.enable_grad():
            outputs = network(inputs)
        return outputs.detach(), [outputs]
    tape = []
    with torch.no_grad():
        for layer in network:
            tape.append(inputs)
            inputs = (
                torch.addmm(layer.bias, inputs, layer.weight.t()) if isinstance(layer, nn.Linear) else inputs.tanh()
            )
    return inputs, [*tape, inputs]


def backward(network: nn.Sequential, tape: Tape, gradient: Tensor, by_inputs: bool = False) -> Tensor | None:
    """Set every parameter's `.grad` from `gradient` [B, k], that of the loss by the outputs; return the loss's gradient
    by the inputs [B, d] if that is asked for, of a network whose backward pass is written out here.
    """
    if len(tape) == 1:
        network.zero_grad(set_to_none=False)
        tape[0].backward(gradient)
        return None
    with torch.no_grad():
        for index in range(len(network) - 1, -1, -1):
            layer, inputs, outputs = network[index], tape[index], tape[index + 1]
            if isinstance(layer, nn.Linear):
                torch.mm(gradient.t(), inputs, out=_gradient_of(layer.weight))
                torch.sum(gradient, dim=0, out=_gradient_of(layer.bias))
                if index > 0 or by_inputs:
                    gradient = gradient @ layer.weight
            else:
                gradient = torch.ops.aten.tanh_backward(gradient, outputs)
    return gradient if by_inputs else None


def written_out(network: nn.Sequential) -> bool:
    """Whether the backward pass here covers every layer."""
    return all(type(layer) is nn.Tanh or (type(layer) is nn.Linear and layer.bias is not None) for layer in network)


def flatten(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """One flat parameter [sum of sizes] that holds all of these: they and their gradients become views into it.

    An optimiser then makes one step instead of one a tensor.
    """
    flat = nn.Parameter(torch.cat([parameter.detach().ravel() for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, values, gradient in zip(parameters, flat.detach().split(sizes), flat.grad.split(sizes), strict=True):
        parameter.data, parameter.grad = values.view_as(parameter), gradient.view_as(parameter)
    return flat


def clip_gradient(parameter: nn.Parameter, max_norm: float | None) -> float:
    """Scale the gradient so that its norm is at most `max_norm` (None: leave it); return the norm before that."""
    assert parameter.grad is not None
    norm = float(torch.linalg.vector_norm(parameter.grad))
    if max_norm is not None and norm > max_norm:
        parameter.grad.mul_(max_norm / norm)
    return norm


def _gradient_of(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad

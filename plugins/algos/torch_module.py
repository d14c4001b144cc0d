"""A torch module beneath the heads: a plugin's trainable backbone, or a language model's adapters, learns by autograd.

Whoever uses it sees numpy arrays alone: the memory of parameters and gradients is shared with torch. The only file that
imports torch for PPO's networks, and it is imported when such a module is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitrl.core.acting.contracts import calling
from bitrl.core.errors import RunFailed, UsageError


class TorchModule:
    """A module whose outputs other networks read, and whose parameters learn from the loss's gradient by them.

    Attributes:
        size: how many numbers it learns.
    """

    widths = ()

    def __init__(self, make: Callable[[], nn.Module], seed: int, who: str, width: int, frozen: bool = False):
        """`make` draws initial weights from torch's generator, which has this `seed` meanwhile and its own state
        again afterwards.

        Args:
            make: makes the module.
            seed: see above.
            who: whose it is, in errors.
            width: d, how many features it is to give.
            frozen: parameters that require no gradient are left out.
        """
        self.who, self.width = who, width
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with calling(who):
                self.module = make()
        if not isinstance(self.module, nn.Module):
            raise RunFailed(f"{who}: its module() is a {type(self.module).__name__}: expected a torch.nn.Module")
        if any(isinstance(each, nn.UninitializedParameter) for each in self.module.parameters()):
            raise RunFailed(f"{who}: its module() has lazy layers, without parameters yet: give them their sizes")
        self._parameters = [each for each in self.module.parameters() if each.requires_grad or not frozen]
        self.size = sum(each.numel() for each in self._parameters)
        self._outputs: Tensor | None = None

    def use(self, parameters: np.ndarray, gradients: np.ndarray) -> None:
        """Keep the module's parameters, and their gradients, in these arrays, float32 [size].

        Raises:
            UsageError: the module's are of another type.
        """
        at = 0
        self._gradients = gradients
        for each in self._parameters:
            if each.dtype != torch.float32:
                raise UsageError(f"{self.who}: its module() has parameters of {each.dtype}: expected torch.float32")
            own = slice(at, at + each.numel())
            parameters[own] = each.detach().numpy().ravel()
            each.data = torch.from_numpy(parameters[own]).view_as(each)
            each.grad = torch.from_numpy(gradients[own]).view_as(each)
            at += each.numel()

    def forward(self, inputs: Any) -> np.ndarray:
        """Texts or vectors [B, k] → features float32 [B, d], of which `backward` goes back.

        Raises:
            RunFailed: the module gives something else.
        """
        with one_thread(), torch.enable_grad():
            self._outputs = self._of(inputs)
        return np.ascontiguousarray(self._outputs.detach().numpy())

    def outputs(self, inputs: Any) -> np.ndarray:
        """The same, with nothing to go back from."""
        with one_thread(), torch.no_grad():
            return np.ascontiguousarray(self._of(inputs).numpy())

    def _of(self, inputs: Any) -> Tensor:
        """What the module makes of inputs, checked."""
        count = len(inputs)
        with calling(self.who):
            outputs: Tensor = self.module(_given(inputs))
        if not isinstance(outputs, Tensor):
            raise RunFailed(f"{self.who}: its module() gave a {type(outputs).__name__}: expected a tensor of features")
        if (tuple(outputs.shape), outputs.dtype) != ((count, self.width), torch.float32):
            raise RunFailed(
                f"{self.who}: its module() gave {outputs.dtype} {list(outputs.shape)} of {count} states: expected "
                f"torch.float32 [{count}, {self.width}]"
            )
        return outputs

    def backward(self, by_outputs: np.ndarray) -> None:
        """Set the gradients from that by the outputs [B, d] of the last `forward`."""
        assert self._outputs is not None
        self._gradients[:] = 0
        if self._outputs.requires_grad:
            with one_thread():
                self._outputs.backward(torch.from_numpy(by_outputs))
        self._outputs = None

    @property
    def matrices(self) -> list[np.ndarray]:
        """The weights of its linear layers [outputs, inputs], to be quantised in place."""
        return [each.weight.detach().numpy() for each in self.module.modules() if isinstance(each, nn.Linear)]

    def tanh_layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights [inputs, outputs] and biases of its layers, each with tanh after it.

        Raises:
            UsageError: it is not made of such layers.
        """
        layers = _flat(self.module)
        linear = [each for each in layers[::2] if type(each) is nn.Linear and each.bias is not None]
        tanh = [each for each in layers[1::2] if type(each) is nn.Tanh]
        if not len(linear) == len(tanh) == len(layers) / 2:
            names = ", ".join(type(each).__name__ for each in layers)
            raise UsageError(f"the policy cannot be exported: expected Linear layers with Tanh after each, got {names}")
        return [(each.weight.detach().numpy().T, each.bias.detach().numpy()) for each in linear]


@contextmanager
def one_thread() -> Iterator[None]:
    """What is small is fastest on one thread of torch, and results are then independent of the machine's core count.
    This includes initial weights: several threads decompose a matrix with different rounding.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _given(inputs: Any) -> Any:
    return torch.from_numpy(inputs) if isinstance(inputs, np.ndarray) else list(inputs)


def _flat(module: nn.Module) -> list[nn.Module]:
    """Modules one after the other, nested sequences flattened and identities left out."""
    if isinstance(module, nn.Sequential):
        return [layer for each in module for layer in _flat(each)]
    return [] if isinstance(module, nn.Identity) else [module]

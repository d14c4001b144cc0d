"""The networks of policy and critic, on a backbone's features or with a trainable backbone as a part of them.

A trainable backbone of vectors that is linear layers with tanh between them is the first of a network's layers, in the
engine; any other is a torch module beneath it. A language model's adapters are a torch module beneath both networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bitrl.core.acting.states import StateReader, States
from bitrl.core.installing import needing
from bitrl.core.wording import setting
from bitrl.plugins.algos.engine_learner import EngineLearner, EngineNetwork, LearnedPart

if TYPE_CHECKING:
    from bitrl.plugins.algos.torch_module import TorchModule

HIDDEN = (256, 128)
"""Widths of the hidden layers on a frozen backbone, unless they are set; a trainable one has layers of its own."""


def head_network(
    learner: EngineLearner,
    states: States,
    outputs: int,
    batch: int,
    hidden: Sequence[int] | None,
    seed: int,
    *,
    critics: bool = False,
) -> EngineNetwork:
    """The policy's network, or the critic's, with so many outputs; its own weights are to be initialised yet.

    Args:
        learner: what computes it.
        states: some states, whose reader has the backbones.
        outputs: k.
        batch: the most samples that are learned from at once.
        hidden: widths of hidden layers; None: the defaults.
        seed: of the initial weights of a torch module beneath it.
        critics: whether it is the critic's.

    Raises:
        UsageError: torch is needed and not installed.
    """
    reader = states.reader
    own = critics and reader.critic is not None
    trains = (reader.critic_trainable if critics else reader.trainable) and reader.learner is None
    width = reader.critic_width if critics else reader.width
    widths = (*((() if trains else HIDDEN) if hidden is None else hidden), outputs)
    if not trains:
        return EngineNetwork(learner, (width, *widths), batch)
    tanh_layers = reader.critic_tanh_layers if critics else reader.tanh_layers
    if tanh_layers is not None:
        return EngineNetwork(learner, (states.vectors.shape[1], *tanh_layers, *widths), batch)
    who, make = reader.names["critic" if own else "backbone"], reader.critic_module if critics else reader.module
    with needing("torch", who):
        from bitrl.plugins.algos.torch_module import TorchModule

        module = TorchModule(make, seed, who, width)
    return EngineNetwork(learner, (width, *widths), batch, beneath=module)


def adapters(reader: StateReader, seed: int) -> TorchModule | None:
    """The adapters of a language model that learns, beneath both networks; None where the backbone is no such model.

    Raises:
        UsageError: torch is not installed.
    """
    if reader.learner is None:
        return None
    with needing("torch", setting("backbone.lora_rank")):
        from bitrl.plugins.algos.torch_module import TorchModule

        return TorchModule(reader.learner.module, seed, reader.names["backbone"], reader.width, frozen=True)


def parts_of(network: EngineNetwork) -> list[LearnedPart]:
    """A network, after what learns beneath it."""
    return [network] if network.beneath is None else [network.beneath, network]

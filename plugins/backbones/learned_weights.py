"""What a language model has learned in torch, as the engine takes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

if TYPE_CHECKING:
    from bitrl.plugins.backbones.language_model import LanguageModel, LearningLanguageModel
    from bitrl.plugins.backbones.training.decoder import Decoder


def has_adapters(model: LanguageModel) -> TypeGuard[LearningLanguageModel]:
    """Whether adapters learn, and nothing else."""
    return model.options.lora_rank is not None


def engine_weights(decoder: Decoder) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of a decoder that learns, each with its name, as the engine's `replace_all` takes them: float32."""
    from bitrl.plugins.backbones.training.decoder_file import weights_in_file
    from bitrl.plugins.backbones.training.products import codes_as_learned

    for name, parameter in decoder.named_parameters():
        values = parameter.detach()
        if decoder.shape.ternary and name.startswith("blk.") and values.dim() == 2:
            values = codes_as_learned(values, decoder.shape.format)  # which the engine keeps as they are
        yield f"{name}.weight", weights_in_file(decoder, name, values.float().cpu().numpy())

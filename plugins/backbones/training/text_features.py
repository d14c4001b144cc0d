"""A language model's features of texts in torch, with gradients: the same as the backbone's `encode` gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bitrl.plugins.backbones.training.decoder import Decoder

if TYPE_CHECKING:
    from bitrl.plugins.backbones.language_model import LanguageModel


class TextFeatures(nn.Module):
    """A list of n texts → features float32 [n, d].

    Texts of one length are attended to together, and nothing is padded: all else is done for all tokens at once.
    """

    projection: Tensor | None
    sketch: Tensor | None
    directions: Tensor | None

    def __init__(self, model: LanguageModel, decoder: Decoder):
        super().__init__()
        self.decoder = decoder
        self._read, self._pooling, self._width = model.pooled_places, model.pooling, model.width
        projection = None if model.projection is None else torch.from_numpy(model.projection).double()
        self.register_buffer("projection", projection, persistent=False)
        sketch = None if model.sketch is None else torch.from_numpy(model.sketch).long()
        self.register_buffer("sketch", sketch, persistent=False)
        directions = None if model.directions is None else torch.from_numpy(model.directions).double()
        self.register_buffer("directions", directions, persistent=False)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """n texts → float32 [n, d]; the empty text is zeros. Raises as the backbone's `encode`."""
        ids, places = self._read(texts)
        of_length: dict[int, list[int]] = {}
        for text, each in enumerate(ids):
            of_length.setdefault(len(each), []).append(text)
        empty, groups = of_length.pop(0, []), list(of_length.values())
        if not groups:
            return torch.zeros(len(ids), self._width)
        device = self.decoder.token_embd.device
        parts = [torch.tensor([ids[text] for text in group], device=device) for group in groups]
        *_, residuals = self.decoder.residuals(*parts)
        pooled = [self._pooled(x, [places[i] for i in group]) for x, group in zip(residuals, groups, strict=True)]
        if empty:
            pooled.append(pooled[0].new_zeros(len(empty), pooled[0].shape[1]))
        order = torch.tensor([text for group in [*groups, empty] for text in group], device=device)
        features = torch.cat(pooled)[order.argsort()]
        if self.directions is not None:
            of_numbers = features.unflatten(1, (-1, self.directions.shape[1]))
            features = (of_numbers @ self.directions.T).flatten(1)
        if self.projection is not None:
            features = features @ self.projection
        if self.sketch is not None:
            added = self.sketch >= 0
            to, signed = self.sketch.where(added, -1 - self.sketch), features.where(added, -features)
            features = features.new_zeros(len(features), self._width).index_add(1, to, signed)
        return features.float()

    def _pooled(self, states: Tensor, places: list[list[int]]) -> Tensor:
        """Of texts' states [n, T, width], the mean, or those at their places in a row."""
        if self._pooling == "mean":
            return states.mean(dim=1)
        at: Any = torch.tensor(places, device=states.device)
        return states[torch.arange(len(states))[:, None], at].flatten(1)

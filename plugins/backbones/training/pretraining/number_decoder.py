"""The model that pretraining trains: a decoder whose tokens of numbers are embedded as what they say.

Knows that embedding. The decoder and its arithmetic are training's (decoder.py, products.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitrl.plugins.backbones.training.decoder import Decoder, DecoderShape


class NumberDecoder(Decoder):
    """A decoder of a tied embedding, with the initial values of a BitNet b1.58 that starts from nothing.

    The embeddings of tokens with `number_features` [vocab, k] (a zero row: none) are a learned projection of those,
    `number_embd` [k, width], and nothing else. Learned one by one, each number would get its own noise, which a linear
    reading of many numbers cannot tell from what they say.
    """

    number_features: Tensor
    of_words: Tensor

    def __init__(self, shape: DecoderShape, number_features: Tensor | None = None):
        features = torch.zeros(shape.vocab, 1) if number_features is None else number_features
        number_embd = nn.Parameter(torch.randn(features.shape[1], shape.width) * 0.1)
        # As large as what a block adds at first: with the usual 0.02, the first attention would drown which digit
        # it is. The output norm makes up for it in the tied logits.
        token_embd = nn.Parameter(torch.randn(shape.vocab, shape.width) * 0.1)
        super().__init__(shape, token_embd, nn.Parameter(torch.full((shape.width,), 0.2)))
        self.number_embd = number_embd
        self.register_buffer("number_features", features, persistent=False)
        self.register_buffer("of_words", (features == 0).all(dim=1, keepdim=True).float(), persistent=False)
        for name, parameter in self.named_parameters():
            if name.endswith("sub_norm"):
                nn.init.constant_(parameter, 0.5)

    def embeddings(self) -> Tensor:
        """Of all tokens [vocab, width]."""
        return torch.addmm(self.token_embd * self.of_words, self.number_features, self.number_embd)

    def embed(self, tokens: Tensor) -> Tensor:
        """As in `embeddings`, without making all of them."""
        words = F.embedding(tokens, self.token_embd) * self.of_words[tokens]
        return torch.addmm(words, self.number_features[tokens], self.number_embd)

    def logits(self, residual: Tensor) -> Tensor:
        """The last residual [..., width] → next-token logits [..., vocab] (tied embedding)."""
        return F.rms_norm(residual, (self.shape.width,), self.output_norm, self.shape.eps) @ self.embeddings().t()

"""Trains a vocabulary: byte-level BPE for prose, one token for every piece the known environments' texts are made of.

Knows how to choose tokens; how text is cut into pieces is the tokenizer module's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import attrs
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

from bitrl.plugins.backbones.tokenizer import build_tokenizer, pre_tokenizer


@attrs.frozen
class Vocabulary:
    """Tokens by id, in the byte alphabet of byte-level BPE, and the merges ("left right"), best first."""

    tokens: list[str]
    merges: list[str]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer an engine builds from this vocabulary."""
        return build_tokenizer(self.tokens, self.merges, "bitrl")


def train_vocabulary(prose: Iterable[str], known: Iterable[str], size: int) -> Vocabulary:
    """A vocabulary of at most `size` tokens, all 256 bytes among them, so that any text can be written in it.

    Every token costs time at every step an agent takes. So each piece that `known` texts consist of (a key with its
    punctuation, mostly) becomes a token whole, without spending a token on each of its prefixes as BPE would; BPE
    gets the rest.
    """
    import json

    cut = pre_tokenizer("bitrl")
    counts = Counter(piece for text in known for piece, _ in cut.pre_tokenize_str(text))
    pieces = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if len(piece) > 1]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = cut
    trainer = trainers.BpeTrainer(
        vocab_size=max(256, size - len(pieces)),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=24,
    )
    bpe.train_from_iterator(prose, trainer)
    model = json.loads(bpe.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    there = set(tokens)
    tokens += [piece for piece in pieces if piece not in there]
    return Vocabulary(tokens[:size], merges)

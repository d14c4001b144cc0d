"""What a student is shown: prose from the user's files and states of environments, as token batches.

Knows the teacher's tokens. Does not know losses. The states themselves are pretraining's.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from tokenizers import Tokenizer

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.training.pretraining.corpus import Corpus, TextFile, TokenBatch
from bitrl.plugins.backbones.training.pretraining.texts import Known

SHARE_OF_STATES = 0.5
"""How often a step's batch holds states, where there is prose as well."""
LENGTHS = (32, 64, 128)
"""Of passages of prose, in tokens."""
LEAST = 1280
"""Characters of a file that is worth reading: the longest passage."""


class Batches:
    """Batches of about `budget` tokens, each decided by the seed and its step alone.

    `prefix` are the tokens that the model asks for before every text.
    """

    def __init__(
        self, files: Sequence[TextFile], readers: Sequence[Known], tokenizer: Tokenizer, prefix: Sequence[int],
        budget: int, seed: int,
    ):  # fmt: skip
        self.budget, self.seed, self.prefix = budget, seed, torch.tensor(list(prefix), dtype=torch.int64)
        self.readers = list(readers)
        self.states = Corpus([], readers, tokenizer, budget, max(LENGTHS))
        self.tokenizer, self.files = tokenizer, [file for file in files if len(file.text) > LEAST]
        if not self.readers and not self.files:
            raise UsageError(f"--text: no file has {LEAST:,} characters to train on: give a longer one, or --envs")

    def of_step(self, step: int) -> TokenBatch:
        """The batch of one step."""
        rng = np.random.default_rng([self.seed, step])
        if self.readers and (not self.files or rng.random() < SHARE_OF_STATES):
            return self._prefixed(self.states.known_batch(rng))
        return self._prefixed(self.passages(rng))

    def passages(self, rng: np.random.Generator) -> TokenBatch:
        """Passages of one random length, from a word's start at a random place of a file."""
        length = int(rng.choice(LENGTHS))
        sizes = np.array([len(file.text) for file in self.files])
        trimmed = []
        for which in rng.choice(len(sizes), size=max(1, self.budget // length), p=sizes / sizes.sum()):
            start = int(rng.integers(sizes[which] - LEAST))
            passage = self.files[which].text[start : start + 10 * length]  # a token is about four characters
            trimmed.append(passage[passage.find(" ") + 1 :])
        ids = [e.ids[:length] for e in self.tokenizer.encode_batch(trimmed, add_special_tokens=False)]
        lengths = torch.tensor([len(each) for each in ids])
        tokens = torch.zeros(len(ids), int(lengths.max()), dtype=torch.int64)
        for row, each in zip(tokens, ids, strict=True):
            row[: len(each)] = torch.tensor(each)
        return TokenBatch(tokens, lengths)

    def _prefixed(self, batch: TokenBatch) -> TokenBatch:
        more, count = len(self.prefix), len(batch.tokens)
        if not more:
            return batch
        numbers = batch.numbers
        if numbers is not None:
            numbers = torch.cat([numbers.new_full((count, more, numbers.shape[2]), torch.nan), numbers], dim=1)
        tokens = torch.cat([self.prefix.expand(count, more), batch.tokens], dim=1)
        return attrs.evolve(batch, tokens=tokens, lengths=batch.lengths + more, numbers=numbers)

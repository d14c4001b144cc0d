"""What the model is trained on, as token batches: prose from the user's files, and texts that hold numbers.

Knows how to read text files and how to put texts of similar length into batches. Does not know losses.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.pretraining.texts import MAX_NUMBERS, Known, Texts, invented, numbers_so_far

GROUP = 8
"""States of one invented schema that travel together: enough to see what varies within it."""


@attrs.frozen
class TextFile:
    """A text file as the model card names it."""

    name: str
    sha256: str
    text: str


def read_text(path: Path) -> TextFile:
    """A plain, gzip (.gz) or dictzip (.dz) text file; bytes that are not UTF-8 are replaced.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if path.suffix in (".gz", ".dz") else raw
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--text {path}: cannot be read: {reason}: give a plain, .gz or .dz text file") from None
    # Dictionaries and plays are typeset with runs of blanks, which say nothing and would fill the vocabulary.
    text = re.sub(r"[ \t]+", " ", data.decode("utf-8", errors="replace").replace("\r\n", "\n"))
    return TextFile(path.name, hashlib.sha256(raw).hexdigest(), re.sub(r"\n\s*\n\s*", "\n\n", text))


@attrs.frozen
class Batch:
    """Tokens int64 [B, T] (padded on the right) and true lengths [B].

    For texts with numbers also, float32: `numbers`, the numbers read so far at each token [B, T, slots] (at a
    text's last token all of them, before it perhaps NaN), and ranges and centres [B, slots].
    """

    tokens: Tensor
    lengths: Tensor
    numbers: Tensor | None = None
    ranges: Tensor | None = None
    centres: Tensor | None = None
    groups: int = 1


class Corpus:
    """An endless, seeded stream of batches of about `budget` tokens each."""

    def __init__(
        self, files: Sequence[TextFile], readers: Sequence[Known], tokenizer: Tokenizer, budget: int, context: int
    ):
        self.tokenizer, self.budget, self.context = tokenizer, budget, context
        self.known = list(readers)
        first = {reader.env: 1.0 for reader in readers} | {reader.env: 3.0 for reader in readers[:1]}
        weights = np.array([first[reader.env] * (2.0 if reader.format == "json" else 1.0) for reader in self.known])
        self.known_weights = weights / weights.sum()
        passages = [file.text[i : i + 200_000] for file in files for i in range(0, len(file.text), 200_000)]
        encoded = tokenizer.encode_batch(passages, add_special_tokens=False)
        self.prose = torch.from_numpy(
            np.concatenate([np.array(e.ids, dtype=np.int16) for e in encoded] or [np.zeros(0, np.int16)])
        )

    def prose_batch(self, rng: np.random.Generator) -> Batch:
        """Passages of prose of one random length."""
        length = int(rng.choice([32, 64, 128]))
        starts = torch.from_numpy(rng.integers(0, max(1, len(self.prose) - length), size=self.budget // length))
        return Batch(self.prose[starts[:, None] + torch.arange(length)].long(), torch.full((len(starts),), length))

    def known_batch(self, rng: np.random.Generator, reader: Known) -> Batch:
        """One environment through one serializer."""
        length = len(self.tokenizer.encode(reader.write(reader.visited[:1].astype(np.float32))[0]).ids)
        return self._batch(reader.sample(rng, max(1, self.budget // length // 2) * 2), 1)

    def invented_batch(self, rng: np.random.Generator, schemas: int = 16) -> Batch:
        """Made-up schemas of similar length: as many as fit, out of `schemas`."""
        made = invented(rng, schemas, GROUP)
        lengths = [len(e.ids) for e in self.tokenizer.encode_batch(made.texts, add_special_tokens=False)]
        longest = np.array(lengths).reshape(schemas, GROUP).max(axis=1)
        order = np.argsort(longest, kind="stable")
        order = order[longest[order] <= self.context]
        start = int(rng.integers(len(order)))
        chosen = order[start : start + 1]
        for end in range(start + 2, len(order) + 1):
            if (end - start) * GROUP * longest[order[end - 1]] > self.budget:
                break
            chosen = order[start:end]
        rows = (chosen[:, None] * GROUP + np.arange(GROUP)).ravel()
        part = Texts([made.texts[row] for row in rows], made.numbers[rows], made.ranges[rows], made.centres[rows])
        return self._batch(part, len(chosen))

    def _batch(self, made: Texts, groups: int) -> Batch:
        encoded = self.tokenizer.encode_batch(made.texts, add_special_tokens=False)
        lengths = torch.tensor([len(e.ids) for e in encoded])
        longest = int(lengths.max())
        tokens = torch.zeros(len(encoded), longest, dtype=torch.int64)
        so_far = np.full((len(encoded), longest, MAX_NUMBERS), np.nan)
        for row, (text, e) in enumerate(zip(made.texts, encoded, strict=True)):
            tokens[row, : len(e.ids)] = torch.tensor(e.ids)
            if made.plain:
                count = int((~np.isnan(made.numbers[row])).sum())
                so_far[row, : len(e.ids), :count] = numbers_so_far(text, [end for _, end in e.offsets], count)
            so_far[row, len(e.ids) - 1] = made.numbers[row]
        numbers, ranges, centres = (torch.from_numpy(x).float() for x in (so_far, made.ranges, made.centres))
        return Batch(tokens, lengths, numbers, ranges, centres, groups)

"""What the model is trained on, as token batches: prose from the user's files, and texts that hold numbers.

Knows how to read text files and how to put texts of similar length into batches. Does not know losses.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.training.pretraining.environment_texts import CommandTexts
from bitrl.plugins.backbones.training.pretraining.texts import Known, Texts, invented, numbers_so_far

GROUP = 8
"""States of one invented schema that travel together: enough to see what varies within it."""

TRIES = 100
"""How often schemas are made up in search of one that fits the context."""


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
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--text {path}: cannot be read: {reason}: give a plain, .gz or .dz text file") from None
    # Dictionaries and plays are typeset with runs of blanks, which say nothing and would fill the vocabulary.
    text = re.sub(r"[ \t]+", " ", data.decode("utf-8", errors="replace").replace("\r\n", "\n"))
    return TextFile(path.name, hashlib.sha256(raw).hexdigest(), re.sub(r"\n\s*\n\s*", "\n\n", text))


@attrs.frozen
class TokenBatch:
    """Tokens int64 [B, T] (padded on the right) and true lengths [B].

    For texts with numbers also, float32: `numbers`, the numbers read so far at each token [B, T, slots] (at a
    text's last token all of them, before it perhaps NaN), `frames` [B, slots, 2, 2] and `names` [groups, slots, words]
    as in Texts. For states of text environments `facts` [B, facts], 1, 0 or NaN, or `choices`.
    """

    tokens: Tensor
    lengths: Tensor
    numbers: Tensor | None = None
    frames: Tensor | None = None
    names: Tensor | None = None
    facts: Tensor | None = None
    choices: ChoiceBatch | None = None
    plain: bool = True
    """Whether the numbers are known while they are being written; else only at each text's last token."""

    @property
    def inside(self) -> Tensor:
        """Where there are tokens rather than padding: bool [B, T]."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]


@attrs.frozen
class Pairs:
    """Pairs (row of a text, row of a command), int64 [P, 2], and the answer to a question about each, 1 or 0, [P]."""

    rows: Tensor
    answers: Tensor


@attrs.frozen
class ChoiceBatch:
    """Commands [C], which of them can be given in which text, and which ones its recipe asks for (if any is known)."""

    commands: TokenBatch
    possible: Pairs
    wanted: Pairs


class Corpus:
    """An endless, seeded stream of batches of about `budget` tokens each."""

    def __init__(
        self,
        files: Sequence[TextFile],
        readers: Sequence[Known],
        tokenizer: Tokenizer,
        budget: int,
        context: int,
        env_texts: Sequence[Texts] = (),
        choices: CommandTexts | None = None,
    ):
        self.tokenizer, self.budget, self.context = tokenizer, budget, context
        self.env_texts, self.choices = list(env_texts), choices
        self.known = list(readers)
        # Many numbers are harder to keep apart than few.
        emphasis = {"json": 1.3, "compact": 1.0, "natural": 1.0}
        weights = np.array([len(reader.half) ** 0.75 * emphasis[reader.format] for reader in self.known])
        self.weights = weights / weights.sum()
        passages = [file.text[i : i + 200_000] for file in files for i in range(0, len(file.text), 200_000)]
        encoded = tokenizer.encode_batch(passages, add_special_tokens=False)
        self.prose = torch.from_numpy(
            np.concatenate([np.array(e.ids, dtype=np.int16) for e in encoded] or [np.zeros(0, np.int16)])
        )

    def prose_batch(self, rng: np.random.Generator) -> TokenBatch:
        """Passages of prose of one random length, or of all the prose if that is shorter."""
        length = min(int(rng.choice([32, 64, 128])), len(self.prose))
        starts = torch.from_numpy(rng.integers(0, max(1, len(self.prose) - length), size=max(1, self.budget // length)))
        return TokenBatch(self.prose[starts[:, None] + torch.arange(length)].long(), torch.full((len(starts),), length))

    def known_batch(self, rng: np.random.Generator) -> TokenBatch:
        """States of one environment through one serializer."""
        reader = self.known[rng.choice(len(self.weights), p=self.weights)]
        length = len(self.tokenizer.encode(reader.write(reader.visited[:1].astype(np.float32))[0]).ids)
        return self._batch(reader.sample(rng, max(1, self.budget // length // 2) * 2))

    def environment_batch(self, rng: np.random.Generator) -> TokenBatch:
        """States of one text environment, with facts."""
        env = self.env_texts[rng.integers(len(self.env_texts))]
        length = len(self.tokenizer.encode(env.texts[0]).ids)
        rows = rng.integers(len(env.texts), size=max(1, self.budget // length))
        return self._batch(_rows(env, rows))

    def choice_batch(self, rng: np.random.Generator, candidates: int = 8) -> TokenBatch:
        """States in which commands are to be chosen, and for each at most `candidates` commands of either kind, and
        half as many that the recipe asks for and that it does not.
        """
        assert self.choices is not None
        texts: list[str] = []
        commands: dict[str, int] = {}
        pairs: dict[str, list[tuple[int, int, int]]] = {"possible": [], "wanted": []}
        size = 0
        while True:
            index = int(rng.integers(len(self.choices.texts)))
            size += len(self.tokenizer.encode(self.choices.texts[index]).ids)
            if size > self.budget and texts:
                break
            for question, all_commands, answer, most in (
                ("possible", self.choices.possible[index], 1, candidates),
                ("possible", self.choices.impossible[index], 0, candidates),
                ("wanted", self.choices.wanted[index], 1, candidates // 2),
                ("wanted", self.choices.unwanted[index], 0, candidates // 2),
            ):
                for chosen in rng.permutation(len(all_commands))[:most]:
                    command = commands.setdefault(all_commands[chosen], len(commands))
                    pairs[question].append((len(texts), command, answer))
            texts.append(self.choices.texts[index])
        tokens, lengths = self._padded(texts)[:2]
        rows = {question: torch.tensor(found).view(-1, 3) for question, found in pairs.items()}
        asked = ChoiceBatch(
            TokenBatch(*self._padded(list(commands))[:2]),
            **{q: Pairs(r[:, :2], r[:, 2].float()) for q, r in rows.items()},
        )
        return TokenBatch(tokens, lengths, choices=asked)

    def invented_batch(self, rng: np.random.Generator, schemas: int = 16) -> TokenBatch:
        """Made-up schemas of similar length: as many as fit, out of `schemas`.

        Raises ValueError: none of many fits the context.
        """
        for _ in range(TRIES):
            made = invented(rng, schemas, GROUP)
            lengths = [len(e.ids) for e in self.tokenizer.encode_batch(made.texts, add_special_tokens=False)]
            longest = np.array(lengths).reshape(schemas, GROUP).max(axis=1)
            order = np.argsort(longest, kind="stable")
            order = order[longest[order] <= self.context]
            if len(order):
                break
        else:
            raise ValueError(f"no schema fits a context of {self.context} tokens")
        start = int(rng.integers(len(order)))
        chosen = order[start : start + 1]
        for end in range(start + 2, len(order) + 1):
            if (end - start) * GROUP * longest[order[end - 1]] > self.budget:
                break
            chosen = order[start:end]
        rows = (chosen[:, None] * GROUP + np.arange(GROUP)).ravel()
        return self._batch(attrs.evolve(_rows(made, rows), names=made.names[chosen]))

    def _padded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, list[Encoding]]:
        """Tokens int64 [n, T], padded on the right, their true lengths [n], and the encodings."""
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        lengths = torch.tensor([len(e.ids) for e in encoded])
        tokens = torch.zeros(len(encoded), int(lengths.max()), dtype=torch.int64)
        for row, e in enumerate(encoded):
            tokens[row, : len(e.ids)] = torch.tensor(e.ids)
        return tokens, lengths, encoded

    def _batch(self, made: Texts) -> TokenBatch:
        tokens, lengths, encoded = self._padded(made.texts)
        slots = int((~np.isnan(made.numbers)).any(axis=0).sum())
        so_far = np.full((*tokens.shape, slots), np.nan)
        for row, (text, e) in enumerate(zip(made.texts, encoded, strict=True)):
            if made.plain:
                count = int((~np.isnan(made.numbers[row])).sum())
                written = numbers_so_far(text, [end for _, end in e.offsets], count)
                order = list(made.order or range(count))
                # A sentence may say the sign in a word, which stands before the number.
                so_far[row, : len(e.ids), order] = np.copysign(written, made.numbers[row, order]).T
            so_far[row, len(e.ids) - 1] = made.numbers[row, :slots]
        numbers, frames = (torch.from_numpy(x).float() for x in (so_far, made.frames[:, :slots]))
        facts = None if made.facts is None else torch.from_numpy(made.facts).float()
        names = torch.from_numpy(made.names[:, :slots])
        return TokenBatch(tokens, lengths, numbers, frames, names, facts, plain=made.plain)


def _rows(texts: Texts, rows: np.ndarray) -> Texts:
    """The texts at `rows`."""
    facts = None if texts.facts is None else texts.facts[rows]
    return Texts(
        [texts.texts[row] for row in rows],
        texts.numbers[rows],
        texts.frames[rows],
        texts.plain,
        texts.order,
        facts,
        texts.names,
    )

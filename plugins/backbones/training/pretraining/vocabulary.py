"""Trains a vocabulary: byte-level BPE for prose, one token for every piece that numbers and the known environments'
texts are made of.

Knows how to choose tokens, and what a number's token says of the number; how text is split into pieces is the tokenizer
module's.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable

import attrs
import numpy as np
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

from bitrl.plugins.backbones.files.tokenizer import build_tokenizer, pre_tokenizer


def number_tokens() -> list[str]:
    """Every piece that a number up to 999 is split into: `-0.5`, `12`, `-737`, a pair of digits `05`, a decimal
    `.2`.
    """
    numbers = [f"{sign}{n // 10}.{n % 10}" for n in range(1000) for sign in ("", "-")]
    numbers += [f"{sign}{n}" for n in range(1000) for sign in ("", "-") if n or not sign]
    return [*numbers, *(f"{n:02d}" for n in range(10)), *(f".{n}" for n in range(10))]


_NUMBER = re.compile(r"(?<![\w.])-?[0-9]+(?:\.[0-9]+)?")

NUMBER_FEATURES = 12


def number_features(tokens: Iterable[str]) -> np.ndarray:
    """What the tokens of numbers say, on scales that a linear layer reads: float32 [tokens, NUMBER_FEATURES].

    Rows of other tokens are zero. Few features and smooth ones: whatever else an embedding says is noise to a reading.
    """
    rows = []
    for token in tokens:
        row = np.zeros(NUMBER_FEATURES, np.float32)
        if re.fullmatch(r"-?\d{1,2}\.\d|-?\d{1,3}", token):
            value = float(token)
            row[0] = 1.0 if "." in token else 0.5  # digits may follow; an integer may also be a pair of them
            row[1] = -1.0 if token.startswith("-") else 1.0
            row[2] = np.sign(value) * np.log1p(10 * abs(value)) / 5
            row[3:7] = np.clip(value / np.array([2, 10, 50, 250]), -1, 1)
        if re.fullmatch(r"\.?\d{1,2}", token):  # what stands after other digits, as a fraction of the last of them
            digits = token.removeprefix(".")
            row[6 + len(digits)] = 1.0
            row[9] = 1.0 if token.startswith(".") else 0.0
            row[10] = 3 * float(f"0.{digits}") - 1.5
        row[11] = float(row.any())
        rows.append(row)
    return np.array(rows, np.float32).reshape(-1, NUMBER_FEATURES)


@attrs.frozen
class Vocabulary:
    """Tokens by id, in the byte alphabet of byte-level BPE, and the merges ("left right"), best first.

    `phrases` are those tokens that are plain text, longer than a piece, and taken whole wherever they stand; `pre` is
    how the rest of a text is split (tokenizer.CUTTINGS), and `end` the control token that ends a text, if there is one.
    """

    tokens: list[str]
    merges: list[str]
    phrases: frozenset[str] = frozenset()
    pre: str = "bitrl-2"
    end: str | None = None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer an engine builds from this vocabulary."""
        return build_tokenizer(self.tokens, self.merges, self.pre, self.phrases)


def from_its_first_number(text: str) -> str:
    """The rest of a text, from its first number on; nothing if it has none."""
    first = _NUMBER.search(text)
    return text[first.start() :] if first else ""


def phrases_of(texts: Iterable[str]) -> list[str]:
    """What stands between the numbers of these texts and is more than one piece, sorted: ` m, moving left at `."""
    splitter = pre_tokenizer("bitrl-2")
    parts = {part for text in texts for part in _NUMBER.split(text)}
    return sorted(part for part in parts if len(splitter.pre_tokenize_str(part)) > 1)


def train_vocabulary(prose: Iterable[str], known: Iterable[str], size: int, sayings: Iterable[str] = ()) -> Vocabulary:
    """A vocabulary of at most `size` tokens, all 256 bytes among them, so that any text can be written in it.

    Every token costs time at every step an agent takes. So the pieces of numbers, and whatever stands between two
    numbers of a `known` text (a key with its punctuation, the words of a sentence), become a token whole, without
    spending a token on each of its prefixes as BPE would; BPE gets the rest. So do the phrases that an environment
    always words the same way, its `sayings`: ` yellow bell pepper`, which is one thing and not three.
    """
    splitter = pre_tokenizer("bitrl-2")
    known = list(known)
    phrases = sorted({*phrases_of(known), *sayings})
    whole = re.compile("|".join(map(re.escape, sorted(phrases, key=len, reverse=True))) or "(?!)")
    rest = (part for text in known for part in whole.split(text))
    counts = Counter(piece for part in rest for piece, _ in splitter.pre_tokenize_str(part))
    pieces = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if len(piece) > 1]
    pieces = list(dict.fromkeys([*number_tokens(), *pieces]))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=max(256, size - len(pieces) - len(phrases)),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=24,
    )
    bpe.train_from_iterator((re.sub(r"[0-9]+", "", text) for text in prose), trainer)
    model = json.loads(bpe.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    there = set(tokens)
    tokens += [piece for piece in pieces if piece not in there]
    return Vocabulary([*tokens[: size - len(phrases)], *phrases], merges, frozenset(phrases))

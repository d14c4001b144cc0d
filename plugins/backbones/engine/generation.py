"""Generating text with a model of the engine: token ids in, sampled token ids and their exact log-probabilities out.

Knows sequences, sampling and stopping. Does not know text: tokenizer.py makes and reads the ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.files.model_file import ModelFileError, message

if TYPE_CHECKING:
    from bitrl.plugins.backbones.engine.engine import Engine

_ERROR_BYTES = 256


@attrs.frozen(eq=False)
class Generated:
    """What followed one prompt; n tokens, a stop token that ended it included."""

    tokens: np.ndarray
    """int32 [n]"""
    logprobs: np.ndarray
    """float64 [n]: natural logarithms under the distribution each token was drawn from (temperature, top-k and top-p
    included); zeros where the temperature is 0."""
    model_logprobs: np.ndarray
    """float64 [n]: under the model's own distribution, temperature 1 and nothing cut off."""


def generate(
    engine: Engine,
    token_ids: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[int] = (),
) -> list[Generated]:
    """Goes on with each prompt for up to `max_tokens` tokens, or to the first token in `stop`.

    `top_k` (0: all) and `top_p` cut the distribution off, the first before the second. The i-th prompt's tokens depend
    on the model, that prompt, `seed` and i, not on the others. Equal prompts are read once.
    Raises UsageError for settings or prompts that cannot be fulfilled, ModelFileError for a model that cannot generate.
    """
    if max_tokens < 1:
        raise UsageError(f"max_tokens: expected 1 or more, got {max_tokens}")
    if not 0 <= top_k < 1 << 63:
        raise UsageError(f"top_k: expected 0 or more, got {top_k}")
    if not -(1 << 63) <= seed < 1 << 63:
        raise UsageError(f"seed: expected an integer of 64 bits, got {seed}")
    longest = max(map(len, token_ids), default=0)
    if any(len(prompt) == 0 for prompt in token_ids):
        raise UsageError("a prompt has no tokens; begin with the model's first token, or with text")
    if longest + max_tokens > engine.context:
        raise UsageError(
            f"a prompt of {longest} tokens and {max_tokens} more do not fit the model's context of {engine.context}"
        )
    how = ffi.new("bitrl_sampling *", {"temperature": temperature, "top_k": top_k, "top_p": top_p})
    sequences = Sequences(engine)
    caches, logits = sequences.read(token_ids, max_tokens)
    streams = [np.random.Generator(np.random.Philox(key=[seed, i])) for i in range(len(token_ids))]
    results: list[list[tuple[int, float, float]]] = [[] for _ in token_ids]
    running = list(range(len(token_ids)))
    while running:
        random = np.array([streams[i].random() for i in running])
        tokens, logprobs, model_logprobs = sequences.sample(logits, how, random)
        for place, i in enumerate(running):
            results[i].append((tokens[place], logprobs[place], model_logprobs[place]))
        going = [place for place, i in enumerate(running) if tokens[place] not in stop and len(results[i]) < max_tokens]
        running = [running[place] for place in going]
        if running:
            logits = logits[: len(running)]
            sequences.extend([caches[i] for i in running], [[tokens[place]] for place in going], logits)
    return [
        Generated(*(np.array(column, dtype) for column, dtype in zip(zip(*rows, strict=True), _DTYPES, strict=True)))
        for rows in results
    ]


def exact_logprobs(
    sequences: Sequences,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[np.ndarray]:
    """Log-probabilities float64 [m] of each completion's tokens after its prompt, under the model at a temperature.

    At temperature 1, the bits that `generate` reports as `model_logprobs` when it draws the same tokens. Raises as
    `generate`.
    """
    engine, longest = sequences.engine, max(map(len, completions), default=0)
    if any(len(prompt) == 0 for prompt in prompts):
        raise UsageError("a prompt has no tokens; begin with the model's first token, or with text")
    if any(len(prompt) + len(rest) > engine.context for prompt, rest in zip(prompts, completions, strict=True)):
        raise UsageError(f"a prompt and its completion do not fit the model's context of {engine.context}")
    if any(not 0 <= token < engine.vocabulary for rest in completions for token in rest):
        raise UsageError(f"a token id is outside the vocabulary of {engine.vocabulary}")
    greedy = ffi.new("bitrl_sampling *", {"temperature": 0.0, "top_k": 0, "top_p": 1.0})
    found = [np.empty(len(rest)) for rest in completions]
    caches, logits = sequences.read(prompts, longest)
    running = list(range(len(prompts)))
    for step in range(longest):
        going = [place for place, i in enumerate(running) if step < len(completions[i])]
        running, logits = [running[place] for place in going], logits[going]
        if step:
            sequences.extend([caches[i] for i in running], [[completions[i][step - 1]] for i in running], logits)
        # At temperature 0 the engine says -log(sum of exp(logit - largest)).
        _, _, normalisers = sequences.sample(logits, greedy, np.zeros(len(running)))
        for row, i, normaliser in zip(logits.astype(np.float64), running, normalisers, strict=True):
            token, largest = completions[i][step], row.max()
            if temperature != 1:
                normaliser = -float(np.log(np.exp((row - largest) / temperature).sum()))
            found[i][step] = (row[token] - largest) / temperature + normaliser
    return found


_DTYPES = (np.int32, np.float64, np.float64)


class Sequences:
    """Sequences that an engine goes on with; raises the errors that `generate` promises."""

    def __init__(self, engine: Engine, head: bool = True) -> None:
        """`head` makes the model's head ready, without which there are no logits."""
        self.engine = engine
        engine.file.sizes.check()
        self.error = ffi.new("char[]", _ERROR_BYTES)
        if head:
            with engine.lock:
                status = lib.bitrl_model_add_head(engine.model, engine.threads, self.error)
            engine.file.sizes.check()  # a head of a file that was changed meanwhile may be anything
            self._check(status)

    def read(self, prompts: Sequence[Sequence[int]], more: int) -> tuple[list[Any], np.ndarray]:
        """A cache for each prompt, with room for `more` tokens, and the logits float32 [n, vocabulary] after each."""
        places: dict[tuple[int, ...], int] = {}
        for prompt in prompts:
            places.setdefault(tuple(prompt), len(places))
        firsts = [self.open(len(prompt) + more) for prompt in places]
        logits = np.empty((len(places), self.engine.vocabulary), np.float32)
        self.extend(firsts, list(places), logits)
        caches, used = [], set()
        for prompt in prompts:
            place = places[tuple(prompt)]
            cache = firsts[place]
            if place in used:
                cache = self.open(len(prompt) + more)
                self._check(lib.bitrl_cache_copy(cache, firsts[place], len(prompt), self.error))
            used.add(place)
            caches.append(cache)
        return caches, logits[[places[tuple(prompt)] for prompt in prompts]]

    def extend(self, caches: Sequence[Any], tokens: Sequence[Sequence[int]], logits: np.ndarray | None = None) -> None:
        """Appends tokens to sequences; writes the logits after the last of each: float32 [n, vocabulary], if wanted."""
        engine = self.engine
        engine.file.sizes.check()
        lengths = np.array([len(text) for text in tokens], np.uint64)
        try:
            ids = np.array([token for text in tokens for token in text], np.int32)
        except OverflowError:
            raise UsageError(f"a token id is outside the vocabulary of {engine.vocabulary}") from None
        with engine.lock:
            status = lib.bitrl_extend(
                engine.session,
                ffi.new("bitrl_cache *[]", list(caches)),
                ffi.from_buffer("int32_t[]", ids),
                ffi.from_buffer("uint64_t[]", lengths),
                len(tokens),
                ffi.NULL if logits is None else ffi.from_buffer("float[]", logits, require_writable=True),
                self.error,
            )
        engine.file.sizes.check()  # what it read of a file that was shortened meanwhile may be zeros
        self._check(status)

    def sample(self, logits: np.ndarray, how: Any, random: np.ndarray) -> tuple[list[int], list[float], list[float]]:
        """A token from each row of logits, and its two log-probabilities."""
        tokens = np.empty(len(logits), np.int32)
        logprobs, model_logprobs = np.empty(len(logits)), np.empty(len(logits))
        with self.engine.lock:
            status = lib.bitrl_sample(
                self.engine.session,
                ffi.from_buffer("float[]", np.ascontiguousarray(logits)),
                *logits.shape,
                how,
                ffi.from_buffer("double[]", random),
                ffi.from_buffer("int32_t[]", tokens, require_writable=True),
                ffi.from_buffer("double[]", logprobs, require_writable=True),
                ffi.from_buffer("double[]", model_logprobs, require_writable=True),
                self.error,
            )
        self._check(status)
        return tokens.tolist(), logprobs.tolist(), model_logprobs.tolist()

    def open(self, capacity: int) -> Any:
        """A sequence of no tokens, with room for `capacity`."""
        cache = ffi.new("bitrl_cache **")
        self._check(lib.bitrl_cache_open(self.engine.model, capacity, cache, self.error))
        return ffi.gc(cache[0], lib.bitrl_cache_close)

    def _check(self, status: int) -> None:
        if status in (lib.BITRL_BAD_FILE, lib.BITRL_BAD_RESULT):
            raise ModelFileError(self.engine.path, message(self.error))
        if status != lib.BITRL_OK:
            raise UsageError(message(self.error))

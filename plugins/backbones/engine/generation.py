"""Generating text with a model of the engine: token ids in, sampled token ids and their exact log-probabilities out.

Knows sequences, sampling and stopping. Does not know text: tokenizer.py makes and reads the ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bitrl._engine import ffi, lib
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.files.model_file import ModelFileError, message

if TYPE_CHECKING:
    from bitrl.plugins.backbones.engine.engine import Engine

_ERROR_BYTES = 256
NO_HEAD = "cannot generate: it has no head (lm_head.weight), and tie_word_embeddings is false"


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
    kept_tokens: np.ndarray | None = None
    """int32 [sum(kept_counts)]: the ids that each token was chosen from, one step after another, ascending within a
    step; None where they were not asked for, or nothing was cut off."""
    kept_counts: np.ndarray | None = None
    """int32 [n]: how many these are at each step."""


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
    slots: int = 64,
    kept: bool = False,
) -> list[Generated]:
    """Goes on with each prompt for up to `max_tokens` tokens, or to the first token in `stop`.

    `top_k` (0: all) and `top_p` cut the distribution off, the first before the second; with `kept`, results say to
    what. The i-th prompt's tokens depend on the model, that prompt, `seed` and i, not on the others. Equal prompts are
    read once, and share what is kept of them. At most `slots` sequences go on together: when one ends, the next begins.
    Raises UsageError for settings or prompts that cannot be fulfilled, ModelFileError for a model that cannot generate.
    """
    if max_tokens < 1:
        raise UsageError(f"max_tokens: expected 1 or more, got {max_tokens}")
    if slots < 1:
        raise UsageError(f"slots: expected 1 or more, got {slots}")
    top_k = min(top_k, engine.vocabulary)
    if top_k < 0:
        raise UsageError(f"top_k: expected 0 or more, got {top_k}")
    if not -(1 << 63) <= seed < 1 << 63:
        raise UsageError(f"seed: expected an integer from -2^63 to 2^63 - 1, got {seed}")
    for token in stop:
        if not 0 <= token < engine.vocabulary:
            raise UsageError(f"stop: token {token} is outside the vocabulary of {engine.vocabulary}")
    longest = max(map(len, token_ids), default=0)
    if any(len(prompt) == 0 for prompt in token_ids):
        raise UsageError("a prompt has no tokens; begin with the model's first token, or with text")
    if longest + max_tokens > engine.context:
        raise UsageError(
            f"a prompt of {longest} tokens and {max_tokens} more (max_tokens) do not fit the model's context of "
            f"{engine.context}: ask for fewer, or give shorter prompts"
        )
    n = len(token_ids)
    sequences = Sequences(engine)
    prompts = _Prompts(token_ids)
    streams = (np.random.Generator(np.random.Philox(key=[seed, i])) for i in range(n))
    random = np.stack([stream.random(max_tokens) for stream in streams]) if n else np.empty((0, max_tokens))
    stops = np.array(list(stop), np.int32)
    tokens = np.empty((n, max_tokens), np.int32)
    logprobs, model_logprobs = np.empty((n, max_tokens)), np.empty((n, max_tokens))
    lengths, counts = np.empty(n, np.uint64), np.empty((n, max_tokens), np.int32)
    cut = temperature > 0 and (top_k > 0 or top_p < 1)
    kept_sets = sequences.open_kept(n) if kept and cut else ffi.NULL
    patience = _Patience()
    how = ffi.new(
        "bitrl_generation *",
        {
            "sampling": {"temperature": temperature, "top_k": top_k, "top_p": top_p},
            "max_tokens": max_tokens,
            "stop": ffi.from_buffer("int32_t[]", stops),
            "stops": len(stops),
            "slots": min(slots, max(n, 1)),
            "random": ffi.from_buffer("double[]", random),
            "go_on": lib.bitrl_go_on,
            "asked": patience.handle,
        },
    )
    out = ffi.new(
        "bitrl_generated *",
        {
            "tokens": ffi.from_buffer("int32_t[]", tokens, require_writable=True),
            "logprobs": ffi.from_buffer("double[]", logprobs, require_writable=True),
            "model_logprobs": ffi.from_buffer("double[]", model_logprobs, require_writable=True),
            "lengths": ffi.from_buffer("uint64_t[]", lengths, require_writable=True),
            "kept_counts": ffi.from_buffer("int32_t[]", counts, require_writable=True),
            "kept": kept_sets,
        },
    )
    sequences.call(lib.bitrl_generate, prompts.given, how, out, patience=patience)
    results = []
    for i, length in enumerate(lengths.tolist()):
        columns = [column[i, :length].copy() for column in (tokens, logprobs, model_logprobs)]
        if kept_sets != ffi.NULL:
            columns += [_kept_tokens(kept_sets, i), counts[i, :length].copy()]
        results.append(Generated(*columns))
    return results


def exact_logprobs(
    sequences: Sequences,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[np.ndarray]:
    """Log-probabilities float64 [m] of each completion's tokens after its prompt, under the model at a temperature.

    The bits that `generate` reports as `logprobs` when it draws the same tokens with nothing cut off (at temperature 1,
    also as `model_logprobs`), in one pass over each text. Equal prompts are read once. Raises as `generate`.
    """
    engine = sequences.engine
    if any(len(prompt) == 0 for prompt in prompts):
        raise UsageError("a prompt has no tokens; begin with the model's first token, or with text")
    if any(len(prompt) + len(rest) > engine.context for prompt, rest in zip(prompts, completions, strict=True)):
        raise UsageError(f"a prompt and its completion do not fit the model's context of {engine.context}")
    if any(not 0 <= token < engine.vocabulary for rest in completions for token in rest):
        raise UsageError(f"a token id is outside the vocabulary of {engine.vocabulary}")
    begins = _Prompts(prompts)
    ids, lengths = _flat(completions)
    found = np.empty(len(ids))
    sequences.call(
        lib.bitrl_logprobs,
        begins.given,
        ffi.from_buffer("int32_t[]", ids),
        ffi.from_buffer("uint64_t[]", lengths),
        temperature,
        ffi.from_buffer("double[]", found, require_writable=True),
    )
    return np.split(found, np.cumsum(lengths)[:-1].astype(np.int64)) if len(lengths) else []


def _flat(token_ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """All ids in a row, int32, and how many each text has, uint64."""
    lengths = np.array([len(text) for text in token_ids], np.uint64)
    try:
        return np.array([token for text in token_ids for token in text], np.int32), lengths
    except OverflowError:
        raise UsageError("a token id is outside the vocabulary: it has more than 32 bits") from None


class _Prompts:
    """`bitrl_prompts` of prompts, equal ones once; holds what it points to."""

    def __init__(self, token_ids: Sequence[Sequence[int]]) -> None:
        places: dict[tuple[int, ...], int] = {}
        self.prompt_of = np.array([places.setdefault(tuple(ids), len(places)) for ids in token_ids], np.uint64)
        self.tokens, self.lengths = _flat(list(places))
        self.given = ffi.new(
            "bitrl_prompts *",
            {
                "tokens": ffi.from_buffer("int32_t[]", self.tokens),
                "lengths": ffi.from_buffer("uint64_t[]", self.lengths),
                "prompts": len(places),
                "prompt_of": ffi.from_buffer("uint64_t[]", self.prompt_of),
                "sequences": len(self.prompt_of),
            },
        )


def _kept_tokens(kept: Any, i: int) -> np.ndarray:
    count = ffi.new("uint64_t *")
    tokens = lib.bitrl_kept_tokens(kept, i, count)
    return np.frombuffer(ffi.buffer(tokens, 4 * count[0]), np.int32).copy() if count[0] else np.empty(0, np.int32)


class _Patience:
    """Lets Python do what it must while the engine generates, such as handling Ctrl-C; an exception ends the call."""

    def __init__(self) -> None:
        self.handle = ffi.new_handle(self)
        self.raised: BaseException | None = None


def _keep_exception(kind: type[BaseException], exception: BaseException, traceback: Any) -> None:
    ffi.from_handle(traceback.tb_frame.f_locals["asked"]).raised = exception.with_traceback(traceback)


@ffi.def_extern(error=0, onerror=_keep_exception)  # type: ignore[untyped-decorator]
def bitrl_go_on(asked: Any) -> int:
    """Called between steps; Python runs its signal handlers when it comes here."""
    return 1


class Sequences:
    """Sequences that an engine goes on with; raises the errors that `generate` promises."""

    def __init__(self, engine: Engine, head: bool = True) -> None:
        """`head` makes the model's head ready, without which there are no logits."""
        self.engine = engine
        engine.file.sizes.check()
        self.error = ffi.new("char[]", _ERROR_BYTES)
        if head and getattr(engine.file, "lacks_head", False):
            raise ModelFileError(engine.path, NO_HEAD)
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
        ids, lengths = _flat(tokens)
        self.call(
            lib.bitrl_extend,
            ffi.new("bitrl_cache *[]", list(caches)),
            ffi.from_buffer("int32_t[]", ids),
            ffi.from_buffer("uint64_t[]", lengths),
            len(tokens),
            ffi.NULL if logits is None else ffi.from_buffer("float[]", logits, require_writable=True),
        )

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

    def call(self, function: Callable[..., int], *arguments: Any, patience: _Patience | None = None) -> None:
        """A function of the engine, of this session and arguments."""
        self.engine.file.sizes.check()
        with self.engine.lock:
            status = function(self.engine.session, *arguments, self.error)
        self.engine.file.sizes.check()  # what it read of a file that was shortened meanwhile may be zeros
        if patience and patience.raised:
            raise patience.raised
        self._check(status)

    def open_kept(self, sequences: int) -> Any:
        """Room for what the distributions of so many sequences are cut to."""
        kept = ffi.new("bitrl_kept **")
        self._check(lib.bitrl_kept_open(sequences, kept, self.error))
        return ffi.gc(kept[0], lib.bitrl_kept_close)

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

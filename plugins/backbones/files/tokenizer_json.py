"""Whether a tokenizer.json can be given to the `tokenizers` library: what it asks for is bounded.

The library trusts the file. One that comes from elsewhere could have it multiply a text until memory is full (a
normaliser that replaces a letter by a page, a template that repeats the text), panic, or cut at random. So the kinds of
steps that decoders' tokenizers are made of are listed here and others refused; how far each can lengthen a text is
known before any text is read. Does not know what the steps do to a text otherwise.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from bitrl.core.terminal import held_stderr
from bitrl.plugins.backbones.files.model_file import ModelFileError

MOST_BYTES = 64 << 20
"""Of the whole file: Gemma's, with 262,144 tokens, has 33 MB."""
MOST_TIMES = 64
"""How many times as long a text may become in characters."""
MOST_ADDED = 64
"""Characters or tokens put before or after a text."""
MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
STEPS = {
    "normalizer": (
        "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "BertNormalizer", "Nmt", "ByteLevel",
        "Replace", "Prepend",
    ),
    "pre_tokenizer": (
        "ByteLevel", "Split", "Digits", "Metaspace", "Whitespace", "WhitespaceSplit", "Punctuation", "BertPreTokenizer",
        "CharDelimiterSplit", "UnicodeScripts",
    ),
    "post_processor": ("ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"),
    "decoder": ("ByteLevel", "ByteFallback", "Fuse", "Strip", "Metaspace", "WordPiece", "BPEDecoder", "Replace"),
}  # fmt: skip
"""The kinds of steps read, by the part of the file that they belong to."""
_PARTS_OF_SEQUENCES = ("normalizers", "pretokenizers", "processors", "decoders")
_PANIC = "PanicException"
_PANIC_TEXT = re.compile(rb"\n?thread '[^\n]* panicked at .*?(?:\nnote: [^\n]*\n|\Z)", re.DOTALL)

T = TypeVar("T")


def check_tokenizer_json(text: str, path: str) -> None:
    """Raises ModelFileError, naming `path`, for a tokenizer.json whose steps are unknown or unbounded."""
    if len(text) > MOST_BYTES:
        raise ModelFileError(path, f"has a tokenizer.json of {len(text)} characters; expected at most {MOST_BYTES}")
    try:
        whole = json.loads(text, object_pairs_hook=_unique)
        problem = _problem(whole)
    except RecursionError:
        problem = "it is nested too deeply"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    if problem:
        raise ModelFileError(path, f"has a broken tokenizer.json: {problem}")


def calmly(use: Callable[[], T], quietly: bool = False) -> T:
    """use(), with a panic of the Rust library, which is a BaseException, as a ValueError; `quietly` without the many
    lines that the library itself says of it on stderr, which takes longer than reading a text.
    """
    try:
        if not quietly:
            return use()
        with held_stderr(_without_panics):
            return use()
    except BaseException as error:
        if type(error).__name__ == _PANIC:
            raise ValueError(f"the tokenizers library gave up: {' '.join(str(error).split())[:120]}") from None
        raise


def _without_panics(text: bytes) -> bytes:
    return text if os.environ.get("BITRL_DEBUG", "0") not in ("", "0") else _PANIC_TEXT.sub(b"", text)


def _problem(whole: Any) -> str | None:
    if not isinstance(whole, dict) or not isinstance(whole.get("model"), dict):
        return "it has no model"
    model = whole["model"]
    kind = model.get("type", "BPE")
    if kind not in MODELS:
        return f"its model is a {str(kind)[:40]!r}, which is not supported; supported: {', '.join(MODELS)}"
    if model.get("dropout"):
        return f"its model has dropout = {str(model['dropout'])[:20]}, which would cut every text another way each time"
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):  # which the library puts to every character
        if len(model.get(name) or "") > MOST_ADDED:
            return f"its model's {name} has {len(model[name])} characters; expected at most {MOST_ADDED}"
    times: dict[str, float] = {}
    for part, known in STEPS.items():
        times[part] = 1.0
        for step in _steps(whole.get(part)):
            if step.get("type") not in known:
                return f"its {part} has a step {str(step.get('type'))[:40]!r}, which is not supported"
            times[part] *= _times(step)
            if (added := _added(step)) > MOST_ADDED:
                return f"its {part} puts {added} tokens or characters around a text; expected at most {MOST_ADDED}"
            if repeated := _repeated(step):
                return f"its {part} gives a text {repeated} times; expected once"
            if times[part] > MOST_TIMES:
                return f"its {part} makes a text more than {MOST_TIMES} times as long"
    return None


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part of the file, those in sequences one by one."""
    if part is None:
        return
    if part.get("type") != "Sequence":
        yield part
        return
    for name in _PARTS_OF_SEQUENCES:
        for step in part.get(name, ()):
            yield from _steps(step)


def _times(step: dict[str, Any]) -> float:
    """How many times as many characters a step can make of a text; Unicode's own forms, which are few, apart."""
    if step["type"] != "Replace":
        return 1.0
    pattern, content = step["pattern"], step["content"]
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if text:
        return max(1.0, len(content) / len(text))
    return 1.0 + len(content)  # at worst between any two characters


def _added(step: dict[str, Any]) -> int:
    """How much a step puts around a text, or around each piece of one."""
    if step["type"] == "Prepend":
        return len(step["prepend"])
    if step["type"] != "TemplateProcessing":
        return 0
    ids = sum(len(special["ids"]) for special in step.get("special_tokens", {}).values())
    return max(ids, *(len(step.get(kind, ())) for kind in ("single", "pair")))


def _repeated(step: dict[str, Any]) -> int:
    """How many times a template gives the text, where that is not once."""
    if step["type"] != "TemplateProcessing":
        return 0
    count = sum("Sequence" in piece for piece in step["single"])
    return count if count > 1 else 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found

"""Tokenizers built from a model file's own vocabulary (the `tokenizers` library does the work).

Knows how text is split into pieces before BPE merges them, how GGUF names those ways of splitting, and how it writes
down a SentencePiece vocabulary. Does not know how a vocabulary is trained, nor what the model does with the ids.
"""

from __future__ import annotations

import os
import string
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError
from bitrl.plugins.backbones.files.tokenizer_json import calmly, check_tokenizer_json

if TYPE_CHECKING:
    from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile

BITRL_PATTERN = "|".join(
    [
        # A quoted key with the punctuation around it: `{"cart_position": `, `, "joint_3": `. One piece, so that
        # BPE can make a known key one token. Runs are bounded so that hostile text cannot take quadratic time.
        r'[{\[, ]{0,4}"[A-Za-z_][A-Za-z0-9_ ]{0,63}": ?',
        # A compact key: `x=`, ` theta_dot=`.
        r" ?[A-Za-z_][A-Za-z0-9_]{0,63}=",
        # A number's sign, whole part and first decimal are one piece, so that the first token says nearly all of it:
        # `-0.5`, `12.3`. What follows, or a longer whole part, goes by pairs of digits: `-0.5` `20`, `12` `34` `.5`.
        r"(?<![0-9.])-?[0-9]{1,2}\.[0-9]",
        r"(?<![0-9.])-?[0-9]{1,3}(?![0-9])",
        r"(?<![0-9.])-?[0-9]{1,2}(?=(?:[0-9]{2}){1,32}(?![0-9]))",
        r"[0-9]{1,2}",
        r"(?<=[0-9])\.[0-9]",
        # Words and punctuation. The space before a word belongs to the word; the space before a number belongs to
        # what stands before it, so that a number always begins with the same token.
        r" ?\p{L}+(?: (?=-?[0-9]))?",
        r" ?(?:(?!-[0-9])[^\s\p{L}0-9])+(?: (?=-?[0-9]))?",
        r"-",
        r"\s+(?!\S)|\s+",
    ]
)
"""How bitrl's own models split text (Oniguruma syntax). Lossless: what no branch matches is kept as a piece."""


def _digits_by(count: str) -> str:
    """The cutting that Llama 3 and Qwen2 share but for how many digits are one piece."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + count + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


OURS = "bitrl-2"
"""What `tokenizer.ggml.pre` is in bitrl's own models."""
PATTERNS = {
    OURS: BITRL_PATTERN,
    "llama-bpe": _digits_by("{1,3}"),
    "qwen2": _digits_by(""),
}
ALIASES = {
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    "qwen2": ("deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open"),
    "gpt-2": (
        "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe",
        "gigachat", "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4",
    ),
    "smollm": ("refact", "starcoder", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
}  # fmt: skip
"""The names by which llama.cpp knows the same ways of cutting (llama_vocab::impl::load, commit 00ad355e)."""
DEFAULT = "default"
"""How llama.cpp cuts text for a file that does not say how, or says that its converter did not know."""
_DEFAULT_STEPS = (  # one after another, each in the pieces that the former left
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)
_SAME = {name: ours for ours, names in ALIASES.items() for name in names}
CUTTINGS = (*PATTERNS, "gpt-2", "smollm", DEFAULT, *_SAME)
"""The values of `tokenizer.ggml.pre` that are known here."""
_BY_MERGES_ALONE = ("gpt-2", "smollm", "qwen2", DEFAULT)  # the others take a piece that is a token as that token
_BITNETS = ("bitnet-b1.58", "bitnet-25", "bitnet")

_NORMAL, _USER_DEFINED, _BYTE = 1, 4, 6  # of tokenizer.ggml.token_type
_LONGEST_PIECE = 512  # characters; deriving the merges of one takes the square of its length


def pre_tokenizer(pre: str = OURS) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer GGUF calls `pre`. Raises KeyError for one that is not known here."""
    pre = _SAME.get(pre, pre)
    if pre == DEFAULT:
        cuts = [pre_tokenizers.Split(Regex(step), behavior="isolated") for step in _DEFAULT_STEPS]
        return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if pre in ("gpt-2", "smollm"):
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        return gpt2 if pre == "gpt-2" else pre_tokenizers.Sequence([digits, gpt2])
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[pre]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def build_tokenizer(
    tokens: Sequence[str], merges: Sequence[str], pre: str = OURS, phrases: Container[str] = ()
) -> Tokenizer:
    """A tokenizer whose id i is tokens[i]. `merges` are "left right" pairs, best first.

    Those tokens that are `phrases`, plain text and not in the byte alphabet, are found in a text before it is split,
    the longest first. Control tokens get no special treatment: text that spells one is split like any other text, so an
    observation can never smuggle one in. Raises ValueError when the vocabulary contradicts itself.
    """
    vocabulary = _ids(tokens)
    # Published vocabularies lack bytes their training text did not have (SmolLM2's 21); such a byte gives no token.
    missing = [
        byte for byte in string.ascii_letters + string.digits + string.punctuation + "Ġ" if byte not in vocabulary
    ]
    if missing:
        raise ValueError(
            f"the vocabulary has no byte tokens for {len(missing)} of the 95 printable characters of ASCII"
        )
    pairs = []
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not (space and left in vocabulary and right in vocabulary and left + right in vocabulary):
            raise ValueError(f"the merge {_quoted(merge)} does not join two tokens into a third")
        pairs.append((left, right))
    whole = _SAME.get(pre, pre) not in _BY_MERGES_ALONE
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=whole))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in tokens if phrase in phrases])
    return tokenizer


def tokenizer_from_json(text: str, path: str) -> Tokenizer:
    """The tokenizer that the `tokenizers` library wrote as JSON (tokenizer.json), for plain text alone.

    As in `build_tokenizer`, text that spells a control token is split like any other; nothing is truncated or padded.
    Raises ModelFileError naming `path` when the library cannot read it, or should not (tokenizer_json.py).
    """
    check_tokenizer_json(text, path)
    try:
        tokenizer = calmly(lambda: Tokenizer.from_str(text), quietly=True)
    except Exception as error:  # `tokenizers` raises bare Exception for what it finds wrong
        raise ModelFileError(path, f"has a broken tokenizer.json: {str(error)[:120]}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokenizer_of(file: ModelFile | HuggingFaceFile) -> Tokenizer:
    """The tokenizer of a model file or checkpoint. Raises ModelFileError when it has none or a broken one."""
    if not isinstance(file, ModelFile):
        return file.tokenizer
    text = file.tokenizer_json()
    return tokenizer_from_metadata(file.metadata(), file.path) if text is None else tokenizer_from_json(text, file.path)


def build_sentencepiece(
    tokens: Sequence[str], scores: np.ndarray, types: np.ndarray, space_prefix: bool = True
) -> Tokenizer:
    """A SentencePiece BPE tokenizer whose id i is tokens[i]: of two neighbours the pair of the highest score is joined.

    `scores`: floats [n]; `types`: ints [n], what each token is, as in `tokenizer.ggml.token_type`. A character that
    is no token becomes the byte tokens of its UTF-8. User-defined tokens (runs of spaces, tags) are found in the text
    before anything is joined, as SentencePiece does; text never becomes a control or byte token by spelling it.
    `space_prefix` puts a space before the text, and after a user-defined token.
    Raises ValueError when the vocabulary contradicts itself.
    """
    for name, values, kinds in (("scores", scores, "f"), ("types", types, "iu")):
        if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds:
            raise ValueError(
                f"the vocabulary has no {name} (tokenizer.ggml.{'token_type' if name == 'types' else name})"
            )
    if not np.isfinite(scores).all():
        raise ValueError(f"the score of token {int(np.isfinite(scores).argmin())} is not a finite number")
    # Converters write the spaces of user-defined tokens as spaces or as the sign that stands for one. These tokens are
    # looked for in the text as it is normalised, but where that puts a prefix they would get one too: there, before.
    kinds = types.tolist()
    pieces = [
        token.replace("▁", " ") if kind == _USER_DEFINED and space_prefix else token.replace(" ", "▁")
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    vocabulary = _ids(pieces)
    byte_tokens = {f"<0x{byte:02X}>" for byte in range(256)}
    for piece, kind in zip(pieces, kinds, strict=True):
        if kind == _BYTE and piece not in byte_tokens:
            raise ValueError(f"the byte token {_quoted(piece)} names no byte")
    missing = len(byte_tokens - vocabulary.keys())
    if missing:
        raise ValueError(f"the vocabulary has no token for {missing} of the 256 bytes")
    best_first = [pieces[i] for i in np.argsort(-scores, kind="stable") if kinds[i] == _NORMAL]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(best_first), byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if space_prefix else space
    own = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _USER_DEFINED and piece]
    tokenizer.add_tokens([AddedToken(piece, normalized=not space_prefix) for piece in own])
    plain = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*plain, decoders.Strip(" ", 1, 0)] if space_prefix else plain)
    return tokenizer


def tokenizer_from_metadata(metadata: Mapping[str, Any], path: str) -> Tokenizer:
    """The tokenizer of a model file, from its metadata (`Engine.metadata`): byte-level BPE or SentencePiece's.

    A BitNet file that does not say how text is cut gets Llama 3's way: the published ones carry that vocabulary. Others
    get llama.cpp's default. A byte-level vocabulary's user-defined tokens (`<think>`) are found in a text before it is
    cut, as llama.cpp finds them.
    Raises ModelFileError naming `path` when the vocabulary is missing, unknown or inconsistent.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model is None:
        raise ModelFileError(path, "has no tokenizer (no tokenizer.ggml.model key); use a file that carries one")
    if not isinstance(model, str) or model not in ("gpt2", "llama"):
        raise ModelFileError(
            path, f"has a tokenizer of kind {_quoted(model)}; known: gpt2 (byte-level BPE), llama (SentencePiece BPE)"
        )
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
    if not _is_strings(tokens):
        raise ModelFileError(path, "has no usable vocabulary (tokenizer.ggml.tokens)")
    scores, types = (metadata.get(f"tokenizer.ggml.{name}") for name in ("scores", "token_type"))
    try:
        for name, values in (("scores", scores), ("types", types)):
            if values is not None and np.size(values) != len(tokens):
                raise ValueError(f"the vocabulary has {len(tokens)} tokens but {np.size(values)} {name}")
        if model == "llama":
            prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
            return calmly(lambda: build_sentencepiece(tokens, scores, types, prefix), quietly=True)  # type: ignore[arg-type]  # it looks for itself
        if not _is_strings(merges):
            raise ModelFileError(path, "has no usable vocabulary (tokenizer.ggml.merges)")
        pre = cutting(metadata)
        if pre not in CUTTINGS:
            known = ", ".join(sorted(CUTTINGS))
            raise ModelFileError(
                path, f"cuts text in a way not known here (tokenizer.ggml.pre = {_quoted(pre)}); known: {known}"
            )
        phrases = set() if types is None else {tokens[i] for i in np.flatnonzero(types == _USER_DEFINED)}
        return calmly(lambda: build_tokenizer(tokens, merges, pre, phrases), quietly=True)
    except ModelFileError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exception for what it finds wrong
        raise ModelFileError(path, f"has a broken vocabulary: {error}") from None


def cutting(metadata: Mapping[str, Any]) -> Any:
    """How a byte-level vocabulary's text is cut, by `tokenizer.ggml.pre`, or what is right for a file that lacks it."""
    pre = metadata.get("tokenizer.ggml.pre", DEFAULT)
    return "llama-bpe" if pre == DEFAULT and metadata.get("general.architecture") in _BITNETS else pre


def check_vocabulary(tokenizer: Tokenizer, rows: int, path: str) -> None:
    """Raises ModelFileError, naming `path`, when plain text can give a token that is not among the embedding's `rows`.

    Special tokens, which plain text never gives, may lie beyond: Gemma's text models leave one of images there.
    """
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    tokens = max((number for number in tokenizer.get_vocab().values() if number not in special), default=-1) + 1
    if tokens > rows:
        raise ModelFileError(path, f"has {tokens} tokens but embeds only {rows} of them")


def check_model_file(path: str | os.PathLike[str]) -> None:
    """Raises ModelFileError for a GGUF file that is damaged, or whose tokenizer is missing, broken or does not fit."""
    file = ModelFile(path)
    embedding = next((tensor for tensor in file.tensors() if tensor.name == "token_embd.weight"), None)
    if embedding is None:
        raise ModelFileError(path, "has no token_embd.weight, so it is no language model")
    check_vocabulary(tokenizer_of(file), embedding.shape[0], file.path)


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError("the vocabulary has the same token twice")
    return vocabulary


def _merges(best_first: Sequence[str]) -> list[tuple[str, str]]:
    """Every way to join two of the pieces into a third, the one SentencePiece prefers first."""
    longest = max(best_first, key=len, default="")
    if len(longest) > _LONGEST_PIECE:
        raise ValueError(f"the token {_quoted(longest)} is longer than {_LONGEST_PIECE} characters")
    known = set(best_first)
    return [
        (piece[:cut], piece[cut:])
        for piece in best_first
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in known and piece[cut:] in known
    ]


def _quoted(value: object) -> str:
    """A value of the file in an error: in quotes, on one line, and short."""
    return repr(value if len(str(value)) <= 40 else str(value)[:40] + "…")


def _is_strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)

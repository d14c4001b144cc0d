"""Tokenizers built from a model file's own vocabulary (byte-level BPE, the `tokenizers` library does the work).

Knows how text is cut into pieces before BPE merges them, and how GGUF names those ways of cutting. Does not know
how a vocabulary is trained, nor what the model does with the ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from bitrl.plugins.backbones.hugging_face_file import HuggingFaceFile
from bitrl.plugins.backbones.model_file import ModelFile, ModelFileError

BITRL_PATTERN = "|".join(
    [
        # A quoted key with the punctuation around it: `{"cart_position": `, `, "joint_3": `. One piece, so that
        # BPE can make a known key one token. Runs are bounded so that hostile text cannot take quadratic time.
        r'[{\[, ]{0,4}"[A-Za-z_][A-Za-z0-9_ ]{0,63}": ?',
        # A compact key: `x=`, ` theta_dot=`.
        r" ?[A-Za-z_][A-Za-z0-9_]{0,63}=",
        # The start of a number below one, with its sign: `0.`, `-0.`. Every digit after it is a piece.
        r"(?<![0-9.])-?0\.(?=[0-9])",
        r"[0-9]",
        # Words and punctuation. The space before a word belongs to the word; the space before a number belongs to
        # what stands before it, so that a number always begins with the same token.
        r" ?\p{L}+(?: (?=-?[0-9]))?",
        r" ?(?:(?!-[0-9])[^\s\p{L}0-9])+(?: (?=-?[0-9]))?",
        r"-",
        r"\s+(?!\S)|\s+",
    ]
)
"""How bitrl's own models cut text (Oniguruma syntax). Lossless: what no branch matches is kept as a piece."""

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3's models cut text, and BitNet b1.58 2B-4T with them."""


def pre_tokenizer(pre: str = "bitrl") -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer GGUF calls `pre`. Raises KeyError for one that is not known here."""
    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    pattern = {"bitrl": BITRL_PATTERN, "llama-bpe": LLAMA3_PATTERN, "llama3": LLAMA3_PATTERN}[pre]
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def build_tokenizer(tokens: Sequence[str], merges: Sequence[str], pre: str = "bitrl") -> Tokenizer:
    """A tokenizer whose id i is tokens[i]. `merges` are "left right" pairs, best first.

    Control tokens get no special treatment: text that spells one is cut like any other text, so an observation
    can never smuggle one in. Raises ValueError when the vocabulary contradicts itself.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError("the vocabulary has the same token twice")
    missing = [byte for byte in pre_tokenizers.ByteLevel.alphabet() if byte not in vocabulary]
    if missing:
        raise ValueError(f"the vocabulary lacks {len(missing)} of the 256 byte tokens")
    pairs = []
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not (space and left in vocabulary and right in vocabulary and left + right in vocabulary):
            raise ValueError(f"the merge {merge!r} does not join two tokens into a third")
        pairs.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre != "gpt-2"))
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def tokenizer_from_json(text: str, path: str) -> Tokenizer:
    """The tokenizer that the `tokenizers` library wrote as JSON (tokenizer.json), for plain text alone.

    As in `build_tokenizer`, text that spells a control token is cut like any other; nothing is cut off or padded.
    Raises ModelFileError naming `path` when the library cannot read it.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # `tokenizers` raises bare Exception for what it finds wrong
        raise ModelFileError(path, f"has a broken tokenizer.json: {str(error)[:120]}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokenizer_of(file: ModelFile | HuggingFaceFile) -> Tokenizer:
    """The tokenizer of a model file or checkpoint. Raises ModelFileError when it has none or a broken one."""
    if isinstance(file, HuggingFaceFile):
        return file.tokenizer
    text = file.tokenizer_json()
    return tokenizer_from_metadata(file.metadata(), file.path) if text is None else tokenizer_from_json(text, file.path)


def tokenizer_from_metadata(metadata: Mapping[str, Any], path: str) -> Tokenizer:
    """The tokenizer of a model file, from its metadata (`Engine.metadata`).

    A BitNet file without `tokenizer.ggml.pre` gets Llama 3's splitting: the published ones without it carry that
    vocabulary. Raises ModelFileError naming `path` when the vocabulary is missing, unknown or inconsistent.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model is None:
        raise ModelFileError(path, "has no tokenizer (no tokenizer.ggml.model key); use a file that carries one")
    if not isinstance(model, str) or model != "gpt2":
        raise ModelFileError(path, f"has a tokenizer of kind {model!r}; only byte-level BPE ('gpt2') is supported")
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
    if not _is_strings(tokens) or not _is_strings(merges):
        raise ModelFileError(path, "has no usable vocabulary (tokenizer.ggml.tokens and tokenizer.ggml.merges)")
    pre = metadata.get("tokenizer.ggml.pre", "llama-bpe")
    try:
        return build_tokenizer(tokens, merges, pre)
    except (KeyError, TypeError):
        raise ModelFileError(
            path, f"cuts text in a way not known here (tokenizer.ggml.pre = {pre!r}); known: bitrl, gpt-2, llama-bpe"
        ) from None
    except Exception as error:  # `tokenizers` raises bare Exception for what it finds wrong
        raise ModelFileError(path, f"has a broken vocabulary: {error}") from None


def _is_strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)

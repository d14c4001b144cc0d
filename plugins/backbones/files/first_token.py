"""The tokens that a model file asks to put before and after every text, if any.

Files often leave the first to the program that reads them. What llama.cpp then does is the convention that published
files are made for. The last (EOS), which models of embeddings are trained to end a text with, is put only where the
file says so, as in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitrl.plugins.backbones.files.model_file import ModelFileError

ADD, TOKEN, KIND, CUTTING = (
    f"tokenizer.ggml.{name}" for name in ("add_bos_token", "bos_token_id", "model", "pre")
)  # fmt: skip
ADD_LAST, LAST = "tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id"
END_KEYS = ("eos", "eot", "eom")
"""Of tokenizer.ggml.*_token_id: what llama.cpp ends a generated text at, the end of a text, a turn or a message."""
NAMED_TOKENS = {
    f"{name}_token": f"tokenizer.ggml.{key}_token_id"
    for name, key in (
        ("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("sep", "seperator"), ("pad", "padding"), ("cls", "cls"),
        ("mask", "mask"),
    )
}  # fmt: skip
"""What tokenizer_config.json and chat templates call a token, and where GGUF has its id (in its own spelling)."""
BEGINS = (
    "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
    "chameleon",
)  # fmt: skip
"""Byte-level vocabularies, by tokenizer.ggml.pre, whose texts begin with BOS in llama.cpp unless the file says
otherwise; the others' do not, nor do those of a file without the key. Source: llama_vocab::impl::load in
src/llama-vocab.cpp of llama.cpp (commit 00ad355e)."""


def first_tokens(metadata: Mapping[str, Any], vocabulary: int, path: str) -> list[int]:
    """The ids to put before every text's: one, or none.

    Raises ModelFileError when the file asks for a token and does not say which, or names one that is not below
    `vocabulary`.
    """
    why = "add_bos_token" if ADD in metadata else f"add_bos_token, by default of {metadata.get(CUTTING, 'its kind')}"
    asked = metadata.get(ADD, _by_default(metadata))
    return _asked_for(asked, metadata.get(TOKEN), vocabulary, path, f"a first token ({why})", TOKEN)


def last_tokens(metadata: Mapping[str, Any], vocabulary: int, path: str) -> list[int]:
    """The ids to put after every text's that is encoded: one, or none. A prompt, which goes on, gets none.

    Raises as `first_tokens`.
    """
    asked = metadata.get(ADD_LAST, False)
    return _asked_for(asked, metadata.get(LAST), vocabulary, path, "a last token (add_eos_token)", LAST)


def _asked_for(asked: Any, token: Any, vocabulary: int, path: str, what: str, key: str) -> list[int]:
    if isinstance(asked, int) and not asked:
        return []
    if not isinstance(asked, int) or not isinstance(token, int) or not 0 <= token < vocabulary:
        raise ModelFileError(path, f"asks for {what} but does not say which ({key})")
    return [token]


def begins_by_convention(metadata: Mapping[str, Any]) -> bool:
    """Whether a byte-level vocabulary's texts begin with a token although the file says nothing of it."""
    return ADD not in metadata and metadata.get(KIND) == "gpt2" and _by_default(metadata)


def _by_default(metadata: Mapping[str, Any]) -> bool:
    """SentencePiece's vocabularies begin texts with BOS, byte-level ones as BEGINS says."""
    kind, cutting = metadata.get(KIND), metadata.get(CUTTING)
    if not isinstance(kind, str) or not isinstance(cutting, (str, type(None))):
        return False
    return kind == "llama" or (kind == "gpt2" and cutting in BEGINS)

"""The token that a model file asks to put before every text, if any.

Files often leave that to the program that reads them. What llama.cpp then does is the convention that published files
are made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitrl.plugins.backbones.files.model_file import ModelFileError

ADD, TOKEN, KIND, CUTTING = (
    f"tokenizer.ggml.{name}" for name in ("add_bos_token", "bos_token_id", "model", "pre")
)  # fmt: skip
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
    asked = metadata.get(ADD, _by_default(metadata))
    if isinstance(asked, int) and not asked:
        return []
    token = metadata.get(TOKEN)
    if not isinstance(asked, int) or not isinstance(token, int) or not 0 <= token < vocabulary:
        why = (
            "add_bos_token" if ADD in metadata else f"add_bos_token, by default of {metadata.get(CUTTING, 'its kind')}"
        )
        raise ModelFileError(path, f"asks for a first token ({why}) but does not say which ({TOKEN})")
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

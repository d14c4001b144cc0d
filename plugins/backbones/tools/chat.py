"""Prompts for people who try a model: its chat template where it has one, and its answer as text.

Knows which ids stand for what a template (chat_template.py) writes. A prompt is text whatever it spells: only what the
template itself writes can be a control token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.engine.engine import Engine
from bitrl.plugins.backbones.files.first_token import NAMED_TOKENS, first_tokens
from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile
from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError
from bitrl.plugins.backbones.files.tokenizer import check_vocabulary, tokenizer_of
from bitrl.plugins.backbones.files.tokenizer_json import calmly
from bitrl.plugins.backbones.language_policy import end_tokens
from bitrl.plugins.backbones.text_tokens import encode_text

File = ModelFile | HuggingFaceFile
_PLACE, _SPACE = "\ue000prompt\ue001", "\u205f"
"""Stand for the prompt while the template is rendered, and for spaces around it, which the template may take away: a
character for private use, and a space, that no template writes."""
_SPECIAL = (3, 4)  # control and user-defined, of tokenizer.ggml.token_type
_MOST_TEMPLATE = 1 << 20


class Chat:
    """A model that answers prompts.

    Raises ModelFileError for a model that has no tokenizer or cannot generate.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.file = engine, engine.file
        self.tokenizer: Tokenizer = tokenizer_of(self.file)
        check_vocabulary(self.tokenizer, engine.vocabulary, engine.path)
        self.metadata = engine.metadata
        self.first = first_tokens(self.metadata, engine.vocabulary, engine.path)
        self.special = _special_tokens(self.file, self.metadata, self.tokenizer)
        self._names = {id: name for name, id in self.special.items()}
        self.named = _named_tokens(self.file, self.metadata)
        added = self.tokenizer.get_added_tokens_decoder().values()
        control = {token.content for token in added if token.special}
        # Then the tokenizer itself finds what a template writes, and no control token that is not known here.
        self._whole = control <= self.special.keys() <= {token.content for token in added}
        found = self.metadata.get("tokenizer.chat_template")
        self.template = found if isinstance(found, str) and len(found) <= _MOST_TEMPLATE else None
        self.ends = [token for token in end_tokens(self.file) if 0 <= token < engine.vocabulary]

    def prompt_ids(self, prompt: str, plain: bool = False) -> list[int]:
        """The ids that the model goes on with: of the prompt in its template, or, `plain` or without one, as it is.

        Raises UsageError for a prompt that is no text, ModelFileError for a template that cannot be used.
        """
        if plain or self.template is None:
            return [*self.first, *self._encode(prompt)]
        parts = self._protected(prompt)
        written = [part for part in parts if isinstance(part, int)]
        spelled = self._parts("".join(self._names[part] if isinstance(part, int) else part for part in parts))
        if self._whole and written == [part for part in spelled if isinstance(part, int)]:
            return self._encode_with_control_tokens(self._rendered(prompt))
        ids: list[int] = []
        text = ""
        for part in [*parts, -1]:  # text between two special tokens is cut as a whole
            if isinstance(part, str):
                text += part
                continue
            ids += self._encode(text) if text else []
            ids += [part] if part >= 0 else []
            text = ""
        return ids

    def _protected(self, prompt: str) -> list[str | int]:
        """What the template makes of a prompt: the ids of the control tokens that it writes itself, and text between
        them, which may spell others.
        """
        before, found, after = self._rendered(f"{_SPACE}{_PLACE}{_SPACE}").partition(_PLACE)
        if not found or _PLACE in after:
            raise ModelFileError(
                self.engine.path, "has a chat template that does not give the prompt once: use --plain"
            )
        kept = before.endswith(_SPACE), after.startswith(_SPACE)
        text = prompt if kept[0] else prompt.lstrip()
        text = text if kept[1] else text.rstrip()
        before, after = before.removesuffix(_SPACE), after.removeprefix(_SPACE)
        return [*self._parts(before), text, *self._parts(after)]

    def answer(
        self, prompt: str, max_tokens: int, *, plain: bool = False, temperature: float = 0.0, top_k: int = 0,
        top_p: float = 1.0, seed: int = 0,
    ) -> tuple[str, list[int], list[int]]:  # fmt: skip
        """The text that follows, its ids (with the token that ended it), and the prompt's. Raises as `generate`."""
        ids = self.prompt_ids(prompt, plain)
        room = self.engine.context - len(ids)
        if not ids or room < 1:
            most = self.engine.context - 1
            raise UsageError(f"the prompt has {len(ids)} tokens; expected 1 to {most} (the model's context less 1)")
        (made,) = self.engine.generate(
            [ids], min(max_tokens, room), temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=self.ends
        )
        tokens = made.tokens.tolist()
        return self._decode([token for token in tokens if token not in self.ends]), tokens, ids

    def bits(self, text: str, window: int = 512) -> tuple[float, int]:
        """The bits that the model needs for a text, and how many of its tokens it was asked for.

        The text is read in windows of up to `window` tokens, each after the file's first token or, without one, after
        the token before it; the very first token then goes unasked. Raises UsageError for a text of too few tokens.
        """
        from bitrl.plugins.backbones.engine.generation import Sequences, exact_logprobs

        ids = self._encode(text)
        if len(ids) + len(self.first) < 2:
            raise UsageError("the text has too few tokens to be judged by: name a longer one")
        step = min(window, self.engine.context) - 1
        begins = range(0, len(ids), step) if self.first else range(1, len(ids), step)
        prompts = [self.first or [ids[at - 1]] for at in begins]
        parts = [ids[at : at + step] for at in begins]
        found = exact_logprobs(Sequences(self.engine), prompts, parts)
        return -float(np.concatenate(found).sum()) / float(np.log(2)), sum(map(len, parts))

    def _encode(self, text: str) -> list[int]:
        return list(encode_text(self.tokenizer, text).ids)

    def _encode_with_control_tokens(self, text: str) -> list[int]:
        """As transformers does: around a control token, the tokenizer may take spaces away, or put none before text."""
        self.tokenizer.encode_special_tokens = False
        try:
            return self._encode(text)
        finally:
            self.tokenizer.encode_special_tokens = True

    def _decode(self, ids: Sequence[int]) -> str:
        try:
            return str(calmly(lambda: self.tokenizer.decode(list(ids), skip_special_tokens=False)))
        except Exception as error:  # `tokenizers` raises bare Exception for what it finds wrong
            raise UsageError(f"the model's tokenizer cannot decode tokens: {str(error)[:200]}") from None

    def _parts(self, text: str) -> list[str | int]:
        """What a template writes, its special tokens as their ids."""
        if not self.special:
            return [text]
        names = sorted(self.special, key=len, reverse=True)
        pieces = re.split(f"({'|'.join(map(re.escape, names))})", text)
        return [self.special.get(piece, piece) for piece in pieces if piece]

    def _rendered(self, prompt: str) -> str:
        """What the template writes around a prompt."""
        from bitrl.plugins.backbones.tools.chat_template import rendered  # Jinja, which comes with torch

        try:
            return rendered(self.template or "", prompt, self.named)
        except Exception as error:  # a template is a program: it may fail in any way
            words = " ".join(str(error).split())[:200]
            raise ModelFileError(self.engine.path, f"has a chat template that fails ({words}): use --plain") from None


def _special_tokens(file: File, metadata: dict[str, Any], tokenizer: Tokenizer) -> dict[str, int]:
    """The texts of tokens that a template may write, and their ids."""
    tokens, types = (metadata.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    if isinstance(tokens, list) and isinstance(types, np.ndarray) and len(types) == len(tokens):
        return {token: i for i, token in enumerate(tokens) if types[i] in _SPECIAL and token}
    return {token.content: i for i, token in tokenizer.get_added_tokens_decoder().items() if token.content}


def _named_tokens(file: File, metadata: dict[str, Any]) -> dict[str, str]:
    """What a template knows by name: bos_token, eos_token and others."""
    if isinstance(file, HuggingFaceFile):
        return file.named_tokens
    tokens = metadata.get("tokenizer.ggml.tokens")
    ids = {name: metadata.get(key) for name, key in NAMED_TOKENS.items()}
    if not isinstance(tokens, list):
        return {}
    return {name: tokens[id] for name, id in ids.items() if isinstance(id, int) and 0 <= id < len(tokens)}

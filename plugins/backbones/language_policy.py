"""A language model as a policy over texts (interfaces.LanguagePolicy): the engine generates, torch learns.

Knows how prompts become completions with exact log-probabilities, and how weights that learned reach the engine. Does
not know rewards or losses. torch is imported when the module is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Completion
from bitrl.plugins.backbones.engine.generation import NO_HEAD, Generated, Sequences, exact_logprobs
from bitrl.plugins.backbones.files.first_token import END_KEYS
from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile
from bitrl.plugins.backbones.files.model_file import ModelFile, ModelFileError
from bitrl.plugins.backbones.files.tokenizer_json import calmly
from bitrl.plugins.backbones.learned_weights import engine_weights, has_adapters

if TYPE_CHECKING:
    from torch import nn

    from bitrl.plugins.backbones.engine.engine import Engine
    from bitrl.plugins.backbones.language_model import LanguageModel
    from bitrl.plugins.backbones.rollout_actor import EngineActor
    from bitrl.plugins.backbones.training.decoder import Decoder


class EnginePolicy:
    """The policy of a language model. All of its weights learn, or its adapters alone where it has some.

    Features that the language model gives as a backbone change with `sync`, too. `version` counts those.
    Raises ModelFileError for a model without an output head.
    """

    def __init__(self, model: LanguageModel) -> None:
        file = model.engine.file
        if isinstance(file, HuggingFaceFile) and file.lacks_head:
            raise ModelFileError(file.path, NO_HEAD)
        self.model, self.version, self.learner_format = model, 0, model.engine.format
        self.ends = [token for token in end_tokens(file) if 0 <= token < model.engine.vocabulary]

    def generate(
        self, prompts: Sequence[str], max_tokens: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Completion]:  # fmt: skip
        """One completion for each of n prompts, to the model's end token or of `max_tokens` tokens; temperature 0: the
        most probable ones, whose log-probabilities are then 0.

        Raises:
            UsageError: a prompt is empty or too long, or a setting is invalid. ModelFileError: there is no head.
        """
        return self.generate_with(self.model.engine, prompts, max_tokens, temperature, top_k, top_p, seed)

    def generate_with(
        self, engine: Engine, prompts: Sequence[str], max_tokens: int, temperature: float, top_k: int, top_p: float,
        seed: int,
    ) -> list[Completion]:  # fmt: skip
        """As `generate`, by another engine of the same model."""
        ids = self.model.prompt_ids(prompts)
        made = engine.generate(
            ids, max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=self.ends, kept=True
        )
        return [
            Completion(
                text=self._text(each.tokens),
                tokens=each.tokens,
                logprobs=each.logprobs,
                prompt=np.array(prompt, np.int32),
                ended=int(each.tokens[-1]) in self.ends,
                kept=kept_sets(each),
            )
            for prompt, each in zip(ids, made, strict=True)
        ]

    def logprobs(
        self, prompts: Sequence[str], completions: Sequence[np.ndarray], *, temperature: float = 1.0
    ) -> list[np.ndarray]:
        """Log-probabilities float64 [m] of each completion's tokens int [m] after its prompt, nothing cut off.

        At temperature 1 they are, to the bit, what `generate` reported without top_k and top_p; at others, but for the
        last bits of float64. Raises as `generate`.
        """
        if temperature <= 0:
            raise UsageError(f"temperature: expected above 0, got {temperature:g}")
        ids = self.model.prompt_ids(prompts)
        return exact_logprobs(Sequences(self.model.engine), ids, [each.tolist() for each in completions], temperature)

    def _text(self, tokens: np.ndarray) -> str:
        ids = [token for token in tokens.tolist() if token not in self.ends]
        try:
            return str(calmly(lambda: self.model.tokenizer.decode(ids)))
        except Exception as error:  # `tokenizers` raises bare Exception for what it finds wrong
            raise UsageError(f"the model's tokenizer cannot decode tokens: {str(error)[:200]}") from None

    def reference(self) -> EnginePolicy:
        """A frozen copy of the model as `module()` is now, with an engine of its own."""
        return FrozenPolicy(self)

    def actor(self, format: str | None = None) -> EngineActor:
        """A copy that generates in `format`, with an engine of its own."""
        from bitrl.plugins.backbones.rollout_actor import EngineActor

        return EngineActor(self, format or self.model.engine.format)

    def module(self, format: str | None = None) -> nn.Module:
        """Token ids int64 [n, T] → logits [n, T, V], or of some `places`; with `hidden`, their hidden states, too.
        Trainable parameters: "blk.0.attn_q" … of all weights, or "blk.0.adapters.attn_q.down" … of adapters. The same
        object at every call; the first may name another `format` to multiply in.

        Raises:
            UsageError: adapters learn on a frozen model, whose format is the backbone's.
        """
        if format is not None and format != self.learner_format:
            if has_adapters(self.model):
                raise UsageError(f"adapters learn on a model that is frozen in {self.learner_format}, not in {format}")
            self.learner_format = format
        return self.decoder

    @cached_property
    def decoder(self) -> Decoder:
        """The model in torch."""
        from bitrl.plugins.backbones.training.decoder_file import read_decoder

        model = self.model
        if has_adapters(model):
            return model.decoder
        return read_decoder(
            model.engine.file, self.learner_format, model.engine.blocks, learns=True, activation=model.activation,
            i2s_packing=model.options.i2s_packing,
        )  # fmt: skip

    def write(self, path: Path) -> list[str]:
        """Write the model as its module is now to a GGUF file; what other programs will miss in it.

        Raises:
            UsageError: adapters learn beside weights that are not floats. RunFailed: the file cannot be written.
        """
        from bitrl.plugins.backbones.tools.learned_model import write_learned

        weights = None if has_adapters(self.model) else dict(engine_weights(self.decoder))
        return write_learned(self.model, weights, path)

    def sync(self) -> None:
        """The module's parameters have changed: generate by them from now on; kept sequences and features are void."""
        if has_adapters(self.model):
            self.model.sync()
        elif "decoder" in vars(self):
            self.model.engine.replace_all(dict(engine_weights(self.decoder)))
            self.model.weights_changed()
        self.version += 1


class FrozenPolicy(EnginePolicy):
    """A copy of another policy's model at one moment; it does not learn."""

    def __init__(self, policy: EnginePolicy) -> None:
        model = policy.model
        super().__init__(type(model)(model.options, model.number_count, model.engine.format))
        if has_adapters(model) and has_adapters(self.model):
            model.copy_adapters(self.model)
        elif "decoder" in vars(policy):
            self.__dict__["decoder"] = copy.deepcopy(policy.decoder)
            self.model.engine.replace_all(dict(engine_weights(self.decoder)))

    def module(self, format: str | None = None) -> nn.Module:
        """As EnginePolicy's; nothing in it is trainable, nor is it in another format."""
        return self.decoder.requires_grad_(False)

    def sync(self) -> None:
        """Raises UsageError: there is nothing to learn."""
        raise UsageError("a reference is a frozen copy of a language model: it does not learn")


def kept_sets(generated: Generated) -> tuple[np.ndarray, ...] | None:
    """The ids int32 that each token was drawn among; None where nothing was cut off."""
    if generated.kept_tokens is None or generated.kept_counts is None:
        return None
    return tuple(np.split(generated.kept_tokens, np.cumsum(generated.kept_counts)[:-1]))


def end_tokens(file: ModelFile | HuggingFaceFile) -> list[int]:
    """The model's end tokens, if it names any."""
    if isinstance(file, HuggingFaceFile):
        return file.end_tokens
    metadata = file.metadata()
    named = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in END_KEYS)
    return list(dict.fromkeys(token for token in named if type(token) is int))

"""What is in a model file, whether the engine can run it, and what it would take.

Asks the file, the engine and the tokenizer, and passes on their messages; it has no rules of its own about models.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import attrs

from bitrl.core.errors import UsageError
from bitrl.plugins.backbones import LanguageModelOptions
from bitrl.plugins.backbones.engine.engine import LoadPlan, formats, open_model, plan
from bitrl.plugins.backbones.files.hugging_face_file import HuggingFaceFile
from bitrl.plugins.backbones.files.model_file import ModelFile, Tensor
from bitrl.plugins.backbones.files.tokenizer import check_vocabulary, tokenizer_of
from bitrl.plugins.backbones.tools.lora_memory import LoraMemory, lora_memory

ACTIVATIONS = ("relu2", "silu")
LINEAR_CLASSES = ("autobitlinear", "bitlinear")
BLOCKS = "blk."
_FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a weight in torch, of matrices that are run as floats; others are int8 codes."""


@attrs.frozen
class Verdict:
    """Whether a model runs: unchanged, with options that only the user can know, or not at all.

    `needs` lists, for each option to give, the choices as they are typed; `problems` what is unsupported.
    """

    needs: list[str]
    problems: list[str]

    @property
    def words(self) -> str:
        """In one line."""
        if self.problems:
            return "cannot run: " + "; ".join(self.problems)
        return "needs " + " and ".join(self.needs) if self.needs else "runs as it is"


@attrs.frozen
class MemoryNeeded:
    """Bytes in memory. `matrices` by format; `embedding` stays in the file, whose pages are read as needed;
    `cache_per_token` is what generating keeps of each token; `lora` what training adapters takes, None where the rank
    is above a projection's width."""

    matrices: dict[str, int]
    embedding: int
    cache_per_token: int
    lora: LoraMemory | None


@attrs.frozen
class Inspected:
    """A model that could be opened, and what was found about it. `memory` is None for one that cannot run."""

    file: ModelFile | HuggingFaceFile
    verdict: Verdict
    memory: MemoryNeeded | None
    totals: dict[str, dict[str, int]]


def inspect(
    path: Path, activation: str | None = None, linear_class: str | None = None, lora_rank: int = 8
) -> Inspected:
    """Open a model and find out how it would run, given what is already known of it, and what adapters of a rank take.

    Raises ModelFileError for one that is damaged or cannot be read.
    """
    given = activation, linear_class
    file, found, activation, linear_class = _planned(path, activation, linear_class)
    needs = [f"-o backbone.linear_class={' or '.join(LINEAR_CLASSES)}"] if linear_class not in (None, given[1]) else []
    needs += [f"-o backbone.activation={' or '.join(ACTIVATIONS)}"] if activation not in (None, given[0]) else []
    problems = [] if isinstance(found, LoadPlan) else [found]
    problems += _tokenizer_problems(file, found.shape.vocabulary if isinstance(found, LoadPlan) else None)
    memory = _memory(file, found, activation, lora_rank) if isinstance(found, LoadPlan) else None
    return Inspected(file, Verdict(needs, problems), memory, _totals(file.tensors()))


def _planned(
    path: Path, activation: str | None, linear_class: str | None
) -> tuple[ModelFile | HuggingFaceFile, LoadPlan | str, str | None, str | None]:
    """The file and the engine's plan, or why there is none; and what had to be named because the file leaves it open.

    Any choice will do to find that out: none changes whether a model runs.
    """
    unreadable, unfit = None, None
    activations = [activation] if activation else [None, ACTIVATIONS[0]]
    classes = [linear_class] if linear_class else [None, LINEAR_CLASSES[0]]
    for activation, linear_class in itertools.product(activations, classes):
        try:
            file = open_model(path, activation, linear_class)
        except UsageError as error:
            unreadable = unreadable or error
            continue
        try:
            return file, plan(file, activation=activation), activation, linear_class
        except UsageError as error:
            unfit = unfit or (file, _problem(file, error), None, None)
    if unfit is None:
        raise unreadable or UsageError(f"{path}: cannot be opened")
    return unfit


def _tokenizer_problems(file: ModelFile | HuggingFaceFile, vocabulary: int | None) -> list[str]:
    try:
        tokenizer = tokenizer_of(file)
        if vocabulary is not None:
            check_vocabulary(tokenizer, vocabulary, file.path)
    except UsageError as error:
        return [_problem(file, error)]
    return []


def _problem(file: ModelFile | HuggingFaceFile, error: UsageError) -> str:
    """An error about a file, without its name."""
    return "it " + str(error).removeprefix(f"{file.path} ")


def _memory(file: ModelFile | HuggingFaceFile, found: LoadPlan, activation: str | None, lora_rank: int) -> MemoryNeeded:
    matrices = {format: plan(file, format, activation).matrix_bytes for format in formats()}
    outside = sum(tensor.bytes for tensor in file.tensors() if not tensor.name.startswith(BLOCKS))
    return MemoryNeeded(matrices, outside, found.cache_bytes_per_token, lora_memory_of(file, found, lora_rank))


def lora_memory_of(
    file: ModelFile | HuggingFaceFile, found: LoadPlan, rank: int, targets: tuple[str, ...] | None = None
) -> LoraMemory | None:
    """Of adapters on `targets` (None: those that have one by default), on the model in its file's own precision."""
    kinds, kind = {tensor.name: tensor.type for tensor in file.tensors()}, file.metadata()["general.architecture"]
    extra = {
        "sub_norms": str(kind).startswith("bitnet"),
        "head_norms": kind in ("qwen3", "gemma3"),
        "post_norms": kind in ("gemma2", "gemma3"),
        "input_norms": "blk.0.attn_q_norm_in.weight" in kinds,
        "silu": not str(kind).startswith(("bitnet", "gemma")),
    }
    targets = targets or LanguageModelOptions().lora_targets
    weight_bytes = _FLOAT_BYTES.get(kinds["blk.0.attn_q.weight"], 1)
    embedding_bytes = 2 if kinds["token_embd.weight"] == "F16" else 4
    return lora_memory(found.shape, rank, targets, weight_bytes, embedding_bytes, extra)


def _totals(tensors: list[Tensor]) -> dict[str, dict[str, int]]:
    """By type: how many tensors, weights and bytes."""
    counts, weights, sizes = Counter[str](), Counter[str](), Counter[str]()
    for tensor in tensors:
        counts[tensor.type] += 1
        weights[tensor.type] += math.prod(tensor.shape)
        sizes[tensor.type] += tensor.bytes
    return {kind: {"tensors": counts[kind], "weights": weights[kind], "bytes": sizes[kind]} for kind in sorted(counts)}


def as_dict(memory: MemoryNeeded | None) -> dict[str, Any] | None:
    """As plain data."""
    return None if memory is None else attrs.asdict(memory)

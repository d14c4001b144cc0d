"""The built-in backbones: their options and records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from bitrl.core.hookspecs import hookimpl
from bitrl.core.options import above, at_least, each_at_least, option, options
from bitrl.core.records import BackboneRecord


def not_the_starter(model: Any) -> bool:
    """Whether what a user chose as the model is neither the starter nor a copy of it in its shape."""
    return model not in (None, "none", "starter", "starter-fp16") and not str(model).startswith("random:starter")


@options
class LanguageModelOptions:
    """Options of the language model, the same in every format."""

    # How many blocks an environment sets was found for the starter, and says nothing of another model.
    overrides: ClassVar = {
        ("readout", "auto"): ("layers", "pooling", "projection", "directions", "chunk"),
        ("model", not_the_starter): ("layers",),
    }

    model: str | None = option(
        None,
        "GGUF file, directory with config.json and safetensors, or a name (bitrl model list; hf:OWNER/NAME; "
        "random:starter, a control with random weights); unset: the starter model in the package, or its "
        "full-precision twin for int8, int4, bf16 and fp32",
        free=True,  # the identity tells one model from another
    )
    layers: int | None = option(None, "stop after this many blocks; unset: all of them", above(0))
    pooling: Literal["mean", "last", "field"] | None = option(
        None,
        "features of a text: mean over tokens, last token, or last tokens of its numbers, concatenated (field); "
        "unset: mean",
    )
    readout: Literal["set", "auto"] = option(
        "set",
        "auto: where layers, pooling, projection, directions and chunk are not set otherwise than by the environment's "
        "defaults, a run measures on states of random play which of them keep the numbers, and takes the cheapest",
        free=True,  # what was chosen is in the other options
    )
    threads: int = option(
        0, "threads of the engine; 0: as many as the CPUs this process may use", at_least(0), free=True
    )
    i2s_packing: Literal["x86", "arm"] = option(
        "x86", "CPU architecture on which a file of I2_S weights was written, which the file does not record"
    )
    activation: Literal["relu2", "silu"] | None = option(
        None, "the feed-forward network's activation, for files that do not name it; unset: read from the file"
    )
    linear_class: Literal["bitlinear", "autobitlinear"] | None = option(
        None,
        "weight_scale divides (bitlinear) or multiplies (autobitlinear), for packed safetensors that do not record it",
    )
    projection: int | None = option(
        None,
        "project the features to this width: by a fixed random matrix, or a count sketch of pooling field; "
        "unset: no projection",
        above(0),
    )
    directions: str | None = option(
        None,
        "with pooling field: the directions in which each number's state is read, base64 of int8 [count, width], which "
        "readout=auto finds for a model; unset: all of it is",
    )
    chunk: int | None = option(
        None,
        "with pooling field: cut a text after every so many numbers, and read each chunk as a text of its own, which "
        "any width fits; unset: read the text as a whole",
        above(0),
    )
    cache_mb: float = option(16.0, "size of the feature cache in MiB; 0: no cache", at_least(0), free=True)
    lora_rank: int | None = option(
        None, "rank of low-rank adapters (LoRA) trained with the heads (by torch); unset: the model is frozen", above(0)
    )
    lora_alpha: float = option(16.0, "adapter outputs are scaled by lora_alpha / lora_rank", above(0))
    lora_targets: tuple[str, ...] = option(
        ("q", "v"), "projections that get an adapter in every block: any of q, k, v, o, gate, up, down"
    )


@options
class TernaryOptions(LanguageModelOptions):
    """Options of the language model with ternary weights."""

    bits: Literal["2", "1.6"] = option(
        "2",
        "bits per weight in memory, with identical features; 1.6 saves a fifth, and time where memory is slow",
        free=True,
    )


@options
class MLPOptions:
    """Options of the multi-layer perceptron."""

    hidden: tuple[int, ...] = option((64, 64), "widths of the hidden layers, tanh after each", each_at_least(1))


@options
class RandomProjectionOptions:
    """Options of the random projection."""

    width: int = option(256, "number of features", above(0))
    seed: int = option(0, "random seed of the weights", at_least(0))


@hookimpl
def bitrl_backbones() -> Iterator[BackboneRecord]:
    """The language model in five formats, mlp and random-projection."""
    for name, target, summary in (
        ("bitnet", "ternary", "a frozen ternary BitNet b1.58 language model, run by the C engine"),
        ("int8", "int8", "the frozen language model with 8-bit weights, one scale per row"),
        ("int4", "int4", "the frozen language model with 4-bit weights, one scale per 32 weights of a row"),
        ("bf16", "bf16", "the frozen language model with 16-bit floats (bfloat16)"),
        ("fp32", "fp32", "the frozen language model with 32-bit floats"),
    ):
        yield BackboneRecord(
            name=name,
            summary=summary,
            target=f"bitrl.plugins.backbones.language_model:{target}",
            options=TernaryOptions if name == "bitnet" else LanguageModelOptions,
            accepts=("text",),
            provides=("features", "gradients", "generation", "tokens", "cache"),
            needs_option={"gradients": "lora_rank"},
            feature_options=("pooling", "projection", "directions", "chunk"),
            chooser="bitrl.plugins.backbones.tools.readout:choose",
            memory=f"bitrl.plugins.backbones.tools.model_memory:{target}",
            aliases={"fp16": "computes in bfloat16"} if name == "bf16" else {},
        )
    yield BackboneRecord(
        name="mlp",
        summary="a trainable multi-layer perceptron on the state vector, without a language model",
        target="bitrl.plugins.backbones.mlp:MLP",
        options=MLPOptions,
        accepts=("vector",),
        provides=("gradients",),
    )
    yield BackboneRecord(
        name="random-projection",
        summary="frozen random features of the state vector: a control, without a language model",
        target="bitrl.plugins.backbones.random_projection:RandomProjection",
        options=RandomProjectionOptions,
        accepts=("vector",),
    )

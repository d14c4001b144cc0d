"""The model card: what a model was trained on, for how long, and what it can and cannot do, in figures the program
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from bitrl.plugins.backbones.pretraining.corpus import TextFile
from bitrl.plugins.backbones.pretraining.model import Shape
from bitrl.plugins.backbones.pretraining.probe import Reading
from bitrl.plugins.backbones.pretraining.train import SHARES, Plan, Progress


@attrs.frozen
class Training:
    """Everything the card tells."""

    command: str
    notes: Sequence[str]
    files: Sequence[TextFile]
    envs: Sequence[str]
    shape: Shape
    plan: Plan
    progress: Progress
    ternary_weights: int
    bits_per_byte: float | None
    readings: Sequence[Reading]
    versions: dict[str, str]


_CARD = """\
# {name}

A BitNet b1.58 language model: {shape.blocks} blocks of width {shape.width}, {shape.heads} query and {shape.kv_heads}
key/value heads of {shape.head_dim}, feed-forward width {shape.ffn}, {shape.vocab:,} tokens (byte-level BPE), context
{shape.context}; {t.ternary_weights:,} ternary weights. {size:,} bytes as GGUF (TQ2_0, embedding in float16).
This card was written by the command below, and its figures were measured on the finished file.

## How it was made

    {t.command}

{notes}{t.plan.steps:,} steps, {t.progress.tokens:,} tokens, {minutes:.1f} minutes ({rate:,.0f} tokens/s), seed
{t.plan.seed}; {versions}.

Quantisation-aware from the first step: ternary weights (absmean) and int8 activations (absmax) forward,
straight-through backward, float32 master weights. It was asked for the numbers of a text, read linearly from the
mean-pooled residual stream after every block from the second on and while the text builds up (by their place in the
field's range where the environment is known, at several scales elsewhere); for features that move little when the
numbers move little; and for the next token.
Last losses (running means): {losses}.

## What it was trained on

- {known:.0%} of the batches: states of {envs}, uniform in their bounds, near the centre and from a random policy,
  written by the json, compact and natural serializers
- {invented:.0%}: states of invented environments with random names, counts (1 to 20), scales, decimals and layouts
- {prose:.0%}: prose{sources}

## What comes through

{language}Mean R² of ridge regression (1e-3 of a feature's variance) from standardised, mean-pooled features to the
numbers of a state: 3,000 states to fit, 1,000 to test, uniform in the environment's bounds (unbounded ones within ±3),
or in a tenth of them around the centre. The last column is what `bitrl` uses unless told otherwise.

{table}

## What it can and cannot do

It is made to be read from, not to be talked to: its features (the mean of the residual stream over a text's tokens)
keep the numbers written in a short text, so that a small policy head can steer by them. It has seen single states of
up to 20 numbers each, with random field names, scales, decimals and layouts, and the environments named above in the
very words of the built-in serializers; those it reads best.

- It is a language model, but a tiny one: it predicts English text badly, knows no facts and follows no instructions.
- Numbers beyond the twentieth of a text, numbers above about 100 (only their order of magnitude was asked for),
  scientific notation, and differences smaller than about a hundredth of a field's range come through poorly.
- Texts of more than a few hundred tokens, languages other than English and program code are strange to it.
- R² is a linear reading by ridge regression; it says what is in the features, not that an agent will learn from them.

## Licence

MIT, as bitrl itself. The texts it was trained on are under their own licences.
"""


def write_card(training: Training, model: Path) -> str:
    """The card of `model`, as Markdown."""
    t = training
    sources = [
        f"  - `{file.name}`, {len(file.text):,} characters, SHA-256 of the file `{file.sha256}`" for file in t.files
    ]
    return _CARD.format(
        name=model.name,
        t=t,
        shape=t.shape,
        size=model.stat().st_size,
        notes="".join(f"- {note}\n" for note in t.notes) + ("\n" if t.notes else ""),
        minutes=t.progress.seconds / 60,
        rate=t.progress.tokens / max(t.progress.seconds, 1e-9),
        versions=", ".join(f"{name} {version}" for name, version in t.versions.items()),
        losses=", ".join(f"{name} {value:.3f}" for name, value in sorted(t.progress.means.items())),
        envs=", ".join(t.envs) or "no known environment",
        sources="\n".join([", from these files (not shipped):", *sources]) if sources else "; none was given",
        language=""
        if t.bits_per_byte is None
        else f"Prose it has not seen (the end of each text file): {t.bits_per_byte:.3f} bits per byte.\n\n",
        table=_table(t),
        **SHARES,
    )


def _table(training: Training) -> str:
    blocks = "".join(f" block {i + 1} |" for i in range(training.shape.blocks))
    lines = [
        f"| environment | serializer | tokens | states |{blocks}",
        "|---|---|---:|---|" + "---:|" * training.shape.blocks,
    ]
    for reading in training.readings:
        for part, scores in (("whole bounds", reading.whole), ("inner tenth", reading.near)):
            cells = "".join(f" {score:.4f} |" for score in scores)
            lines.append(f"| {reading.env} | {reading.format} | {reading.tokens:.1f} | {part} |{cells}")
    return "\n".join(lines)

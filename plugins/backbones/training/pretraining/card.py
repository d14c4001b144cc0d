"""The model card: what a model was trained on, for how long, and what it can and cannot do, in figures the program
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from bitrl.plugins.backbones.tools.probe import Reading
from bitrl.plugins.backbones.training.decoder import DecoderShape
from bitrl.plugins.backbones.training.pretraining.corpus import TextFile
from bitrl.plugins.backbones.training.pretraining.language import Judged
from bitrl.plugins.backbones.training.pretraining.train import PARTS, SHARES, PretrainingPlan, PretrainingProgress
from bitrl.plugins.backbones.training.pretraining.unseen import UNSEEN


@attrs.frozen
class Pretrained:
    """Everything the card reports."""

    command: str
    notes: Sequence[str]
    files: Sequence[TextFile]
    envs: Sequence[str]
    text_envs: Sequence[str]
    shape: DecoderShape
    plan: PretrainingPlan
    progress: PretrainingProgress
    weights: int
    bits_per_byte: float | None
    judged: Mapping[str, Judged]
    readings: Sequence[Reading]
    versions: dict[str, str]
    device: str


_CARD = """\
# {name}

{kind}: {shape.blocks} blocks of width {shape.width}, {shape.heads} query and {shape.kv_heads} key/value heads of
{shape.head_dim}, feed-forward width {shape.ffn}, {shape.vocab:,} tokens (byte-level BPE; a number is two tokens),
context {shape.context}; {t.weights:,} weights in the blocks. {size:,} bytes as GGUF ({stored}).
This card was written by the command below, and its figures were measured on the finished file.

## How it was made

    {t.command}

{notes}{steps} steps, {t.progress.tokens:,} tokens, {minutes:.1f} minutes ({rate:,.0f} tokens/s; {t.device}),
seed {t.plan.seed}, AdamW with a learning rate of {t.plan.learning_rate:g} decaying to 0; {versions}.

{trained}
Every step shows {parts} kinds of texts. The model is asked for the numbers of a state, read linearly, by their names,
from the mean-pooled residual stream after every block from the second on and while the text builds up (by their place
in the field's range and among the states that agents visit where the environment is known, at several scales
elsewhere); for features that move little when the numbers move little; in text environments for facts of the state,
for the admissible commands and those that a recipe asks for; and for the next token.

Running means of the losses:

{curve}

## What it was trained on

- {known:.0%} of the texts: states of {envs}: visited by a random policy and by one that learns for 100,000 steps,
  uniform in their bounds, and near the centre, written by the json, compact and natural serializers
- {invented:.0%}: states of invented environments with random names, counts (1 to 20), scales, decimals and layouts
- {text_envs:.0%}: states of {facts}, with the facts they hold{text_envs_missing}
- {choices:.0%}: states of {games}, with admissible and inadmissible commands{choices_missing}
- {prose:.0%}: prose{sources}

## How well state variables can be linearly decoded

{language}Mean R² of ridge regression (1e-3 of a feature's variance) from standardised, mean-pooled features to the
numbers of a state: 3,000 states to fit, 1,000 to test, uniform in the environment's bounds (unbounded ones within ±3),
or visited by a random policy in other episodes than those fitted to. Numbers that never vary are left out. The last
column is what `bitrl` uses unless told otherwise; `worst` is the number that is decoded worst there. {unseen} were held
out: none of their states, and no word of their fields' names, was in any training text.

{table}

## What it can and cannot do

It is made for features, not for conversation: they (the mean of the residual stream over a text's tokens)
keep the numbers written in a short text, so that a small policy head can act on them. It was trained on single states
of up to 20 numbers each, with random field names, scales, decimals and layouts, and the environments named above as the
built-in serializers write them; those it reads best.

- It is a language model, but a tiny one: it predicts English text badly, knows no facts and follows no instructions.
- Numbers beyond the twentieth of a text, numbers above about 1,000, scientific notation, and differences smaller than
  about a hundredth of a field's range are decoded poorly.
- Texts of more than a few hundred tokens, languages other than English and program code were not in its training data.
- R² is a linear reading by ridge regression; it says what is in the features, not that an agent will learn from them.

## Licence

MIT, as bitrl itself. The texts it was trained on are under their own licences.
"""

_TERNARY = """\
Quantisation-aware from the first step: ternary weights (absmean) and int8 activations (absmax) forward,
straight-through backward, float32 master weights.
"""

_TWIN = """\
The full-precision twin of a ternary model: the same architecture, tokenizer, texts, steps, seed and code, without the
quantisation of weights and activations.
"""


def write_card(training: Pretrained, model: Path) -> str:
    """The card of `model`, as Markdown."""
    t = training
    sources = [
        f"  - `{file.name}`, {len(file.text):,} characters, SHA-256 of the file `{file.sha256}`" for file in t.files
    ]
    ternary = t.shape.ternary
    texts = [env for env in t.text_envs if env != "TextWorld"]
    return _CARD.format(
        name=model.name,
        kind="A BitNet b1.58 language model" if ternary else "The full-precision twin of a BitNet b1.58 language model",
        stored="TQ2_0, embedding in float16" if ternary else "float16",
        trained=_TERNARY if ternary else _TWIN,
        t=t,
        shape=t.shape,
        size=model.stat().st_size,
        notes="".join(f"- {note}\n" for note in t.notes) + ("\n" if t.notes else ""),
        steps=f"{t.plan.steps:,}" if t.progress.step == t.plan.steps else f"{t.progress.step:,} of {t.plan.steps:,}",
        minutes=t.progress.seconds / 60,
        rate=t.progress.tokens / max(t.progress.seconds, 1e-9),
        versions=", ".join(f"{name} {version}" for name, version in t.versions.items()),
        parts=PARTS,
        curve=_curve(t.progress),
        envs=", ".join(t.envs) or "no known environment",
        facts=" and ".join(texts) or "text environments",
        text_envs_missing="" if texts else " (none was requested: invented ones instead)",
        games="TextWorld cooking games",
        choices_missing="" if "TextWorld" in t.text_envs else " (none was requested: invented ones instead)",
        sources="\n".join([", from these files (not shipped):", *sources]) if sources else "; none was given",
        language=_language(t),
        unseen=", ".join(UNSEEN),
        table=_table(t),
        **SHARES,
    )


def _language(t: Pretrained) -> str:
    prose = ""
    if t.bits_per_byte is not None:
        prose = f"Held-out prose (the end of each text file): {t.bits_per_byte:.3f} bits per byte.\n\n"
    lines = ["| from frozen features, on held-out states | accuracy | most frequent answer |", "|---|---:|---:|"]
    lines += [f"| {what} | {judged.accuracy:.3f} | {judged.chance:.3f} |" for what, judged in t.judged.items()]
    return prose + ("\n".join(lines) + "\n\n" if t.judged else "")


def _curve(progress: PretrainingProgress, rows: int = 13) -> str:
    """Some points of the loss curves, as a table."""
    names = sorted(progress.means)
    points = progress.curve[:: max(1, len(progress.curve) // rows)]
    points += progress.curve[-1:] if points[-1:] != progress.curve[-1:] else []
    lines = [f"| step | {' | '.join(names)} |", "|---:|" + "---:|" * len(names)]
    for point in points:
        cells = (f"{point[name]:.3f}" if name in point else "" for name in names)
        lines.append(f"| {int(point['step']):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(training: Pretrained) -> str:
    blocks = "".join(f" block {i + 1} |" for i in range(training.shape.blocks))
    lines = [
        f"| environment | serializer | tokens | states |{blocks} worst |",
        "|---|---|---:|---|" + "---:|" * training.shape.blocks + "---|",
    ]
    for r in training.readings:
        cells = "".join(f" {score.mean:.4f} |" for score in r.scores)
        worst = f"{r.scores[-1].worst} {min(r.scores[-1].fields.values()):.3f}" if r.scores else ""
        lines.append(f"| {r.env} | {r.serializer} | {r.tokens:.1f} | {r.states} |{cells} {worst} |")
    return "\n".join(lines)

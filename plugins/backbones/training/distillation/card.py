"""The model card of a distilled model: what it was made from, how, and what the program measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from bitrl.plugins.backbones.training.distillation.batches import SHARE_OF_STATES
from bitrl.plugins.backbones.training.distillation.measure import PROBED, Kept
from bitrl.plugins.backbones.training.distillation.student import TeacherShape
from bitrl.plugins.backbones.training.distillation.train import WEIGHTS, DistillationPlan, DistillationProgress
from bitrl.plugins.backbones.training.pretraining.corpus import TextFile


@attrs.frozen
class Distilled:
    """Everything the card reports."""

    command: str
    teacher: str
    teacher_sha256: str
    licence: str
    files: Sequence[TextFile]
    envs: Sequence[str]
    shape: TeacherShape
    plan: DistillationPlan
    progress: DistillationProgress
    ternary_weights: int
    kept: Sequence[Kept]
    versions: dict[str, str]


_CARD = """\
# {name}

The first {shape.blocks} of {shape.whole} blocks of `{d.teacher}` (SHA-256 `{d.teacher_sha256}`) with ternary weights:
width {shape.width}, {shape.heads} query and {shape.kv_heads} key/value heads of {shape.head_dim}, feed-forward width
{shape.ffn}, SiLU, a norm before each output projection (sub-norms); {d.ternary_weights:,} ternary weights. The
embedding, the output norm and the tokenizer are the teacher's. {size:,} bytes as GGUF.
This card was written by the command below, and its figures were measured on the finished file.

## How it was made

    {d.command}

{d.plan.steps:,} steps, {d.progress.tokens:,} tokens, {minutes:.1f} minutes ({rate:,.0f} tokens/s), seed
{d.plan.seed}; {versions}.

After BitDistill (arXiv 2510.13998): it starts from the teacher's weights and is trained with ternary weights (absmean)
and int8 activations (absmax) forward, straight-through backward. {phases}
Losses: {weights}.

- hidden: the share of the variance of the teacher's residual stream that is missed, mean over channels and blocks
- relations: KL divergence of softmax(A·Aᵀ/√d), A the queries, keys and values of the last block
- numbers: ½ log of the error with which a linear readout finds the numbers of a state in the mean of its states
- tokens, logits: next token, and KL divergence to the teacher's logits at temperature {d.plan.temperature:g}; only
  where all blocks are kept

Running means of the losses:

{history}

## What it was trained on

{sources}

## How well state variables can be linearly decoded

{kept}

## Licence

{licence}
"""

_KEPT = """\
Mean R² of ridge regression from standardised, mean-pooled features to the numbers of a state written as JSON, over
{probed:,} states of each kind, a quarter of them for testing: uniform in their bounds, or visited by a random policy.
The teacher in full precision, the teacher rounded to ternary weights without training, and the student:

"""


def write_card(distilled: Distilled, model: Path) -> str:
    """The card of `model`, as Markdown."""
    d, plan = distilled, distilled.plan
    phases = ""
    if plan.pretraining_steps:
        phases = f"The first {plan.pretraining_steps:,} steps trained on the next token alone."
    states = f"states of {', '.join(d.envs)}, by the json, compact and natural serializers"
    sources = [f"- {SHARE_OF_STATES if d.files else 1:.0%} of the batches: {states}"] if d.envs else []
    sources += [
        f"- `{file.name}`, {len(file.text):,} characters, SHA-256 of the file `{file.sha256}`" for file in d.files
    ]
    licence = (
        f"Its weights come from its teacher's, whose licence holds: {d.licence}."
        if d.licence
        else ("Its weights come from its teacher's, whose licence holds; the teacher's file does not name it.")
    )
    return _CARD.format(
        name=model.name, d=d, shape=d.shape, size=model.stat().st_size, phases=phases, licence=licence,
        minutes=d.progress.seconds / 60, rate=d.progress.tokens / max(d.progress.seconds, 1e-9),
        versions=", ".join(f"{name} {version}" for name, version in d.versions.items()),
        weights=", ".join(f"{WEIGHTS[name]:g} × {name}" for name in d.progress.means),
        history=_history(d.progress), sources="\n".join(sources),
        kept=_KEPT.format(probed=PROBED) + _kept(d.kept) if d.kept else "Not measured: there were no environments.",
    )  # fmt: skip


def _history(progress: DistillationProgress) -> str:
    names = list(progress.means)
    rows = [f"| {step:,} |" + "".join(f" {means[n]:.4f} |" if n in means else " |" for n in names)
            for step, means in progress.history]  # fmt: skip
    return "\n".join([f"| step | {' | '.join(names)} |", "|---:|" + "---:|" * len(names), *rows])


def _kept(kept: Sequence[Kept]) -> str:
    rows = [f"| {k.env} | {k.states} | {k.block} | {k.teacher:.4f} | {k.rounded:.4f} | {k.student:.4f} |" for k in kept]
    head = ["| environment | states | block | teacher | rounded | student |", "|---|---|---:|---:|---:|---:|"]
    return "\n".join([*head, *rows])

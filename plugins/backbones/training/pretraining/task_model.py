"""A small language model that begins to solve tasks: taught a little by right completions, so that there is more to
learn by reinforcement learning. Tasks in, model file and card out: `bitrl model train --tasks`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bitrl.core.environments.prompt_task import PromptTask
from bitrl.core.errors import RunFailed
from bitrl.core.files import write_atomically
from bitrl.plugins.backbones.training.decoder import DecoderShape
from bitrl.plugins.backbones.training.pretraining.export import write_gguf
from bitrl.plugins.backbones.training.pretraining.number_decoder import NumberDecoder
from bitrl.plugins.backbones.training.pretraining.start import start
from bitrl.plugins.backbones.training.pretraining.task_texts import TaskTexts, load_tasks, task_vocabulary
from bitrl.plugins.backbones.training.pretraining.train import PretrainingProgress, keep_memory

LEARNING_RATE, WARMUP, WEIGHT_DECAY, CLIP = 3e-3, 50, 0.05, 1.0
JUDGED = 200
"""Held-out prompts of each task that the finished file is judged by."""

MOST_TOKENS = 24


@attrs.frozen(kw_only=True)
class TaskRequest:
    """What the user asked for."""

    out: Path
    tasks: Sequence[str]
    steps: int
    seed: int
    shape: DecoderShape
    tokens_per_batch: int
    command: str
    notes: Sequence[str] = ()


@attrs.frozen
class Solved:
    """Of held-out prompts: mean reward, and share of right completions, sampled at temperature 1 and greedy."""

    reward: float
    sampled: float
    greedy: float


@attrs.frozen
class TaskModel:
    """What was made, and how well it solves each task."""

    request: TaskRequest
    shape: DecoderShape
    weights: int
    progress: PretrainingProgress
    solved: Mapping[str, Solved]


def train_task_model(
    request: TaskRequest, say: Callable[[str], None], report: Callable[[PretrainingProgress, int], None]
) -> TaskModel:
    """Teach a new model, write its file and card, and measure what was written.

    Args:
        request: what to make.
        say: called with what comes next.
        report: called with how far training is, and its steps.

    Raises:
        UsageError: the request is invalid. RunFailed: training or writing failed.
    """
    tasks = load_tasks(request.tasks)
    vocabulary = task_vocabulary(tasks, request.seed)
    shape = attrs.evolve(request.shape, vocab=len(vocabulary.tokens), activation="silu")
    texts = TaskTexts(tasks, vocabulary.tokenizer(), request.tokens_per_batch)
    say(f"teaching {len(tasks)} tasks for {request.steps:,} steps")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        model = NumberDecoder(shape)
        start(model)
    progress = teach(model, texts, request.steps, request.seed, lambda done: report(done, request.steps))
    kind = "BitNet b1.58" if shape.ternary else "full-precision twin of a BitNet b1.58"
    facts = {
        "name": request.out.stem,
        "description": f"{kind} taught tasks by bitrl: {request.steps} steps, seed {request.seed}",
        "license": "MIT",
    }
    write_gguf(request.out, model, vocabulary, facts)
    say("measuring")
    backbone = "bitnet" if shape.ternary else "bf16"
    solved = {task.id: judged(request.out, backbone, task, request.seed) for task in tasks}
    weights = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and not name.endswith("_embd"))
    made = TaskModel(request, shape, weights, progress, solved)
    write_atomically(request.out.with_suffix(".md"), write_task_card(made))
    return made


def teach(
    model: NumberDecoder, texts: TaskTexts, steps: int, seed: int, report: Callable[[PretrainingProgress], None]
) -> PretrainingProgress:
    """Train `model` to predict completions. Batches depend on seed and step alone.

    Raises:
        RunFailed: a loss is not a number.
    """
    keep_memory()
    matrices, rest = ([p for p in model.parameters() if (p.dim() == 2) == two] for two in (True, False))
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    progress, started = PretrainingProgress(), time.perf_counter()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / WARMUP, 1.0) * (1 - step / steps)
        batch = texts.batch(np.random.default_rng([seed, step]))
        *_, [residual] = model.residuals(batch.tokens)
        logits = model.logits(residual[:, :-1][batch.learned])
        loss = F.cross_entropy(logits, batch.tokens[:, 1:][batch.learned])
        if not torch.isfinite(loss):
            raise RunFailed(f"training: a loss is {loss.item()} at step {step}: try another --seed")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        progress.step, progress.tokens = step + 1, progress.tokens + batch.tokens.numel()
        progress.seconds = time.perf_counter() - started
        progress.note("completions", loss.item())
        report(progress)
    return progress


def judged(model: Path, backbone: str, task: PromptTask, seed: int) -> Solved:
    """How well a model file solves held-out prompts of a task, as it generates in the engine."""
    from bitrl.core.acting.loading import load_backbone

    policy = load_backbone(backbone, model=str(model)).language_policy()  # type: ignore[attr-defined]
    random = np.random.default_rng([seed, 1])
    drawn = [task.draw(random, held_out=True) for _ in range(JUDGED)]
    scores = []
    for temperature in (1.0, 0.0):
        made = policy.generate([prompt for prompt, _ in drawn], MOST_TOKENS, temperature=temperature, seed=seed)
        scores.append([task.reward(answer, each.text)[0] for (_, answer), each in zip(drawn, made, strict=True)])
    sampled, greedy = np.array(scores)
    return Solved(float(sampled.mean()), float((sampled >= 1).mean()), float((greedy >= 1).mean()))


_CARD = """\
# {name}

{kind}: {shape.blocks} blocks of width {shape.width}, {shape.heads} query and {shape.kv_heads} key/value heads of
{shape.head_dim}, feed-forward width {shape.ffn} (SiLU), {shape.vocab} tokens (bytes, the words that the prompts of a
task share, and an end token), context {shape.context}; {weights:,} weights in the blocks. {size:,} bytes as GGUF
({stored}). This card was written by the command below, and its figures were measured on the finished file.

## How it was made

    {command}

{notes}{steps:,} steps, {tokens:,} tokens, {minutes:.1f} minutes, seed {seed}, AdamW with a learning rate of {rate:g}
decaying to 0. {trained}

It was taught right completions of training prompts of {tasks}, and nothing else, and stopped long before it knew them:
it is where reinforcement learning begins.

## What it solves

{judged} held-out prompts of each task: mean reward (a part for what is partly right), and share of right completions.

| task | reward, sampled | right, sampled at temperature 1 | right, greedy |
|---|---:|---:|---:|
{table}

It can do nothing else: it knows no English, and reads no other prompt.

## Licence

MIT, as bitrl itself.
"""

_TERNARY = "Ternary weights (absmean) and int8 activations (absmax) forward, straight-through backward."
_TWIN = "In float32, without the quantisation of weights and activations."


def write_task_card(made: TaskModel) -> str:
    """The card of a model, as Markdown."""
    request, shape = made.request, made.shape
    rows = [f"| {name} | {s.reward:.3f} | {s.sampled:.3f} | {s.greedy:.3f} |" for name, s in made.solved.items()]
    return _CARD.format(
        name=request.out.name,
        kind="A BitNet b1.58 language model" if shape.ternary else "The full-precision twin of a BitNet b1.58 model",
        stored="TQ2_0, embedding in float16" if shape.ternary else "float16",
        trained=_TERNARY if shape.ternary else _TWIN,
        shape=shape,
        weights=made.weights,
        size=request.out.stat().st_size,
        command=request.command,
        notes="".join(f"- {note}\n" for note in request.notes) + ("\n" if request.notes else ""),
        steps=made.progress.step,
        tokens=made.progress.tokens,
        minutes=made.progress.seconds / 60,
        seed=request.seed,
        rate=LEARNING_RATE,
        tasks=", ".join(request.tasks),
        judged=JUDGED,
        table="\n".join(rows),
    )

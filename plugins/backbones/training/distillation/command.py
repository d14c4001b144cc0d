"""A teacher in, model file and card out: the whole of `bitrl model distill`, without the command line."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import torch

from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically
from bitrl.plugins.backbones import catalogue
from bitrl.plugins.backbones.engine.engine import open_model
from bitrl.plugins.backbones.files.first_token import first_tokens
from bitrl.plugins.backbones.files.model_file import ModelFileError
from bitrl.plugins.backbones.files.tokenizer import tokenizer_of
from bitrl.plugins.backbones.training.distillation import memory
from bitrl.plugins.backbones.training.distillation.batches import LENGTHS, Batches
from bitrl.plugins.backbones.training.distillation.card import Distilled, write_card
from bitrl.plugins.backbones.training.distillation.export import write_gguf
from bitrl.plugins.backbones.training.distillation.measure import Kept, kept_numbers
from bitrl.plugins.backbones.training.distillation.student import read_shape, read_teacher
from bitrl.plugins.backbones.training.distillation.train import DistillationPlan, DistillationProgress, Distiller
from bitrl.plugins.backbones.training.pretraining.corpus import read_text
from bitrl.plugins.backbones.training.pretraining.device import device_of
from bitrl.plugins.backbones.training.pretraining.texts import FORMATS, known


@attrs.frozen(kw_only=True)
class DistillationRequest:
    """What the user asked for; `layers` None keeps all blocks."""

    teacher: str  # what `-o backbone.model` takes
    out: Path
    layers: int | None
    text: Sequence[Path]
    envs: Sequence[str]
    plan: DistillationPlan
    tokens_per_batch: int
    device: str
    resume: bool
    command: str


def distill(
    request: DistillationRequest,
    say: Callable[[str], None],
    report: Callable[[DistillationProgress, int], None],
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Distilled:
    """Distil, write the model file and its card, and measure what was written.

    Args:
        request: what to make.
        say: called with what comes next.
        report: called with how far training is, and its steps.
        tell: called with what else is under way, and how much is done of how much.

    Raises:
        UsageError: something asked for cannot be, or does not fit into memory. RunFailed: training or writing failed.
    """
    if not request.text and not request.envs:
        raise UsageError("nothing to train on: give --text, --envs or both")
    device, plan = device_of(request.device), request.plan
    path, hints = catalogue.resolve(request.teacher), catalogue.hints(request.teacher)
    file = open_model(path, **hints)
    file.verify()
    shape = read_shape(file, request.layers)
    if plan.pretraining_steps and not shape.is_whole:
        raise UsageError(
            f"--pretraining-steps: the output head reads the last of {shape.whole} blocks, and {shape.blocks} are "
            "kept: leave --layers out, or these steps"
        )
    memory.check(shape, request.tokens_per_batch, max(LENGTHS), bool(request.envs), device)
    tokenizer = tokenizer_of(file)
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if tokens > shape.vocab:
        raise ModelFileError(file.path, f"has {tokens} tokens but embeds only {shape.vocab} of them")
    prefix = first_tokens(file.metadata(), shape.vocab, file.path)
    files = [read_text(path) for path in request.text]
    readers = [reader for env in request.envs for reader in known(env, FORMATS, plan.seed)]
    say("reading the texts")
    batches = Batches(files, readers, tokenizer, prefix, request.tokens_per_batch, plan.seed)
    say("reading the teacher")
    teacher = read_teacher(file, shape)
    # Everything that decides the result, so that a checkpoint is only ever continued by its own command.
    texts = [each.sha256 for each in files]
    teacher_sha256 = file.sha256()
    fingerprint = repr(
        (file.seal() or teacher_sha256, shape, plan, list(request.envs), texts, request.tokens_per_batch, device.type)
    )
    trainer = Distiller(teacher, batches, plan, fingerprint, device)
    checkpoint = request.out.with_name(request.out.name + ".checkpoint")
    if request.resume:
        trainer.load(checkpoint)
    say(f"distilling {sum(p.numel() for p in trainer.student.parameters()):,} weights in {plan.steps:,} steps")
    trainer.run(checkpoint, lambda progress: report(progress, plan.steps))
    named = file.metadata().get("general.license")
    licence = named if isinstance(named, str) else ""
    facts = {
        "name": request.out.stem,
        "description": f"the first {shape.blocks} blocks of {path.name} with ternary weights, by bitrl",
        **({"license": licence} if licence else {}),
    }
    write_gguf(request.out, trainer.student, file, facts)
    say("measuring")
    kept: list[Kept] = []
    if readers:  # of the first environment alone, as JSON: each probe takes as long as many steps
        threads = {"threads": torch.get_num_threads()}
        kept = kept_numbers(request.envs[0], request.teacher, request.out, shape.blocks, threads, tell)
    packages = ("torch", "tokenizers", "gymnasium", "numpy")
    distilled = Distilled(
        command=request.command,
        teacher=path.name,
        teacher_sha256=teacher_sha256,
        licence=licence,
        files=files,
        envs=request.envs,
        shape=shape,
        plan=plan,
        progress=trainer.progress,
        ternary_weights=sum(p.numel() for p in trainer.student.parameters() if p.dim() == 2),
        kept=kept,
        versions={"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
    )
    write_atomically(request.out.with_suffix(".md"), write_card(distilled, request.out))
    checkpoint.unlink(missing_ok=True)
    return distilled

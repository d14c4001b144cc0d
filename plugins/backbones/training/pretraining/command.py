"""Text files in, model file and card out: the whole of `bitrl model train`, without the command line."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch

from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically
from bitrl.plugins.backbones.training.decoder import Decoder, DecoderShape
from bitrl.plugins.backbones.training.pretraining.card import Pretrained, write_card
from bitrl.plugins.backbones.training.pretraining.corpus import Corpus, TextFile, read_text
from bitrl.plugins.backbones.training.pretraining.device import device_of, name_of
from bitrl.plugins.backbones.training.pretraining.environment_texts import (
    CommandTexts,
    check_text_environments,
    choices,
    facts_and_numbers,
    sayings,
)
from bitrl.plugins.backbones.training.pretraining.export import read_gguf, write_gguf
from bitrl.plugins.backbones.training.pretraining.language import GAMES_SEEN, STATES_A_GAME
from bitrl.plugins.backbones.training.pretraining.measure import judged, readings
from bitrl.plugins.backbones.training.pretraining.texts import FORMATS, Known, Texts, invented, known
from bitrl.plugins.backbones.training.pretraining.train import PARTS, Pretrainer, PretrainingPlan, PretrainingProgress
from bitrl.plugins.backbones.training.pretraining.vocabulary import (
    Vocabulary,
    from_its_first_number,
    number_features,
    number_tokens,
    train_vocabulary,
)

HELD_OUT = 50_000
"""Characters at the end of each text file kept for measuring (at most a tenth of it)."""

LEARNING_STEPS = 100_000
"""How long a policy learns in each environment to show the states of agents that know more and more."""

TEXT_ENVIRONMENT_STATES = 24_000
"""States of each text environment but TextWorld."""


@attrs.frozen(kw_only=True)
class PretrainingRequest:
    """What the user asked for. Exactly one of `steps` and `minutes` is set."""

    out: Path
    text: Sequence[Path] = ()
    envs: Sequence[str]
    text_envs: Sequence[str] = ()
    steps: int | None
    minutes: float | None
    seed: int
    device: str
    shape: DecoderShape
    tokens_per_batch: int
    resume: bool
    command: str
    notes: Sequence[str] = ()


def train_model(
    request: PretrainingRequest,
    say: Callable[[str], None],
    report: Callable[[PretrainingProgress, int], None],
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Pretrained:
    """Train, write the model file and its card, and measure what was written.

    Args:
        request: what to make.
        say: called with what comes next.
        report: called with how far training is, and its steps.
        tell: called with what else is under way, and how much is done of how much.

    Raises:
        UsageError: the request is invalid. RunFailed: training or writing failed.
    """
    check_text_environments(request.text_envs)
    device = device_of(request.device)
    files = [read_text(path) for path in request.text]
    say("collecting states")
    readers = []
    for done, env in enumerate(request.envs):
        tell(f"collecting states: {env}", done, len(request.envs))
        readers += known(env, FORMATS, request.seed, LEARNING_STEPS)
    tell("collecting states", len(request.envs), len(request.envs))
    env_texts = [
        facts_and_numbers(name, TEXT_ENVIRONMENT_STATES, request.seed)
        for name in request.text_envs
        if name != "TextWorld"
    ]
    games = choices(GAMES_SEEN, STATES_A_GAME, request.seed) if "TextWorld" in request.text_envs else None
    kept = [attrs.evolve(file, text=file.text[: len(file.text) - _held_out(file)]) for file in files]
    say("training the vocabulary")
    vocabulary = vocabulary_for(
        kept, readers, request.shape.vocab, request.seed, env_texts, games, sayings(request.text_envs, games)
    )
    shape = attrs.evolve(request.shape, vocab=len(vocabulary.tokens))
    tokenizer = vocabulary.tokenizer()
    corpus = Corpus(kept, readers, tokenizer, request.tokens_per_batch // PARTS, shape.context, env_texts, games)
    steps = request.steps or _steps_in(request.minutes or 1.0, shape, corpus, request.seed, device)
    plan = PretrainingPlan(steps=steps, seed=request.seed)
    # Everything that decides the result, so that a checkpoint is only ever continued by its own command. Not
    # `minutes`: they became steps, and may become others when the machine is busier.
    texts = [file.sha256 for file in files]
    fingerprint = repr(
        (shape, plan, list(request.envs), list(request.text_envs), texts, request.tokens_per_batch, device.type)
    )
    trainer = Pretrainer(shape, plan, fingerprint, number_features(vocabulary.tokens), device)
    checkpoint = request.out.with_name(request.out.name + ".checkpoint")
    if request.resume:
        trainer.load(checkpoint)
    say(f"training {sum(p.numel() for p in trainer.model.parameters()):,} weights for {plan.steps:,} steps")
    trainer.run(corpus, checkpoint, lambda progress: report(progress, plan.steps))
    kind = "BitNet b1.58" if shape.ternary else "full-precision twin of a BitNet b1.58"
    facts = {
        "name": request.out.stem,
        "description": f"{kind} language model trained by bitrl: {plan.steps} steps, seed {plan.seed}",
        "license": "MIT",
    }
    write_gguf(request.out, trainer.model.cpu(), vocabulary, facts)
    say("measuring")
    training = _measure(request, plan, trainer.progress, files, name_of(device), tell)
    write_atomically(request.out.with_suffix(".md"), write_card(training, request.out))
    checkpoint.unlink(missing_ok=True)
    return training


def vocabulary_for(
    files: Sequence[TextFile],
    readers: Sequence[Known],
    size: int,
    seed: int,
    env_texts: Sequence[Texts] = (),
    games: CommandTexts | None = None,
    sayings: Sequence[str] = (),
) -> Vocabulary:
    """A vocabulary of at most `size` tokens for these texts, environments, text environments and their sayings."""
    rng = np.random.default_rng(seed)
    states = [text for reader in readers for text in reader.sample(rng, 400).texts]
    # The words of a request, which stand before an environment's numbers, vary; those between them do not.
    states += [
        from_its_first_number(text)
        for each in env_texts
        if each.plain
        for text in each.texts[:: max(1, len(each.texts) // 600)]
    ]
    # A few megabytes of prose are enough to count pairs of letters by. The text environments have few words and repeat
    # them.
    passages = [file.text[i : i + 5000] for file in files for i in range(0, min(len(file.text), 4_000_000), 5000)]
    passages += [text for each in env_texts for text in each.texts[:4000]] + (games.texts[::4] if games else [])
    return train_vocabulary([*passages, *invented(rng, 400, 2).texts], states, size, sayings)


def _held_out(file: TextFile) -> int:
    return min(HELD_OUT, len(file.text) // 10)


def _steps_in(minutes: float, shape: DecoderShape, corpus: Corpus, seed: int, device: torch.device) -> int:
    """How many steps fit, tried on a throwaway model: the learning rate must know the end before it begins."""
    trial = Pretrainer(shape, PretrainingPlan(steps=12, seed=seed), "", device=device)
    seconds: list[float] = []
    trial.run(corpus, None, lambda progress: seconds.append(progress.seconds))
    return max(1, round(minutes * 60 / ((seconds[-1] - seconds[1]) / 10)))  # the first two steps are slow


def _measure(
    request: PretrainingRequest,
    plan: PretrainingPlan,
    progress: PretrainingProgress,
    files: Sequence[TextFile],
    device: str,
    tell: Callable[[str, int, int], None],
) -> Pretrained:
    model, tokenizer = read_gguf(request.out)
    # Everything is read as an agent will read it: from the file, by the engine.
    backbone = "bitnet" if request.shape.ternary else "bf16"
    unseen = "".join(file.text[len(file.text) - _held_out(file) :] for file in files)
    packages = ["torch", "tokenizers", "gymnasium", "numpy"]
    packages += ["minigrid"] if "BabyAI" in request.text_envs else []
    packages += ["textworld"] if "TextWorld" in request.text_envs else []
    return Pretrained(
        command=request.command,
        notes=request.notes,
        files=files,
        envs=request.envs,
        text_envs=request.text_envs,
        shape=model.shape,
        device=device,
        plan=plan,
        progress=progress,
        weights=sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and not name.endswith("_embd")),
        bits_per_byte=bits_per_byte(model, tokenizer.encode(unseen).ids, len(unseen.encode()))
        if len(unseen) > 100
        else None,
        judged=judged(backbone, request.out, request.text_envs, tell),
        readings=readings(backbone, request.out, request.envs, tell=tell),
        versions={"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
    )


@torch.no_grad()
def bits_per_byte(model: Decoder, ids: list[int], size: int, window: int = 128) -> float:
    """Bits per byte of prose of `size` bytes, predicted in windows that each start from nothing."""
    window = min(window, len(ids))
    whole = len(ids) // window * window
    nats = 0.0
    for rows in torch.tensor(ids[:whole]).view(-1, window).split(32):
        *_, [last] = model.residuals(rows)
        logits = model.logits(last[:, :-1]).flatten(0, 1)
        nats += torch.nn.functional.cross_entropy(logits, rows[:, 1:].flatten(), reduction="sum").item()
    predicted = whole - whole // window
    return nats / math.log(2) / (size * predicted / len(ids))


def check_shape(shape: DecoderShape) -> None:
    """Whether a model of this shape can be trained and written.

    Raises:
        UsageError: it cannot; the message says which number to change.
    """
    if shape.width % 256 or shape.ffn % 256:
        raise UsageError(f"--width {shape.width}, --ffn {shape.ffn}: expected multiples of 256")
    least = 256 + len(number_tokens())
    if shape.vocab < least:
        raise UsageError(f"--vocab {shape.vocab}: expected at least {least:,}, for the bytes and the pieces of numbers")

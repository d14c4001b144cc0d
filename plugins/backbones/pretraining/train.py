"""The training loop: steps, learning rate, checkpoints. One seed, one command, one machine: one file."""

from __future__ import annotations

import contextlib
import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.files import write_atomically
from bitrl.plugins.backbones.pretraining.corpus import Batch, Corpus
from bitrl.plugins.backbones.pretraining.model import BitNet, Shape
from bitrl.plugins.backbones.pretraining.objective import WEIGHTS, Questions, Readout, losses
from bitrl.plugins.backbones.pretraining.start import start

SHARES = {"known": 0.42, "invented": 0.22, "prose": 0.04, "worlds": 0.14, "choices": 0.18}
"""How often a step's batch is of which kind."""


@attrs.frozen
class Plan:
    """How to train."""

    steps: int
    seed: int = 0
    learning_rate: float = 1e-3
    readouts_rate: float = 2.5e-3
    warmup: int = 50
    model_warmup: int = 500
    weight_decay: float = 0.05
    clip: float = 1.0
    checkpoint_every: int = 200


@attrs.define
class Progress:
    """What has happened so far: steps, tokens, seconds, a running mean of each loss, and those means at every
    fiftieth of the way, each with its step.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    means: dict[str, float] = attrs.field(factory=dict)
    curve: list[dict[str, float]] = attrs.field(factory=list)

    def note(self, name: str, value: float) -> None:
        """Take one loss into its running mean."""
        self.means[name] = value if name not in self.means else 0.98 * self.means[name] + 0.02 * value


def keep_memory() -> None:
    """Ask the C library to keep freed memory: handing large tensors back and faulting them in again costs a third
    of the time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def give_memory_back() -> None:
    """Batches differ in shape, so what is kept grows with holes: now and then it is handed back."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


CURVE = 50
"""Points of a loss curve."""

PARTS = 6
"""Kinds of texts in a step: with one at a time, each step would undo some of what the one before it has learned."""


def batches_of(corpus: Corpus, seed: int, step: int) -> list[Batch]:
    """The batches of one step. They depend on the seed and the step alone, so resuming needs no random state."""
    rng = np.random.default_rng([seed, step])
    return [_batch_of(corpus, rng) for _ in range(PARTS)]


def _batch_of(corpus: Corpus, rng: np.random.Generator) -> Batch:
    kind = rng.choice(list(SHARES), p=list(SHARES.values()))
    if kind == "prose" and len(corpus.prose):
        return corpus.prose_batch(rng)
    if kind == "worlds" and corpus.worlds:
        return corpus.world_batch(rng)
    if kind == "choices" and corpus.choices is not None:
        return corpus.choice_batch(rng)
    if kind == "known" and corpus.known:
        return corpus.known_batch(rng)
    return corpus.invented_batch(rng)


class Trainer:
    """A model, its readouts and its optimiser."""

    def __init__(self, shape: Shape, plan: Plan, fingerprint: str, number_features: np.ndarray | None = None):
        keep_memory()
        self.plan, self.fingerprint = plan, fingerprint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self.model = BitNet(shape, None if number_features is None else torch.from_numpy(number_features))
            start(self.model)
            supervised = max(1, shape.blocks - 1)
            self.readouts = nn.ModuleList(Readout(shape.width) for _ in range(supervised))
            self.questions = nn.ModuleList(Questions(shape.width) for _ in range(supervised))
        everything = nn.ModuleDict({"model": self.model, "readouts": self.readouts, "questions": self.questions})
        self.named = dict(everything.named_parameters())
        mine = list(self.model.parameters())
        decayed = [p for p in mine if p.dim() == 2]
        rest = [p for p in mine if p.dim() != 2]
        readers = [*self.readouts.parameters(), *self.questions.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": plan.weight_decay},
                {"params": rest, "weight_decay": 0.0},
                {"params": readers, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98), fused=True,
        )  # fmt: skip
        self.progress = Progress()

    def learning_rates(self) -> tuple[float, float, float]:
        """Of the matrices, the norms and the readings: linear up, then linear down to nothing, for ternary weights
        settle only when the steps become small.

        The model warms up ten times slower than its readings: while those know nothing yet, what they ask of the
        features would only undo what these already hold (as fine-tuning does to pretrained features before a head is
        trained, Kumar et al. 2022, arXiv:2202.10054).
        """
        step, plan = self.progress.step, self.plan
        left = 1 - step / plan.steps
        model = plan.learning_rate * min((step + 1) / plan.model_warmup, 1.0) * left
        return model, model, plan.readouts_rate * min((step + 1) / plan.warmup, 1.0) * left

    def step(self, corpus: Corpus) -> None:
        """One optimiser step.

        Raises:
            RunFailed: a loss is not a number.
        """
        started = time.perf_counter()
        for group, rate in zip(self.optimiser.param_groups, self.learning_rates(), strict=True):
            group["lr"] = rate
        batches = batches_of(corpus, self.plan.seed, self.progress.step)
        parts = losses(self.model, self.readouts, self.questions, batches)
        total = torch.stack([WEIGHTS[name] * loss for part in parts for name, loss in part.items()]).sum() / len(parts)
        if not torch.isfinite(total):
            raise RunFailed(f"training: a loss is {total.item()} at step {self.progress.step}: try another --seed")
        total.backward()
        self.progress.tokens += sum(int(batch.lengths.sum()) for batch in batches)
        for part in parts:
            for name, loss in part.items():
                self.progress.note(name, loss.item())
        nn.utils.clip_grad_norm_(self.named.values(), self.plan.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.progress.step += 1
        if self.progress.step * CURVE // self.plan.steps > (self.progress.step - 1) * CURVE // self.plan.steps:
            self.progress.curve.append({"step": self.progress.step, **self.progress.means})
        self.progress.seconds += time.perf_counter() - started

    def run(self, corpus: Corpus, checkpoint: Path | None, report: Callable[[Progress], None]) -> None:
        """Train to the end of the plan, with a checkpoint now and then."""
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")  # faster, and the ternary products stay exact: see model.py
        try:
            while self.progress.step < self.plan.steps:
                self.step(corpus)
                report(self.progress)
                if self.progress.step % 100 == 0:
                    give_memory_back()
                if checkpoint is not None and self.progress.step % self.plan.checkpoint_every == 0:
                    self.save(checkpoint)
        finally:
            torch.set_float32_matmul_precision(precision)

    def save(self, path: Path) -> None:
        """Write everything needed to go on."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            tensors[name] = parameter.detach()
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"{name}/{key}"] = value
        metadata = {"fingerprint": self.fingerprint, "progress": json.dumps(attrs.asdict(self.progress))}
        write_atomically(path, save(tensors, metadata=metadata))

    def load(self, path: Path) -> None:
        """Go on where a checkpoint stopped.

        Raises:
            UsageError: there is none, it is damaged, or it belongs to another command.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise UsageError(f"--resume: there is no checkpoint {path}: leave --resume out to start anew") from None
        except (OSError, SafetensorError) as error:
            raise UsageError(f"--resume: {path} is damaged ({error}): delete it and leave --resume out") from None
        if metadata.get("fingerprint") != self.fingerprint:
            raise UsageError(f"--resume: {path} comes from another command: repeat that one, or leave --resume out")
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(tensors[name])
                keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in tensors]
                self.optimiser.state[parameter] = {key: tensors[f"{name}/{key}"].clone() for key in keys}
        self.progress = Progress(**json.loads(metadata["progress"]))

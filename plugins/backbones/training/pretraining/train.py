"""The training loop: steps, learning rate, checkpoints. One seed, one command, one machine: one file."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bitrl.core.cpus import available_cpus
from bitrl.core.errors import RunFailed
from bitrl.plugins.algos.short_products import short_products
from bitrl.plugins.backbones.training.decoder import DecoderShape
from bitrl.plugins.backbones.training.pretraining import checkpoint
from bitrl.plugins.backbones.training.pretraining.corpus import Corpus, TokenBatch
from bitrl.plugins.backbones.training.pretraining.device import CPU, moved
from bitrl.plugins.backbones.training.pretraining.number_decoder import NumberDecoder
from bitrl.plugins.backbones.training.pretraining.objective import WEIGHTS, Questions, Readout, losses
from bitrl.plugins.backbones.training.pretraining.start import start

SHARES = {"known": 0.36, "invented": 0.28, "prose": 0.06, "text_envs": 0.12, "choices": 0.18}
"""How often a step's batch is of which kind."""


@attrs.frozen
class PretrainingPlan:
    """How to train."""

    steps: int
    seed: int = 0
    learning_rate: float = 1.5e-3
    readouts_rate: float = 2.5e-3
    warmup: int = 50
    model_warmup: int = 500
    weight_decay: float = 0.05
    clip: float = 1.0
    checkpoint_every: int = 200


@attrs.define
class PretrainingProgress:
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


def batches_of(corpus: Corpus, seed: int, step: int) -> list[TokenBatch]:
    """The batches of one step. They depend on the seed and the step alone, so resuming needs no random state."""
    rng = np.random.default_rng([seed, step])
    return [_batch_of(corpus, rng) for _ in range(PARTS)]


def _batch_of(corpus: Corpus, rng: np.random.Generator) -> TokenBatch:
    kind = rng.choice(list(SHARES), p=list(SHARES.values()))
    if kind == "prose" and len(corpus.prose) > 1:  # there is a next token to predict
        return corpus.prose_batch(rng)
    if kind == "text_envs" and corpus.env_texts:
        return corpus.environment_batch(rng)
    if kind == "choices" and corpus.choices is not None:
        return corpus.choice_batch(rng)
    if kind == "known" and corpus.known:
        return corpus.known_batch(rng)
    return corpus.invented_batch(rng)


@attrs.frozen
class Steps(Dataset[list[TokenBatch]]):
    """The batches of each step."""

    corpus: Corpus
    seed: int

    def __getitem__(self, step: int) -> list[TokenBatch]:
        return batches_of(self.corpus, self.seed, step)


AHEAD = 4
"""Steps that a process has ready. Half of the cores make them where a GPU would wait for one core to do so."""


def made_ahead(corpus: Corpus, seed: int, steps: range) -> Iterable[list[TokenBatch]]:
    """The batches of these steps, made by other processes while a GPU works."""
    torch.multiprocessing.set_sharing_strategy("file_system")  # or each of thousands of tensors keeps a file open
    processes = max(1, available_cpus() // 2)
    return DataLoader(
        Steps(corpus, seed),
        batch_size=None,
        sampler=steps,
        num_workers=processes,
        prefetch_factor=AHEAD,
        collate_fn=_as_it_is,
    )


def _as_it_is(batches: list[TokenBatch]) -> list[TokenBatch]:
    return batches


class Pretrainer:
    """A model, its readings and its optimiser."""

    def __init__(
        self,
        shape: DecoderShape,
        plan: PretrainingPlan,
        fingerprint: str,
        number_features: np.ndarray | None = None,
        device: torch.device = CPU,
    ):
        keep_memory()
        self.plan, self.fingerprint, self.device = plan, fingerprint, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self.model = NumberDecoder(shape, None if number_features is None else torch.from_numpy(number_features))
            start(self.model)
            supervised = max(1, shape.blocks - 1)
            self.readout, self.questions = Readout(shape.width, supervised), Questions(shape.width, supervised)
        everything = nn.ModuleDict({"model": self.model, "readout": self.readout, "questions": self.questions})
        everything.to(device)
        self.named = dict(everything.named_parameters())
        mine = list(self.model.parameters())
        decayed = [p for p in mine if p.dim() == 2]
        rest = [p for p in mine if p.dim() != 2]
        readers = [*self.readout.parameters(), *self.questions.parameters()]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": plan.weight_decay},
                {"params": rest, "weight_decay": 0.0},
                {"params": readers, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98), fused=True,
        )  # fmt: skip
        self.progress = PretrainingProgress()

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

    def step(self, batches: Sequence[TokenBatch]) -> None:
        """One optimiser step.

        Raises:
            RunFailed: a loss is not a number.
        """
        for group, rate in zip(self.optimiser.param_groups, self.learning_rates(), strict=True):
            group["lr"] = rate
        self.progress.tokens += sum(int(batch.lengths.sum()) for batch in batches)
        parts = losses(self.model, self.readout, self.questions, [moved(batch, self.device) for batch in batches])
        found = [(name, loss) for part in parts for name, loss in part.items()]
        total = torch.stack([WEIGHTS[name] * loss for name, loss in found]).sum() / len(parts)
        total.backward()
        *each, whole = torch.stack([*(loss.detach() for _, loss in found), total.detach()]).tolist()
        if not math.isfinite(whole):
            raise RunFailed(f"training: a loss is {whole} at step {self.progress.step}: try another --seed")
        for (name, _), loss in zip(found, each, strict=True):
            self.progress.note(name, loss)
        nn.utils.clip_grad_norm_(self.named.values(), self.plan.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.progress.step += 1
        if self.progress.step * CURVE // self.plan.steps > (self.progress.step - 1) * CURVE // self.plan.steps:
            self.progress.curve.append({"step": self.progress.step, **self.progress.means})

    def run(self, corpus: Corpus, path: Path | None, report: Callable[[PretrainingProgress], None]) -> None:
        """Train to the end of the plan, with a checkpoint at `path` now and then."""
        on_cpu = self.device.type == "cpu"
        steps, seed = range(self.progress.step, self.plan.steps), self.plan.seed
        made = (batches_of(corpus, seed, step) for step in steps) if on_cpu else made_ahead(corpus, seed, steps)
        with short_products() if on_cpu else contextlib.nullcontext():  # those of integers stay exact
            started = time.perf_counter()
            for batches in made:
                self.step(batches)
                self.progress.seconds += time.perf_counter() - started
                report(self.progress)
                if self.progress.step % 100 == 0:
                    give_memory_back()
                if path is not None and self.progress.step % self.plan.checkpoint_every == 0:
                    self.save(path)
                started = time.perf_counter()

    def save(self, path: Path) -> None:
        """Write everything needed to go on."""
        checkpoint.save(path, self.named, self.optimiser, self.fingerprint, json.dumps(attrs.asdict(self.progress)))

    def load(self, path: Path) -> None:
        """Go on where a checkpoint stopped. Raises UsageError as `checkpoint.load`."""
        self.progress = PretrainingProgress(
            **json.loads(checkpoint.load(path, self.named, self.optimiser, self.fingerprint))
        )

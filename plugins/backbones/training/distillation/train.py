"""The training loop: continued pre-training, then distillation. One seed, one command, one machine: one file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitrl.core.errors import RunFailed
from bitrl.plugins.algos.short_products import short_products
from bitrl.plugins.backbones.training.decoder import After, Decoder
from bitrl.plugins.backbones.training.distillation.batches import Batches
from bitrl.plugins.backbones.training.distillation.losses import hidden_loss, logit_loss, next_tokens, relation_loss
from bitrl.plugins.backbones.training.distillation.student import TeacherShape, fit_sub_norms, states_after, student_of
from bitrl.plugins.backbones.training.pretraining import checkpoint
from bitrl.plugins.backbones.training.pretraining.corpus import TokenBatch
from bitrl.plugins.backbones.training.pretraining.device import moved
from bitrl.plugins.backbones.training.pretraining.objective import Readout, number_loss, views
from bitrl.plugins.backbones.training.pretraining.train import keep_memory

WEIGHTS = {"hidden": 1.0, "relations": 1.0, "numbers": 0.1, "tokens": 1.0, "logits": 1.0}
CALIBRATION = 8
"""Batches by which sub-norms and the channels' spreads are measured before the first step."""
HISTORY = 20
"""How many times the losses are noted down for the model card."""


@attrs.frozen
class DistillationPlan:
    """How to train. The first `pretraining_steps` of `steps` ask for the next token alone (whole models only)."""

    steps: int
    pretraining_steps: int = 0
    seed: int = 0
    learning_rate: float = 2e-3
    warmup: int = 20
    clip: float = 1.0
    temperature: float = 5.0
    checkpoint_minutes: float = 3.0


@attrs.define
class DistillationProgress:
    """What has happened so far: steps, tokens, seconds, a running mean of each loss, and that over time."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    means: dict[str, float] = attrs.field(factory=dict)
    history: list[tuple[int, dict[str, float]]] = attrs.field(factory=list)

    def note(self, name: str, value: float) -> None:
        """Take one loss into its running mean."""
        self.means[name] = value if name not in self.means else 0.95 * self.means[name] + 0.05 * value


class Distiller:
    """A teacher, its student, a readout and an optimiser."""

    def __init__(
        self, teacher: Decoder, batches: Batches, plan: DistillationPlan, fingerprint: str, device: torch.device
    ):
        keep_memory()
        self.shape = cast(TeacherShape, teacher.shape)
        self.plan, self.fingerprint, self.device, self.batches = plan, fingerprint, device, batches
        self.teacher, self.student = teacher.to(device), student_of(teacher).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            blocks = teacher.shape.blocks if batches.readers else 0
            self.readout = Readout(teacher.shape.width, blocks).to(device)
        self.named = dict(nn.ModuleDict({"student": self.student, "readout": self.readout}).named_parameters())
        self.optimiser = torch.optim.AdamW(
            self.named.values(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.spreads = self._calibrate()
        self.progress = DistillationProgress()

    @torch.no_grad()
    def _calibrate(self) -> list[Tensor]:
        """Set the sub-norms, and return the variance [width] of the teacher's channels after each block."""
        recorded: list[list[Tensor]] = [[] for _ in self.teacher.blk]
        batches = [moved(self.batches.of_step(self.plan.steps + i), self.device) for i in range(CALIBRATION)]
        for batch in batches:
            for states, after in zip(recorded, states_after(self.teacher, batch.tokens), strict=True):
                states.append(after.residual[batch.inside])
        # Padded texts are truncated to the shortest, which leaves no padding.
        fit_sub_norms(self.student, self.teacher, batches[0].tokens[:, : int(batches[0].lengths.min())])
        return [torch.cat(states).var(dim=0, correction=0) for states in recorded]

    def learning_rate(self) -> float:
        """Linear up, then linear down to nothing: ternary weights settle only when the steps become small."""
        step, plan = self.progress.step, self.plan
        return plan.learning_rate * min((step + 1) / plan.warmup, 1.0) * (1 - step / plan.steps)

    def losses(self, batch: TokenBatch) -> dict[str, Tensor]:
        """The losses of one batch by name."""
        ours = states_after(self.student, batch.tokens)
        parts: dict[str, Tensor] = {}
        inside = next_tokens(batch.tokens, batch.lengths)
        logits = self.student.logits(ours[-1].residual[inside]) if self.shape.is_whole else None
        if logits is not None:
            parts["tokens"] = F.cross_entropy(logits, batch.tokens[:, 1:][inside[:, :-1]])
        if self.progress.step < self.plan.pretraining_steps:
            return parts
        with torch.no_grad():
            theirs: list[After] = states_after(self.teacher, batch.tokens)
        full = batch.inside
        each = [
            hidden_loss(a.residual, b.residual, spread, full)
            for a, b, spread in zip(ours, theirs, self.spreads, strict=True)
        ]
        parts["hidden"] = torch.stack(each).mean()
        shape = self.teacher.shape
        heads = {"queries": shape.heads, "keys": shape.kv_heads, "values": shape.kv_heads}
        parts["relations"] = torch.stack(
            [
                relation_loss(getattr(ours[-1], name), getattr(theirs[-1], name), count, full)
                for name, count in heads.items()
            ]
        ).mean()
        if logits is not None:
            with torch.no_grad():
                wanted = self.teacher.logits(theirs[-1].residual[inside])
            parts["logits"] = logit_loss(logits, wanted, self.plan.temperature)
        if batch.numbers is not None:
            parts["numbers"] = self._number_loss([after.residual for after in ours], batch)
        return parts

    def _number_loss(self, residuals: list[Tensor], batch: TokenBatch) -> Tensor:
        """As in pretraining: the running mean of each block's states has to hold the numbers read so far."""
        assert batch.numbers is not None
        assert batch.frames is not None
        assert batch.names is not None
        wanted = views(batch.numbers, batch.frames[:, None])
        rows, last = torch.arange(len(batch.tokens), device=wanted.device), batch.lengths - 1
        normed = torch.stack(residuals) / (torch.stack(self.spreads)[:, None, None] + 1e-8).sqrt()
        read = self.readout(normed.cumsum(dim=2) / batch.lengths[:, None, None], batch.names)
        return (number_loss(read, wanted) + number_loss(read[:, rows, last], wanted[rows, last])) / 2

    def step(self) -> None:
        """One optimiser step.

        Raises:
            RunFailed: a loss is not a number.
        """
        started = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        batch = moved(self.batches.of_step(self.progress.step), self.device)
        parts = self.losses(batch)
        total = torch.stack([WEIGHTS[name] * loss for name, loss in parts.items()]).sum()
        if not torch.isfinite(total):
            raise RunFailed(
                f"distillation: a loss is {total.item()} at step {self.progress.step}: try a smaller --learning-rate"
            )
        total.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.plan.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        for name, loss in parts.items():
            self.progress.note(name, loss.item())
        self.progress.tokens += int(batch.lengths.sum())
        self.progress.step += 1
        self.progress.seconds += time.perf_counter() - started
        if self.progress.step in _noted(self.plan.steps):
            self.progress.history.append((self.progress.step, dict(self.progress.means)))

    def run(self, path: Path, report: Callable[[DistillationProgress], None]) -> None:
        """Train to the end of the plan, with a checkpoint now and then."""
        saved = time.monotonic()
        with short_products():  # those of integers stay exact
            while self.progress.step < self.plan.steps:
                self.step()
                report(self.progress)
                if time.monotonic() - saved >= 60 * self.plan.checkpoint_minutes:
                    self.save(path)
                    saved = time.monotonic()

    def save(self, path: Path) -> None:
        """Write everything needed to go on."""
        progress = json.dumps(attrs.asdict(self.progress))
        checkpoint.save(path, self.named, self.optimiser, self.fingerprint, progress)

    def load(self, path: Path) -> None:
        """Go on where a checkpoint stopped. Raises UsageError as `checkpoint.load`."""
        progress = json.loads(checkpoint.load(path, self.named, self.optimiser, self.fingerprint))
        progress["history"] = [(step, means) for step, means in progress["history"]]
        self.progress = DistillationProgress(**progress)


def _noted(steps: int) -> set[int]:
    return {int(step) for step in np.linspace(1, steps, min(HISTORY, steps)).round()}

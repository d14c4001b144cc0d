"""What the model is asked for: the next token, the numbers in a text, and to move little when they move little.

Knows the three losses. Does not know how texts are made or how the model is optimised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitrl.plugins.backbones.pretraining.corpus import Batch, Pairs
from bitrl.plugins.backbones.pretraining.model import BitNet
from bitrl.plugins.backbones.pretraining.texts import WORD_BUCKETS
from bitrl.plugins.backbones.pretraining.worlds import FACTS

SCALES = (0.1, 1.0, 10.0, 100.0, 1000.0)
KINDS = len(SCALES) + 4


def views(numbers: Tensor, frames: Tensor) -> Tensor:
    """Numbers [..., slots] and frames [..., slots, 2, 2] (corpus.Batch) → the ways each is asked for [..., slots,
    KINDS], all within ±1.5; NaN where there is nothing to ask.

    Where the environment is known, a number is asked for by its place in the field's range, in the inner tenth of
    it, where control happens, and among the states that agents meet: all linear. Elsewhere nobody knows the range, and
    it is asked for at several scales, linear up to each and flat beyond, and by its order of magnitude.
    """
    known = ~frames[..., 0, 0].isnan().unsqueeze(-1)
    clipped = [(numbers / scale).clamp(-1, 1) for scale in SCALES]
    magnitude = numbers.sign() * numbers.abs().log1p() / 3.0
    absolute = torch.stack([*clipped, magnitude.clamp(-2.5, 2.5)], dim=-1)
    place, among = ((numbers.unsqueeze(-1) - frames[..., 0]) / frames[..., 1]).unbind(dim=-1)
    relative = torch.stack([place.clamp(-1.5, 1.5), (10 * place).clamp(-1, 1), among.clamp(-1.5, 1.5)], dim=-1)
    return torch.cat([absolute.where(~known, torch.nan), relative], dim=-1)


class Readout(nn.Module):
    """A linear reading of pooled features, used in training only: a number is read by its name.

    Where a number's value goes among the features may depend on what stands before it, but not on how many numbers
    there were already: a small model cannot count.
    """

    def __init__(self, width: int, rank: int = 64):
        super().__init__()
        self.words = nn.Embedding(WORD_BUCKETS + 1, rank, padding_idx=0)
        self.reading = nn.Linear(rank, KINDS * (width + 1), bias=False)
        nn.init.normal_(self.reading.weight, std=0.1)

    def forward(self, pooled: Tensor, names: Tensor) -> Tensor:
        """[B, ..., width] and names [groups, slots, words] → [B, ..., slots, KINDS]; B / groups rows a group."""
        # Divided, so that one step of Adam moves the product of two matrices no further than it would move one.
        words = self.words(names + 1).sum(dim=2) / self.words.embedding_dim
        reading = self.reading(words).unflatten(-1, (KINDS, -1)).flatten(1, 2)  # [groups, slots * KINDS, width + 1]
        # In float64: numbers lie in faint directions of the mean, which products in bfloat16 would round away.
        rows, reading = pooled.view(len(names), -1, pooled.shape[-1]).double(), reading.double()
        read = torch.baddbmm(reading[:, None, :, -1], rows, reading[:, :, :-1].transpose(1, 2))
        return read.float().view(*pooled.shape[:-1], -1, KINDS)


class Questions(nn.Module):
    """Linear readings of pooled features for the text worlds, in training only: facts of a state, whether a command
    can be given in it, and whether its recipe asks for it.
    """

    def __init__(self, width: int):
        super().__init__()
        self.facts = nn.Linear(width, len(FACTS))
        self.possible, self.wanted = Bilinear(width), Bilinear(width)


class Bilinear(nn.Module):
    """A yes-or-no question about pairs of a state and a command. Of full rank: with fewer directions than there are
    things in places, answers would blur where the features do not.
    """

    def __init__(self, width: int):
        super().__init__()
        self.state, self.command = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, states: Tensor, commands: Tensor, rows: Tensor) -> Tensor:
        """States [B, width] and commands [C, width] → a logit for each of the pairs [P, 2]."""
        a, b = self.state(states)[rows[:, 0]], self.command(commands)[rows[:, 1]]
        logits: Tensor = (a * b).sum(dim=1) * a.shape[1] ** -0.5
        return logits


def number_loss(read: Tensor, wanted: Tensor) -> Tensor:
    """Mean over the views of ½ log of the mean squared error, both [..., slots, KINDS].

    Predicting text alone does not need the numbers, so they are asked for. The logarithm keeps every view pulling:
    with plain squares the views that are already good to 1 % would no longer be felt beside those that are not.
    """
    there = ~wanted.isnan()
    if not there.any():  # no target in view in any of a few BabyAI states
        return read.sum() * 0.0
    squares = torch.where(there, read - wanted.nan_to_num(), 0.0).square()
    counts = there.flatten(0, -2).sum(dim=0)
    errors = squares.flatten(0, -2).sum(dim=0) / counts.clamp(min=1)
    return 0.5 * (errors + 1e-5).log()[counts > 0].mean()


def roughness(pooled: Tensor, groups: int) -> Tensor:
    """How much of the features' variance is left between near twins: 0 smooth, 1 noise. pooled [B, width], twins in
    turn.

    A small head learns from standardised features, so a feature that jumps with the last digit is noise as loud as
    the signal. Each feature's difference between twins is measured against its own variance within a kind of text,
    which shrinking cannot cheat.
    """
    kinds = pooled.view(groups, -1, pooled.shape[-1])
    variance = (kinds - kinds.mean(dim=1, keepdim=True)).square().mean(dim=(0, 1))
    difference = (pooled[::2] - pooled[1::2]).square().mean(dim=0) / 2
    return (difference / (variance + 1e-8)).mean()


def token_losses(model: BitNet, parts: Sequence[tuple[Tensor, Batch]]) -> list[Tensor]:
    """Next-token cross-entropy in nats a token of each part, its last residual stream [B, T, width] and its texts; this
    is what makes it a language model, at home in any text.

    All parts at once: the logits of a large vocabulary are the most expensive thing here.
    """
    inside = [torch.arange(1, batch.tokens.shape[1]) < batch.lengths[:, None] for _, batch in parts]
    before = torch.cat([residual[:, :-1][where] for (residual, _), where in zip(parts, inside, strict=True)])
    targets = torch.cat([batch.tokens[:, 1:][where] for (_, batch), where in zip(parts, inside, strict=True)])
    losses = F.cross_entropy(model.logits(before), targets, reduction="none").split(
        [int(where.sum()) for where in inside]
    )
    return [each.mean() for each in losses]


def pooled(after: Sequence[Tensor], batch: Batch) -> list[Tensor]:
    """Residual streams [B, T, width] → their means over each text [B, width]."""
    inside = (torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]).unsqueeze(2)
    return [torch.where(inside, x, 0.0).sum(dim=1) / batch.lengths[:, None] for x in after]


def choice_loss(
    questions: Sequence[nn.Module], states: Sequence[Tensor], commands: Sequence[Tensor], asked: Pairs
) -> Tensor:
    """Cross-entropy of a question about pairs, the two answers weighing the same; pooled features [B, width] and
    [C, width] after each supervised block.
    """
    share = asked.answers.mean().clamp(0.05, 0.95)
    weight = torch.where(asked.answers > 0, 0.5 / share, 0.5 / (1 - share))
    logits = [q(s, c, asked.rows) for q, s, c in zip(questions, states, commands, strict=True)]
    return torch.stack([F.binary_cross_entropy_with_logits(x, asked.answers, weight) for x in logits]).mean()


def fact_loss(read: Tensor, facts: Tensor) -> Tensor:
    """Cross-entropy of yes-or-no facts [B, facts]; NaN: not asked."""
    asked = ~facts.isnan()
    if not asked.any():
        return read.sum() * 0.0
    return F.binary_cross_entropy_with_logits(read[asked], facts[asked])


def losses(
    model: BitNet, readouts: nn.ModuleList, questions: nn.ModuleList, batches: Sequence[Batch]
) -> list[dict[str, Tensor]]:
    """The losses of each batch by name. Every block from the second on is supervised, so that `layers=k` is usable
    for any k.
    """
    asked = [batch.choices.commands for batch in batches if batch.choices is not None]
    everything = [*batches, *asked]
    streams = list(model.residuals(*(batch.tokens for batch in everything)))[-len(readouts) :]
    of = [[after[i] for after in streams] for i in range(len(everything))]
    answers = iter(of[len(batches) :])
    found: list[dict[str, Tensor]] = []
    predicted: list[tuple[Tensor, Batch]] = []
    for batch, after in zip(batches, of, strict=False):
        if batch.choices is not None:
            states, commands = pooled(after, batch), pooled(next(answers), batch.choices.commands)
            about = {"commands": ("possible", batch.choices.possible), "recipes": ("wanted", batch.choices.wanted)}
            found.append(
                {
                    name: choice_loss([q.get_submodule(question) for q in questions], states, commands, pairs)
                    for name, (question, pairs) in about.items()
                    if len(pairs.rows)
                }
            )
            continue
        found.append(state_losses(readouts, questions, after, batch) if batch.numbers is not None else {})
        # Predicting states teaches little: a few of the texts will do.
        some = slice(None, None, 1 if batch.numbers is None else 16)
        predicted.append((after[-1][some], Batch(batch.tokens[some], batch.lengths[some])))
    read = iter(token_losses(model, predicted) if predicted else [])
    for batch, each in zip(batches, found, strict=True):
        if batch.choices is None:
            each["prose" if batch.numbers is None else "texts"] = next(read)
    return found


def state_losses(
    readouts: nn.ModuleList, questions: nn.ModuleList, after: Sequence[Tensor], batch: Batch
) -> dict[str, Tensor]:
    """The losses of states with numbers, and with facts if they have any."""
    assert batch.numbers is not None
    assert batch.frames is not None
    assert batch.names is not None
    last = torch.arange(len(batch.tokens)), batch.lengths - 1
    so_far = views(batch.numbers, batch.frames[:, None])
    wanted = so_far[last]
    # Asked for only at its end, a text gives too faint a hint which digit mattered. So the mean is also read while
    # it builds up, and has to hold at each token what has been written by then: every digit is told what it adds.
    building = [x.cumsum(dim=1) / batch.lengths[:, None, None] for x in after]
    means = [x[last] for x in building]
    read = [number_loss(readout(mean, batch.names), wanted) for readout, mean in zip(readouts, means, strict=True)]
    found = {"numbers": torch.stack(read).mean()}
    if batch.facts is not None:
        told = [
            fact_loss(q.get_submodule("facts")(mean), batch.facts) for q, mean in zip(questions, means, strict=True)
        ]
        found["facts"] = torch.stack(told).mean()
    if batch.plain:
        read = [number_loss(readout(x, batch.names), so_far) for readout, x in zip(readouts, building, strict=True)]
        found["digits"] = torch.stack(read).mean()
    if batch.facts is None:  # twins, that is
        found["roughness"] = torch.stack([roughness(mean, len(batch.names)) for mean in means]).mean()
    return found


WEIGHTS = {
    "prose": 0.3, "numbers": 1.0, "digits": 1.0, "roughness": 0.3, "texts": 0.05, "facts": 2.0, "commands": 2.0,
    "recipes": 1.0,
}  # fmt: skip

"""What the model is asked for: the next token, the numbers in a text, and to move little when they move little.

Knows the three losses. Does not know how texts are made or how the model is optimised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitrl.plugins.backbones.training.pretraining.corpus import Pairs, TokenBatch
from bitrl.plugins.backbones.training.pretraining.environment_texts import FACTS
from bitrl.plugins.backbones.training.pretraining.number_decoder import NumberDecoder
from bitrl.plugins.backbones.training.pretraining.texts import WORD_BUCKETS

SCALES = (0.1, 1.0, 10.0, 100.0, 1000.0)
KINDS = len(SCALES) + 4


def views(numbers: Tensor, frames: Tensor) -> Tensor:
    """Numbers [..., slots] and frames [..., slots, 2, 2] (corpus.TokenBatch) → the ways each is asked for [..., slots,
    KINDS], all within ±1.5; NaN where there is nothing to ask.

    Where the environment is known, a number is asked for by its place in the field's range, in the inner tenth of
    it, where control happens, and among the states that agents visit: all linear. Elsewhere nobody knows the range, and
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
    """Linear readings of pooled features after each of some blocks, used in training only: a number is read by its
    name.

    Where a number's value goes among the features may depend on what stands before it, but not on how many numbers
    there were already: a small model cannot count. All blocks are read at once: a GPU waits for orders, not for sums.
    """

    def __init__(self, width: int, blocks: int, rank: int = 64):
        super().__init__()
        self.words = nn.Embedding(WORD_BUCKETS + 1, blocks * rank, padding_idx=0)
        self.reading = nn.Parameter(torch.randn(blocks, rank, KINDS * (width + 1)) * 0.1)

    def forward(self, pooled: Tensor, names: Tensor) -> Tensor:
        """[blocks, B, ..., width] and names [groups, slots, words] → [blocks, B, ..., slots, KINDS]; B / groups rows a
        group.
        """
        blocks, rank, _ = self.reading.shape
        # Divided, so that one step of Adam moves the product of two matrices no further than it would move one.
        words = self.words(names + 1).sum(dim=2).view(-1, blocks, rank).transpose(0, 1) / rank
        reading = (words @ self.reading).view(blocks * len(names), -1, pooled.shape[-1] + 1)  # [.., slots * KINDS, ..]
        # In float64: numbers lie in faint directions of the mean, which products in bfloat16 would round away.
        rows, reading = pooled.reshape(len(reading), -1, pooled.shape[-1]).double(), reading.double()
        read = torch.baddbmm(reading[:, None, :, -1], rows, reading[:, :, :-1].transpose(1, 2))
        return read.float().view(*pooled.shape[:-1], -1, KINDS)


class Questions(nn.Module):
    """Linear readings of pooled features for the text environments after each of some blocks, in training only: facts
    of a state, whether a command can be given in it, and whether its recipe asks for it.
    """

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.facts = Linears(width, len(FACTS), blocks)
        self.possible, self.wanted = Bilinear(width, blocks), Bilinear(width, blocks)


class Linears(nn.Module):
    """A linear layer for each of some blocks."""

    def __init__(self, width: int, outputs: int, blocks: int):
        super().__init__()
        size = width**-0.5
        self.weight = nn.Parameter(torch.empty(blocks, width, outputs).uniform_(-size, size))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[blocks, B, width] → [blocks, B, outputs]."""
        return torch.baddbmm(self.bias, x, self.weight)


class Bilinear(nn.Module):
    """A yes-or-no question about pairs of a state and a command. Of full rank: with fewer directions than there are
    things in places, answers would blur where the features do not.
    """

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.state, self.command = Linears(width, width, blocks), Linears(width, width, blocks)

    def forward(self, states: Tensor, commands: Tensor, rows: Tensor) -> Tensor:
        """States [blocks, B, width] and commands [blocks, C, width] → a logit for each of the pairs [blocks, P]."""
        a, b = self.state(states)[:, rows[:, 0]], self.command(commands)[:, rows[:, 1]]
        logits: Tensor = (a * b).sum(dim=2) * a.shape[2] ** -0.5
        return logits


def number_loss(read: Tensor, wanted: Tensor) -> Tensor:
    """Mean over blocks and views of ½ log of the mean squared error: read [blocks, ..., slots, KINDS], wanted [...,
    slots, KINDS].

    Predicting text alone does not need the numbers, so they are asked for. The logarithm keeps every view pulling:
    with plain squares the views that are already good to 1 % would no longer be felt beside those that are not.
    """
    there = ~wanted.isnan()
    squares = torch.where(there, read - wanted.nan_to_num(), 0.0).square()
    counts = there.flatten(0, -2).sum(dim=0)
    errors = squares.flatten(1, -2).sum(dim=1) / counts.clamp(min=1)
    return 0.5 * mean_where((errors + 1e-5).log(), counts > 0)


def mean_where(values: Tensor, there: Tensor) -> Tensor:
    """Mean of the values that are there; 0 where none is, as with no target in view in any of a few BabyAI states.

    Without picking them out, which a GPU would have to be waited for.
    """
    there = there.expand_as(values)
    return torch.where(there, values, 0.0).sum() / there.sum().clamp(min=1)


def roughness(pooled: Tensor, groups: int) -> Tensor:
    """How much of the features' variance is left between near twins: 0 smooth, 1 noise. pooled [blocks, B, width],
    twins in turn.

    A small head learns from standardised features, so a feature that jumps with the last digit is noise as loud as
    the signal. Each feature's difference between twins is measured against its own variance within a kind of text,
    which shrinking cannot cheat.
    """
    kinds = pooled.unflatten(1, (groups, -1))
    variance = (kinds - kinds.mean(dim=2, keepdim=True)).square().mean(dim=(1, 2))
    difference = (pooled[:, ::2] - pooled[:, 1::2]).square().mean(dim=1) / 2
    loss: Tensor = (difference / (variance + 1e-8)).mean()
    return loss


def token_losses(model: NumberDecoder, parts: Sequence[tuple[Tensor, TokenBatch]]) -> list[Tensor]:
    """Next-token cross-entropy in nats a token of each part, its last residual stream [B, T, width] and its texts; this
    is what makes it a language model, at home in any text.

    All parts at once: the logits of a large vocabulary are the most expensive thing here.
    """
    inside = [batch.inside[:, 1:] for _, batch in parts]
    before = torch.cat([residual[:, :-1][where] for (residual, _), where in zip(parts, inside, strict=True)])
    targets = torch.cat([batch.tokens[:, 1:][where] for (_, batch), where in zip(parts, inside, strict=True)])
    losses = F.cross_entropy(model.logits(before), targets, reduction="none").split(
        [int(where.sum()) for where in inside]
    )
    return [each.mean() for each in losses]


def pooled(after: Tensor, batch: TokenBatch) -> Tensor:
    """Residual streams [blocks, B, T, width] → their means over each text [blocks, B, width]."""
    return torch.where(batch.inside.unsqueeze(2), after, 0.0).sum(dim=2) / batch.lengths[:, None]


def choice_loss(question: Bilinear, states: Tensor, commands: Tensor, asked: Pairs) -> Tensor:
    """Cross-entropy of a question about pairs, the two answers weighing the same; pooled features [blocks, B, width]
    and [blocks, C, width].
    """
    share = asked.answers.mean().clamp(0.05, 0.95)
    weight = torch.where(asked.answers > 0, 0.5 / share, 0.5 / (1 - share))
    logits = question(states, commands, asked.rows)
    return F.binary_cross_entropy_with_logits(logits, asked.answers.expand_as(logits), weight)


def fact_loss(read: Tensor, facts: Tensor) -> Tensor:
    """Cross-entropy of yes-or-no facts, read [blocks, B, facts], true [B, facts]; NaN: not asked."""
    wanted = facts.nan_to_num().expand_as(read)
    return mean_where(F.binary_cross_entropy_with_logits(read, wanted, reduction="none"), ~facts.isnan())


def streams(model: NumberDecoder, texts: Sequence[Tensor], blocks: int, as_one: bool) -> list[Tensor]:
    """The residual streams after the last `blocks` blocks [blocks, B, T, width] of each part, tokens [B, T].

    With `as_one` all parts are made as long as the longest and are one: best for a GPU, which waits for orders, while
    a CPU is busy with every token.
    """
    if not as_one:
        each = zip(*list(model.residuals(*texts))[-blocks:], strict=True)
        return [torch.stack(after) for after in each]
    longest = max(tokens.shape[1] for tokens in texts)
    whole = torch.cat([F.pad(tokens, (0, longest - tokens.shape[1])) for tokens in texts])
    after = torch.stack([part for [part] in list(model.residuals(whole))[-blocks:]])
    rows = after.split([len(tokens) for tokens in texts], dim=1)
    return [part[:, :, : tokens.shape[1]] for part, tokens in zip(rows, texts, strict=True)]


def losses(
    model: NumberDecoder, readout: Readout, questions: Questions, batches: Sequence[TokenBatch]
) -> list[dict[str, Tensor]]:
    """The losses of each batch by name. Every block from the second on is supervised, so that `layers=k` is usable
    for any k.
    """
    texts = [batch.tokens for batch in batches]
    asked = [batch.choices.commands.tokens for batch in batches if batch.choices is not None]
    blocks, as_one = len(readout.reading), texts[0].device.type != "cpu"
    of = streams(model, texts, blocks, as_one)
    answers = iter(streams(model, asked, blocks, as_one) if asked else [])  # apart, for commands are much shorter
    found: list[dict[str, Tensor]] = []
    predicted: list[tuple[Tensor, TokenBatch]] = []
    for batch, after in zip(batches, of, strict=True):
        if batch.choices is not None:
            states, commands = pooled(after, batch), pooled(next(answers), batch.choices.commands)
            about = {
                "commands": (questions.possible, batch.choices.possible),
                "recipes": (questions.wanted, batch.choices.wanted),
            }
            found.append(
                {
                    name: choice_loss(question, states, commands, pairs)
                    for name, (question, pairs) in about.items()
                    if len(pairs.rows)
                }
            )
            continue
        found.append(state_losses(readout, questions, after, batch) if batch.numbers is not None else {})
        # Predicting states teaches little: a few of the texts will do.
        some = slice(None, None, 1 if batch.numbers is None else 16)
        predicted.append((after[-1, some], TokenBatch(batch.tokens[some], batch.lengths[some])))
    read = iter(token_losses(model, predicted) if predicted else [])
    for batch, each in zip(batches, found, strict=True):
        if batch.choices is None:
            each["prose" if batch.numbers is None else "texts"] = next(read)
    return found


def state_losses(readout: Readout, questions: Questions, after: Tensor, batch: TokenBatch) -> dict[str, Tensor]:
    """The losses of states with numbers, and with facts if they have any; after [blocks, B, T, width]."""
    assert batch.numbers is not None
    assert batch.frames is not None
    assert batch.names is not None
    rows, last = torch.arange(len(batch.tokens), device=after.device), batch.lengths - 1
    so_far = views(batch.numbers, batch.frames[:, None])
    # Asked for only at its end, a text gives too faint a hint which digit mattered. So the mean is also read while
    # it builds up, and has to hold at each token what has been written by then: every digit is supervised by what it
    # adds.
    building = after.cumsum(dim=2) / batch.lengths[:, None, None]
    means = building[:, rows, last]
    found = {"numbers": number_loss(readout(means, batch.names), so_far[rows, last])}
    if batch.facts is not None:
        found["facts"] = fact_loss(questions.facts(means), batch.facts)
    if batch.plain:
        found["digits"] = number_loss(readout(building, batch.names), so_far)
    if batch.facts is None:  # twins, that is
        found["roughness"] = roughness(means, len(batch.names))
    return found


WEIGHTS = {
    "prose": 0.3, "numbers": 1.0, "digits": 1.0, "roughness": 0.3, "texts": 0.05, "facts": 2.0, "commands": 2.0,
    "recipes": 1.0,
}  # fmt: skip

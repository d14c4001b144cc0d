"""What the model is asked for: the next token, the numbers in a text, and to move little when they move little.

Knows the three losses. Does not know how texts are made or how the model is optimised.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bitrl.plugins.backbones.pretraining.corpus import Batch
from bitrl.plugins.backbones.pretraining.model import BitNet
from bitrl.plugins.backbones.pretraining.texts import MAX_NUMBERS

SCALES = (0.1, 1.0, 10.0, 100.0)
KINDS = len(SCALES) + 3


def views(numbers: Tensor, ranges: Tensor, centres: Tensor) -> Tensor:
    """Numbers [..., slots] → the ways each is asked for [..., slots, KINDS], all within ±1.5; NaN where there is
    nothing to ask.

    Where the environment is known, a number is asked for by its place in the field's range and in the inner tenth of
    it, where control happens: both linear. Elsewhere nobody knows the range, and it is asked for at several scales,
    linear up to each and flat beyond, and by its order of magnitude.
    """
    clipped = [(numbers / scale).clamp(-1, 1) for scale in SCALES]
    magnitude = numbers.sign() * numbers.abs().log1p() / 3.0
    absolute = torch.stack([*clipped, magnitude.clamp(-1.5, 1.5)], dim=-1)
    place = (numbers - centres) / ranges
    return torch.cat(
        [
            absolute.where(ranges.isnan().unsqueeze(-1), torch.nan),
            torch.stack([place, (10 * place).clamp(-1, 1)], dim=-1),
        ],
        dim=-1,
    )


class Readout(nn.Module):
    """A linear reading of pooled features, used in training only: slot j reports the j-th number of the text."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, MAX_NUMBERS * KINDS)
        nn.init.normal_(self.linear.weight, std=0.02)

    def forward(self, pooled: Tensor) -> Tensor:
        """[..., width] → [..., slots, KINDS]."""
        read: Tensor = self.linear(pooled)
        return read.unflatten(-1, (MAX_NUMBERS, KINDS))


def number_loss(read: Tensor, wanted: Tensor) -> Tensor:
    """Mean over the views of ½ log of the mean squared error, both [..., slots, KINDS].

    Predicting text alone does not need the numbers, so they are asked for. The logarithm keeps every view pulling:
    with plain squares the views that are already good to 1 % would no longer be felt beside those that are not.
    """
    there = ~wanted.isnan()
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


def token_loss(model: BitNet, residual: Tensor, batch: Batch) -> Tensor:
    """Next-token cross-entropy in nats a token; this is what makes it a language model, at home in any text."""
    inside = torch.arange(1, batch.tokens.shape[1]) < batch.lengths[:, None]
    logits = model.logits(residual[:, :-1][inside])
    return F.cross_entropy(logits, batch.tokens[:, 1:][inside])


def losses(model: BitNet, readouts: nn.ModuleList, batch: Batch) -> dict[str, Tensor]:
    """The losses of one batch by name. Every block from the second on is supervised, so that `layers=k` is usable
    for any k.
    """
    after = list(model.residuals(batch.tokens))
    if batch.numbers is None:
        return {"prose": token_loss(model, after[-1], batch)}
    assert batch.ranges is not None
    assert batch.centres is not None
    last = torch.arange(len(batch.tokens)), batch.lengths - 1
    so_far = views(batch.numbers, batch.ranges[:, None], batch.centres[:, None])
    wanted = so_far[last]
    # Asked for only at its end, a text gives too faint a hint which digit mattered. So the mean is also read while
    # it builds up, and has to hold at each token what has been written by then: every digit is told what it adds.
    building = [x.cumsum(dim=1) / batch.lengths[:, None, None] for x in after[-len(readouts) :]]
    pooled = [x[last] for x in building]
    read = [number_loss(readout(p), wanted) for readout, p in zip(readouts, pooled, strict=True)]
    reading = [number_loss(readout(x), so_far) for readout, x in zip(readouts, building, strict=True)]
    rough = [roughness(p, batch.groups) for p in pooled]
    # Predicting digits teaches little: a quarter of the texts will do.
    few = Batch(batch.tokens[::4], batch.lengths[::4])
    return {
        "numbers": torch.stack(read).mean(),
        "digits": torch.stack(reading).mean(),
        "roughness": torch.stack(rough).mean(),
        "texts": token_loss(model, after[-1][::4], few),
    }


WEIGHTS = {"prose": 0.3, "numbers": 1.0, "digits": 1.0, "roughness": 0.3, "texts": 0.05}

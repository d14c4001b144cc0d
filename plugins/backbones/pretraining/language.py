"""What a model's features keep of words: the object a BabyAI mission names, and which TextWorld commands can be given.

Knows how to fit a classifier on frozen features and how it is judged: on states of worlds that it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Encode = Callable[[list[str]], np.ndarray]
"""n texts → features [n, d]."""

GAMES_SEEN, GAMES_FITTED, GAMES_KEPT_ASIDE, STATES_A_GAME = range(480), range(160), range(480, 520), 50
"""TextWorld games that a model may have been trained on, those to fit to, those to judge by, and states of each. Many
games rather than many states: a food that stood in one place in all of a few games says nothing of other places.
"""


@attrs.frozen
class Judged:
    """The share of right answers, and the share that the commonest answer alone would get."""

    accuracy: float
    chance: float


def mission_objects(encode: Encode, count: int = 3000, seed: int = 1) -> Judged:
    """Which object (colour and kind) does the mission of a BabyAI state name? By multinomial logistic regression, on
    states of other episodes.

    Raises:
        UsageError: MiniGrid is not installed.
    """
    from bitrl.plugins.envs.samples import BABYAI_IDS, babyai_samples

    texts: list[list[str]] = []
    names: list[list[str]] = []
    for part in (1000 * seed, 1000 * seed + 1):
        samples = [s for s in babyai_samples(BABYAI_IDS[1:], count, part) if s.colour and s.kind]
        texts.append([sample.text for sample in samples])
        names.append([f"{sample.colour} {sample.kind}" for sample in samples])
    classes = sorted({name for part in names for name in part})
    fitted, judged = (torch.tensor([classes.index(name) for name in part]) for part in names)
    x, y = _standardised(encode(texts[0]), encode(texts[1]))
    model = nn.Linear(x.shape[1], len(classes))
    _fit(model, lambda: F.cross_entropy(model(x), fitted))
    return Judged(_share(model(y).argmax(dim=1) == judged), _share(judged == judged.mode().values))


def possible_commands(encode: Encode, seed: int = 1, split: str = "train") -> Judged:
    """Can this command be given in this state of a TextWorld cooking game? By a bilinear form of the two texts'
    features, on games that it was not fitted to; half of the commands asked about can be given.

    `split` "test" judges by games with other foods, of which no game that was fitted to had any.

    Raises:
        UsageError: TextWorld is not installed.
    """
    from bitrl.plugins.backbones.pretraining.worlds import choices

    rng = np.random.default_rng(seed)
    parts = []
    judged_by = GAMES_KEPT_ASIDE if split == "train" else range(len(GAMES_KEPT_ASIDE))
    for source in (choices(GAMES_FITTED, STATES_A_GAME, 0), choices(judged_by, STATES_A_GAME, 0, split)):
        pairs = []
        for row in range(len(source.texts)):
            some = min(3, len(source.possible[row]), len(source.impossible[row]))
            for listed, can in ((source.possible[row], 1.0), (source.impossible[row], 0.0)):
                pairs += [(source.texts[row], listed[i], can) for i in rng.permutation(len(listed))[:some]]
        parts.append(pairs)
    states = [_unique([pair[0] for pair in part]) for part in parts]
    commands = [_unique([pair[1] for pair in part]) for part in parts]
    s, t = _standardised(encode(states[0][0]), encode(states[1][0]))
    c, d = _standardised(encode(commands[0][0]), encode(commands[1][0]))
    given, judged = (torch.tensor([pair[2] for pair in part]) for part in parts)
    form = nn.Bilinear(s.shape[1], c.shape[1], 1)
    alone = nn.Linear(s.shape[1] + c.shape[1], 1)
    model = nn.ModuleList([form, alone])

    def logits(a: Tensor, b: Tensor, rows: int) -> Tensor:
        a, b = a[states[rows][1]], b[commands[rows][1]]
        matched = ((a @ form.weight[0]) * b).sum(dim=1) / a.shape[1] ** 0.5
        return matched + alone(torch.cat([a, b], dim=1)).squeeze(1)

    _fit(model, lambda: F.binary_cross_entropy_with_logits(logits(s, c, 0), given))
    with torch.no_grad():
        return Judged(_share((logits(t, d, 1) > 0) == (judged > 0)), max(_share(judged > 0), _share(judged == 0)))


def _unique(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Each text once, and where each of `texts` is among them."""
    once = list(dict.fromkeys(texts))
    places = {text: index for index, text in enumerate(once)}
    return once, torch.tensor([places[text] for text in texts])


def _standardised(fitted: np.ndarray, judged: np.ndarray) -> tuple[Tensor, Tensor]:
    mean, std = fitted.mean(axis=0), fitted.std(axis=0) + 1e-6
    return tuple(torch.from_numpy(((x - mean) / std).astype(np.float32)) for x in (fitted, judged))  # type: ignore[return-value]


def _fit(model: nn.Module, loss: Callable[[], Tensor], steps: int = 300, decay: float = 1e-3) -> None:
    """Full-batch Adam, with weight decay; the same for every model that is compared."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=decay * 100)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()


def _share(right: Tensor) -> float:
    return float(right.float().mean())

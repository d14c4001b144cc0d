"""What a model's features keep of words: the object a BabyAI mission names, and which TextWorld commands are
admissible.

Knows how to fit a classifier on frozen features and how it is judged: on states of held-out episodes and games.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from bitrl.plugins.backbones.training.pretraining.environment_texts import CommandTexts

Encode = Callable[[list[str]], np.ndarray]
"""n texts → features [n, d]."""

GAMES_SEEN, GAMES_KEPT_ASIDE, STATES_A_GAME = range(480), range(480, 520), 50
"""TextWorld games to fit to, which a model may have been trained on, those to judge by, and states of each. Many games
rather than many states: a food that stood in one place in all of a few games says nothing of other places.
"""


@attrs.frozen
class Judged:
    """Accuracy, and the accuracy of always giving the most frequent answer."""

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
    fit_to = _Standardised(encode(texts[0]))
    x, y = fit_to.features, fit_to(encode(texts[1]))
    model = nn.Linear(x.shape[1], len(classes))
    _fit(model, lambda rows: F.cross_entropy(model(x[rows]), fitted[rows]), len(fitted))
    return Judged(_share(model(y).argmax(dim=1) == judged), _share(judged == judged.mode().values))


def possible_commands(encode: Encode, seed: int = 1, splits: Sequence[str] = ("train", "test")) -> list[Judged]:
    """Can this command be given in this state of a TextWorld cooking game? By a bilinear form of the two texts'
    features, on games that it was not fitted to; half of the commands asked about can be given.

    It is judged by games of each of `splits`; those of the split "test" have foods that no game has that it was fitted
    to.

    Raises:
        UsageError: TextWorld is not installed.
    """
    from bitrl.plugins.backbones.training.pretraining.environment_texts import choices

    rng = np.random.default_rng(seed)
    fitted = _asked(choices(GAMES_SEEN, STATES_A_GAME, 0), rng)
    states, commands = (_Standardised(encode(texts)) for texts in (fitted.states, fitted.commands))
    form = nn.Bilinear(states.features.shape[1], commands.features.shape[1], 1)
    alone = nn.Linear(form.in1_features + form.in2_features, 1)

    def logits(a: Tensor, b: Tensor) -> Tensor:
        matched = ((a @ form.weight[0]) * b).sum(dim=1) / form.in1_features**0.5
        scores: Tensor = matched + alone(torch.cat([a, b], dim=1)).squeeze(1)
        return scores

    def loss(some: Tensor) -> Tensor:
        a, b = fitted.rows[some].unbind(dim=1)
        return F.binary_cross_entropy_with_logits(
            logits(states.features[a], commands.features[b]), fitted.answers[some]
        )

    _fit(nn.ModuleList([form, alone]), loss, len(fitted.answers))
    found = []
    for split in splits:
        games = GAMES_KEPT_ASIDE if split == "train" else range(len(GAMES_KEPT_ASIDE))
        judged = _asked(choices(games, STATES_A_GAME, 0, split), rng)
        a, b = judged.rows.unbind(dim=1)
        with torch.no_grad():
            predicted = logits(states(encode(judged.states))[a], commands(encode(judged.commands))[b])
        can = judged.answers > 0
        found.append(Judged(_share((predicted > 0) == can), max(_share(can), _share(~can))))
    return found


@attrs.frozen
class _Asked:
    """Texts, each once, and the questions: pairs [P, 2] of a state's and a command's place, with answers [P]."""

    states: list[str]
    commands: list[str]
    rows: Tensor
    answers: Tensor


def _asked(source: CommandTexts, rng: np.random.Generator) -> _Asked:
    """Up to three commands of each state that can be given in it, and as many that cannot."""
    states: dict[str, int] = {}
    commands: dict[str, int] = {}
    rows, answers = [], []
    for text, possible, impossible in zip(source.texts, source.possible, source.impossible, strict=True):
        some = min(3, len(possible), len(impossible))
        for listed, answer in ((possible, 1.0), (impossible, 0.0)):
            for chosen in rng.permutation(len(listed))[:some]:
                command = commands.setdefault(listed[chosen], len(commands))
                rows.append((states.setdefault(text, len(states)), command))
                answers.append(answer)
    return _Asked(list(states), list(commands), torch.tensor(rows), torch.tensor(answers))


class _Standardised:
    """Features [n, d], and others like them, standardised by their mean and standard deviation."""

    def __init__(self, features: np.ndarray):
        self.mean, self.std = features.mean(axis=0), features.std(axis=0) + 1e-6
        self.features = self(features)

    def __call__(self, features: np.ndarray) -> Tensor:
        return torch.from_numpy(((features - self.mean) / self.std).astype(np.float32))


def _fit(model: nn.Module, loss: Callable[[Tensor], Tensor], count: int, batch: int = 512) -> None:
    """Adam with weight decay on batches of `count` samples: ten passes, and 300 steps at least. The learning rate
    decays linearly to zero. The same for every model that is compared.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    generator = torch.Generator().manual_seed(0)
    passes = max(10, math.ceil(300 * batch / count))
    batches = [some for _ in range(passes) for some in torch.randperm(count, generator=generator).split(batch)]
    for step, some in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * (1 - step / len(batches))
        optimiser.zero_grad()
        loss(some).backward()
        optimiser.step()


def _share(right: Tensor) -> float:
    return float(right.float().mean())

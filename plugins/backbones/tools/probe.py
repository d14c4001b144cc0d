"""How well state variables can be linearly decoded from a language model: R² after every block, for every pooling.

Knows how states are sampled, written and encoded, and how a result is summarised. Does not know how it is shown.
The protocol: ridge regression (ridge.py) fitted to three quarters of the states and tested on the last quarter.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.nested import FlatObservations
from bitrl.core.environments import crashes
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.random_play import RANDOM_PLAY, random_policy
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Field
from bitrl.core.runs.parts import Parts
from bitrl.core.runs.state_recorder import numbers_of
from bitrl.plugins.backbones.language_model import LanguageModel
from bitrl.plugins.backbones.number_ends import number_ends
from bitrl.plugins.backbones.tools.available_memory import available_memory
from bitrl.plugins.backbones.tools.ridge import r_squared

POOLINGS = ("mean", "last", "field")
STATES = ("uniform", "random")
UNBOUNDED = 3.0
"""Where a number has no bounds, its uniform states lie within ± this."""
NEARLY = 0.005
"""An earlier block whose R² is at most this much lower is reported: every block costs time at every step."""


@attrs.frozen
class Score:
    """R² of each of a state's numbers, read from the features of one pooling after `block` blocks."""

    block: int
    pooling: str
    fields: dict[str, float]

    @property
    def mean(self) -> float:
        """Over the numbers."""
        return statistics.fmean(self.fields.values())

    @property
    def worst(self) -> str:
        """The number that is decoded worst."""
        return min(self.fields, key=self.fields.__getitem__)


@attrs.frozen
class Reading:
    """One environment's states through one serializer.

    `tokens` is the mean length of a text, `constant` names the numbers that are left out because they never vary, and
    `notes` says what else was.
    """

    env: str
    serializer: str
    states: str
    tokens: float
    constant: list[str]
    notes: list[str]
    scores: list[Score]


@attrs.frozen
class Setting:
    """Blocks to run and a pooling, and the mean R² over some readings."""

    block: int
    pooling: str
    mean: float

    @property
    def options(self) -> str:
        """The options that make a run use it."""
        return f"-o backbone.layers={self.block} -o backbone.pooling={self.pooling}"


def probe(
    parts: Parts,
    names: tuple[str, str],
    kind: str,
    poolings: Sequence[str],
    count: int,
    seed: int,
    tell: Callable[[int], None] = lambda done: None,
) -> Reading:
    """Probe one environment and serializer, called `names`, on `count` states of a kind of STATES.

    `tell` is called with the number of texts encoded. Raises UsageError when the backbone is no language model, the
    observations hold no numbers, or memory will not do.
    """
    backbone, serializer = parts.reader.backbone, parts.reader.serializer
    if not isinstance(backbone, LanguageModel):
        raise UsageError("expected a language model to probe: --backbone bitnet, int8, int4 or bf16")
    spec = parts.environment.observation_spec()
    fields = spec.fields
    if not fields or spec.texts:
        what = "no numbers to decode" if not fields else "texts beside numbers, which are not drawn at random"
        raise UsageError(f"--env {names[0]}: its observations hold {what}")
    if isinstance(serializer, FlatObservations):  # what is drawn is flat
        serializer = serializer.serializer
    _check_memory(backbone, poolings, count, len(fields))
    states = draw(parts.environment, fields, kind, count, seed)
    texts = serializer.batch(states)
    notes = []
    if "field" in poolings and any(len(number_ends(text)) != len(fields) for text in texts):
        notes.append(f"pooling field is left out: not every text holds {len(fields)} numbers")
        poolings = [pooling for pooling in poolings if pooling != "field"]
    longest, context = max(backbone.token_counts(texts)), backbone.engine.context
    if longest > context:
        notes.append(f"texts have up to {longest} tokens, and the model reads {context}: read them in chunks")
        poolings = []
    features: dict[str, list[np.ndarray]] = {pooling: [] for pooling in poolings}
    for start in range(0, count if poolings else 0, 64):
        for pooling, rows in backbone.pooled_blocks(texts[start : start + 64], poolings, len(fields)).items():
            features[pooling].append(rows)
        tell(min(start + 64, count))
    joined = {pooling: np.concatenate(rows) for pooling, rows in features.items()}
    fitted = 3 * count // 4
    notes += [
        f"pooling {pooling} gives {rows.shape[2]:,} features: {fitted:,} states to fit are few, take a larger --count"
        for pooling, rows in joined.items()
        if rows.shape[2] > fitted
    ]
    lengths = backbone.token_counts(texts[:200])
    found, constant = scores(joined, states, [field.name for field in fields])
    return Reading(*names, kind, statistics.fmean(lengths), constant, notes, found)


def draw(
    environment: Environment,
    fields: Sequence[Field],
    kind: str,
    count: int,
    seed: int,
    tell: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """States [count, k], uniform in the bounds or visited by a random policy in consecutive episodes.

    The last quarter of the latter are from episodes of their own, so that no episode is in both the fit and the test.
    `tell` is called with the number of states visited.
    """
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(2)]
    if kind == "random":
        first = 3 * count // 4
        return np.concatenate(
            [
                _visited(environment, first, seeds[0], tell),
                _visited(environment, count - first, seeds[1], lambda done: tell(first + done)),
            ]
        )
    rng = np.random.default_rng(seeds[0])
    low = np.array([-UNBOUNDED if field.low is None else field.low for field in fields])
    high = np.array([UNBOUNDED if field.high is None else field.high for field in fields])
    if environment.observation_spec().discrete is not None:
        return rng.integers(low, high + 1, (count, 1)).astype(np.float32)
    return rng.uniform(low, high, (count, len(fields))).astype(np.float32)


def _visited(environment: Environment, count: int, seed: int, tell: Callable[[int], None]) -> np.ndarray:
    parts = environment.observation_spec().parts
    env = crashes.reporting(environment.make, environment.id, RANDOM_PLAY)()
    try:
        env.action_space.seed(seed)
        act = random_policy(env)
        states: list[np.ndarray] = []
        observation, _ = env.reset(seed=seed)
        while len(states) < count:
            states.append(numbers_of(observation, parts))
            tell(len(states))
            observation, _, terminated, truncated, _ = env.step(act(observation))
            if terminated or truncated:
                observation, _ = env.reset()
    finally:
        env.close()
    return np.array(states)


def scores(
    features: Mapping[str, np.ndarray], states: np.ndarray, names: Sequence[str]
) -> tuple[list[Score], list[str]]:
    """R² of states [n, k] from features [n, blocks, d] of each pooling; and the names of numbers that never vary.

    A number must vary among the first three quarters and among the rest: else R² means nothing.
    """
    cut = 3 * len(states) // 4
    varies = (np.ptp(states[:cut], axis=0) > 0) & (np.ptp(states[cut:], axis=0) > 0)
    constant = [name for name, moves in zip(names, varies, strict=True) if not moves]
    kept = [name for name, moves in zip(names, varies, strict=True) if moves]
    found = []
    for pooling, of_pooling in features.items() if kept else ():
        for block in range(of_pooling.shape[1]):
            values = r_squared(of_pooling[:, block], states[:, varies])
            found.append(Score(block + 1, pooling, dict(zip(kept, values.tolist(), strict=True))))
    return found, constant


def best(readings: Sequence[Reading]) -> tuple[Setting, Setting] | None:
    """The setting with the highest mean R² over all readings, and the one of fewest blocks that is nearly as good.

    Only settings that every reading with scores has count. None when there is none.
    """
    found: dict[tuple[int, str], list[float]] = {}
    scored = [reading for reading in readings if reading.scores]
    for reading in scored:
        for score in reading.scores:
            found.setdefault((score.block, score.pooling), []).append(score.mean)
    settings = [Setting(*key, statistics.fmean(v)) for key, v in found.items() if len(v) == len(scored)]
    if not settings:
        return None
    top = max(settings, key=lambda setting: setting.mean)
    near = [setting for setting in settings if setting.mean >= top.mean - NEARLY]
    return top, min(near, key=lambda setting: (setting.block, -setting.mean))


def as_dict(reading: Reading) -> dict[str, Any]:
    """A reading as plain data, with the mean and the worst of each score."""
    data = attrs.asdict(reading)
    for row, score in zip(data["scores"], reading.scores, strict=True):
        row |= {"mean": score.mean, "worst": score.worst}
    return data


def _check_memory(backbone: LanguageModel, poolings: Sequence[str], count: int, numbers: int) -> None:
    """Refuses what would not fit beside its copy in double precision."""
    states = sum(numbers if pooling == "field" else 1 for pooling in poolings)
    needed = 8 * count * backbone.engine.blocks * backbone.engine.width * states
    free = available_memory()
    if free is not None and needed > free:
        raise UsageError(
            f"the features of {count:,} states take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free: "
            "choose a smaller --count, --pooling mean alone, or fewer blocks (-o backbone.layers)"
        )

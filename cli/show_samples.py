"""How a state reads: `bitrl show serializer NAME --env E`.

Reads the starter model's vocabulary, not its weights.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

from bitrl.core.config import parse_assignments
from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.random_play import observations_of
from bitrl.core.errors import UsageError
from bitrl.core.options import parse
from bitrl.core.records import SerializerRecord

if TYPE_CHECKING:
    from bitrl.plugins.backbones.text_tokens import TextTokens

STATES = 100
"""How many states of random play are counted; the last of them is the one shown."""


@attrs.frozen
class Sample:
    """A state of an environment as a serializer writes it.

    Attributes:
        env: the environment.
        written: the text, or the vector's numbers.
        tokens: of that text; None for a vector.
        mean_tokens, most_tokens: of the texts of `STATES` states; None for vectors.
    """

    env: str
    written: str | list[float]
    tokens: int | None = None
    mean_tokens: float | None = None
    most_tokens: int | None = None

    def __str__(self) -> str:
        if not isinstance(self.written, str):
            numbers = " ".join(f"{number:.3f}" for number in self.written)
            return f"a state of {self.env} ({len(self.written)} numbers)\n  {numbers}"
        counted = f"mean {self.mean_tokens:.1f}, maximum {self.most_tokens} over {STATES} states of random play"
        text = textwrap.indent(self.written, "  ")
        tokens = f"{self.tokens} token{'' if self.tokens == 1 else 's'}"
        return f"a state of {self.env} ({tokens} for the starter model; {counted})\n{text}"


def sample(record: SerializerRecord, env: str, assignments: tuple[str, ...] = ()) -> Sample:
    """A state of `env`, visited in random play, as the serializer writes it; `assignments` as `-o` takes them.

    Raises:
        UsageError: an option is wrong or not the serializer's, there is no such environment, or the two do not fit.
    """
    values = parse_assignments(assignments)
    other = next((part for part in values if part != "serializer"), None)
    if other is not None:
        raise UsageError(f"-o {other}.…: only the serializer's own options change what it writes: -o serializer.…")
    typed = values.get("serializer", {})
    options: Any = parse(record.options, typed, "serializer", frozenset(typed))
    environment = load_environment(env)
    serializer = record.load()(options, environment.observation_spec())
    written = serializer.batch(observations_of(environment, STATES))
    if record.emits != "text":
        return Sample(env, written[-1].tolist())
    counts = _token_counts(written)
    return Sample(env, written[-1], counts[-1], statistics.fmean(counts), max(counts))


def _token_counts(texts: Sequence[str]) -> list[int]:
    return [len(ids) for ids in _starter_tokens().ids(texts)]


@cache
def _starter_tokens() -> TextTokens:
    from bitrl.plugins.backbones.files.model_file import ModelFile
    from bitrl.plugins.backbones.files.tokenizer import tokenizer_of
    from bitrl.plugins.backbones.language_model import starter_path
    from bitrl.plugins.backbones.text_tokens import TextTokens

    return TextTokens(tokenizer_of(ModelFile(starter_path())), ours=True)

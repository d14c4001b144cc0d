"""Checks of serializers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.c_agents import check_form
from bitrl.core.acting.contracts import array_fault, is_unicode
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.random_play import observations_of
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import LearningSerializer, ObservationSpec, PortableSerializer, Serializer
from bitrl.core.options import parse
from bitrl.core.records import SerializerRecord
from bitrl.testing.outcomes import Check, Outcome, demand, examine, expect, run_checks
from bitrl.testing.record_checks import RECORD_CHECKS, resolve
from bitrl.testing.saved_arrays import expect_copies, expect_loads_copies, from_checkpoint

ENVIRONMENTS = ("CartPole-v1", "FrozenLake-v1")
"""Where a serializer is tried if no environment is named: Box and Discrete observations."""

OTHERWISE = ("BabyAI-GoToRedBall-v0",)
"""Where it is tried if it refuses all of those: a grid."""


@attrs.frozen
class SerializerCase:
    """A serializer made for one environment, and observations [n, ...] from there."""

    record: SerializerRecord
    options: Any
    spec: ObservationSpec
    observations: np.ndarray
    serializer: Any

    def another(self) -> Any:
        """Another serializer made with the same arguments."""
        return self.record.load()(self.options, self.spec)


def check_serializer(component: str | SerializerRecord, *, env: str | None = None, **options: Any) -> None:
    """Check a serializer, by name or by record.

    Args:
        component: its name as `bitrl list` prints it, or a record that need not be installed.
        env: the environment it must be able to write down; None: CartPole-v1 and FrozenLake-v1, of which it may refuse
            one (with a UsageError).
        options: of the serializer.

    Raises:
        ConformanceError: the contract is broken; one line for each check that failed.
    """
    record = resolve(SerializerRecord, component)
    demand(serializer_outcomes(record, (env,) if env is not None else ENVIRONMENTS, **options))


def serializer_outcomes(
    record: SerializerRecord, envs: Sequence[str | Environment], **options: Any
) -> Iterator[Outcome]:
    """The outcome of every check, in the environments that the serializer does not refuse."""
    component = f'serializer "{record.name}"'

    def cases() -> list[SerializerCase]:
        """Its target makes it from its options and an ObservationSpec."""
        values: Any = parse(record.options, options, "serializer")
        made: list[SerializerCase] = []
        refusals = []
        for env in (*envs, *(OTHERWISE if all(each in envs for each in ENVIRONMENTS) else ())):
            if made and env in OTHERWISE:
                break
            environment = load_environment(env) if isinstance(env, str) else env
            spec = environment.observation_spec()
            try:
                serializer = record.load()(values, spec)
                observations = observations_of(environment)
            except UsageError as error:
                refusals.append(error)
                continue
            made.append(SerializerCase(record, values, spec, observations, serializer))
        if not made:
            raise refusals[0]
        return made

    yield from run_checks(component, record, RECORD_CHECKS)
    yield from examine(component, cases, CHECKS)


def has_the_interface(cases: list[SerializerCase]) -> None:
    """It can be called with one observation and has batch(), and a width if it emits vectors."""
    for case in cases:
        expect(isinstance(case.serializer, Serializer), "it must have __call__(observation) and batch(observations)")
        if case.record.emits == "vector":
            width = getattr(case.serializer, "width", None)
            expect(isinstance(width, int) and width > 0, f"width must be an integer above 0, got {width!r}")


def says_whether_it_learns(cases: list[SerializerCase]) -> None:
    """It has both state() and load_state() if its record says `learns`, and neither if not."""
    for case in cases:
        has = [name for name in ("state", "load_state") if callable(getattr(case.serializer, name, None))]
        if len(has) == 1:
            [missing] = {"state", "load_state"} - {*has}
            expect(False, f"it has {has[0]}(), but no {missing}(): what it learned cannot be saved and restored")
        expect(has or not case.record.learns, "its record says learns=True, but it has no state() and no load_state()")
        expect(case.record.learns or not has, "it has state() and load_state(): its record must say learns=True")


def saves_what_it_learned(cases: list[SerializerCase]) -> None:
    """If it learns, load_state(state()) restores what it learned, and both copy the arrays."""
    for case in cases:
        if not isinstance(case.serializer, LearningSerializer) or not case.record.learns:
            continue
        learned = from_checkpoint(case.serializer.state(), "state()")
        written = case.serializer.batch(case.observations)
        expect_copies(case.serializer.state, "state()")
        other = case.another()
        expect_loads_copies(other.load_state, other.state, learned, "load_state()")
        for serializer in (case.serializer, other):
            expect(
                _same(written, serializer.batch(case.observations)),
                "its output changes after load_state(state()), or when the arrays of state() are modified",
            )


def emits_what_its_record_says(cases: list[SerializerCase]) -> None:
    """An observation becomes a non-empty string, or a float32 vector [width]."""
    for case in cases:
        written = case.serializer(case.observations[0])
        if case.record.emits == "text":
            expect(isinstance(written, str), f"expected a str, got {type(written).__name__}")
            expect(written.strip(), "the text is empty")
            expect(is_unicode(written), "the text holds half of a surrogate pair, which is not Unicode text")
        else:
            _expect_vectors(written, (case.serializer.width,))


def writes_a_batch_as_one_by_one(cases: list[SerializerCase]) -> None:
    """batch(observations) equals one call per observation."""
    for case in cases:
        batch = case.serializer.batch(case.observations)
        single = [case.serializer(observation) for observation in case.observations]
        if case.record.emits == "text":
            expect(isinstance(batch, list), f"batch() must return a list of str, got {type(batch).__name__}")
            expect(len(batch) == len(single), f"batch() of {len(single)} observations returned {len(batch)} texts")
            for index, (together, alone) in enumerate(zip(batch, single, strict=True)):
                expect(together == alone, f"observation {index} is {together!r} in a batch and {alone!r} alone")
        else:
            _expect_vectors(batch, (len(single), case.serializer.width))
            expect(
                np.array_equal(batch, np.stack(single)),
                "the vectors of a batch differ from those of single observations",
            )


def is_a_function_of_the_observation(cases: list[SerializerCase]) -> None:
    """The output depends on the observation and the options alone."""
    for case in cases:
        first = case.serializer.batch(case.observations)
        backwards = case.serializer.batch(case.observations[::-1])[::-1]
        expect(
            _same(first, case.serializer.batch(case.observations)),
            "a second call with the same observations gives a different output",
        )
        expect(_same(first, backwards), "the output for an observation depends on those before it")
        expect(
            _same(first, case.another().batch(case.observations)),
            "another object with the same options gives a different output",
        )


def leaves_its_input_alone(cases: list[SerializerCase]) -> None:
    """It does not modify its observations."""
    for case in cases:
        given = case.observations.copy()
        case.serializer.batch(given)
        expect(np.array_equal(given, case.observations), "batch() changed its observations")
        case.serializer(given[0])
        expect(np.array_equal(given, case.observations), "a call changed its observation")


def _expect_vectors(vectors: Any, shape: tuple[int, ...]) -> None:
    expect(not array_fault(vectors), f"expected a float32 array, got {type(vectors).__name__}")
    expect(vectors.dtype == np.float32, f"expected float32, got {vectors.dtype}")
    expect(vectors.shape == shape, f"expected shape {list(shape)}, got {list(vectors.shape)}")
    expect(np.isfinite(vectors).all(), "the numbers are not all finite")


def _same(left: Any, right: Any) -> bool:
    return np.array_equal(np.asarray(left), np.asarray(right))


def writes_by_its_form(cases: list[SerializerCase]) -> None:
    """If it has form(), which may refuse, each observation is written as that says, by which agents in C write."""
    for case in cases:
        if isinstance(case.serializer, PortableSerializer):
            try:
                form = case.serializer.form()
            except UsageError:  # in its words, as for observations with texts
                continue
            for observation in case.observations:
                check_form("it", form, case.serializer, case.spec, observation)


CHECKS: tuple[Check[list[SerializerCase]], ...] = (
    has_the_interface,
    says_whether_it_learns,
    emits_what_its_record_says,
    writes_a_batch_as_one_by_one,
    is_a_function_of_the_observation,
    leaves_its_input_alone,
    saves_what_it_learned,
    writes_by_its_form,
)
